//! One pass over a long sequence: every cube takes a tile of it, and looks back for what enters.
//!
//! A tile is `subs * count` positions of `lanes` neighbouring heads, `count` of them in the registers of each unit: memory is
//! read once and written once. A unit composes the map of its own positions, the cube scans the maps of its units, and
//! publishes the whole tile's map. What enters a tile is then found by walking back over the maps of earlier tiles (Merrill
//! and Garland, "Single-pass parallel prefix scan with decoupled look-back", 2016) until
//! - a tile has published the value that leaves it, or
//! - the composed map is constant to rounding. Resolvents forget: the map of a tile contracts the upper half plane, mostly to
//!   a point, so the walk nearly always ends at the first step and tiles hardly wait for one another.
//!
//! Tiles are taken by ticket, so that a cube waits only for cubes that have started; the words of the board are each complete
//! by themselves (zero is "not yet"), so that no order between them is needed.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// Words of the board before the tiles': the ticket.
pub const TICKET_WORDS: usize = 1;

/// The dimensions of a launch.
#[derive(CubeLaunch, CubeType)]
pub struct Grid {
    pub seq: usize,
    pub heads: usize,
    /// Blocks of `lanes` heads.
    pub blocks: usize,
    /// Tiles of a sequence.
    pub tiles: usize,
    /// Tiles in all: `batch * blocks * tiles`.
    pub total: usize,
}

/// What is fixed when a kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tiling {
    /// Neighbouring heads that a cube works on.
    pub lanes: usize,
    /// Units of one head, each with its own positions.
    pub subs: usize,
    /// Positions of a unit.
    pub count: usize,
    /// Whether a tile holds a whole sequence, so that nothing is looked up.
    pub whole: bool,
}

/// What kernels of `left` compute besides: the gates of resolvent attention. Nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Born {
    /// Whether the gates are computed, backward from their gradient alone.
    pub gates: bool,
    /// Whether potentials are kept within a bound.
    pub bounded: bool,
    /// Whether nothing enters, and no state is read.
    pub fresh: bool,
}

impl Tiling {
    pub fn units(self) -> usize {
        self.lanes * self.subs
    }

    pub fn positions(self) -> usize {
        self.subs * self.count
    }
}

/// A unit's share of the work. `first` counts along the walk, which the backward pass walks from the end.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Share {
    pub(super) batch: usize,
    pub(super) tile: usize,
    pub(super) block: usize,
    pub(super) lane: usize,
    pub(super) sub: usize,
    /// The head, or the last one where the block has lanes to spare.
    pub(super) head: usize,
    /// Whether the lane has a head of its own.
    pub(super) active: bool,
    /// Position of the walk that this unit starts at.
    pub(super) first: usize,
    /// The tile's number on the board.
    pub(super) slot: usize,
    /// Whether there is a tile at all: grids are rounded up.
    pub(super) exists: bool,
}

/// Takes the next tile. Tiles of one sequence are far apart in this order, so that the one before is usually done.
#[cube]
pub(super) fn take(board: &[Atomic<u32>], grid: &Grid, #[comptime] tiling: Tiling) -> Share {
    let mut turn = CUBE_POS;
    if comptime!(!tiling.whole) {
        let mut ticket = Shared::<[u32]>::new_slice(1usize);
        if UNIT_POS == 0 {
            ticket[0] = board[0].fetch_add(1u32);
        }
        sync_cube();
        turn = ticket[0] as usize;
    }
    let rows = grid.total / grid.tiles;
    let tile = turn / rows;
    let row = turn % rows;
    let block = row % grid.blocks;
    let lane = UNIT_POS as usize % tiling.lanes;
    let sub = UNIT_POS as usize / tiling.lanes;
    let head = block * tiling.lanes + lane;
    Share {
        batch: row / grid.blocks,
        tile,
        block,
        lane,
        sub,
        head: min(head, grid.heads - 1),
        active: head < grid.heads,
        first: tile * comptime!(tiling.positions()) + sub * tiling.count,
        slot: row * grid.tiles + tile,
        exists: turn < grid.total,
    }
}

/// Where word `word` of a tile and lane stands on the board.
#[cube]
pub(super) fn place(
    slot: usize,
    lane: usize,
    word: usize,
    #[comptime] words: usize,
    #[comptime] tiling: Tiling,
) -> usize {
    comptime!(TICKET_WORDS) + (slot * words + word) * tiling.lanes + lane
}

/// Publishes a number: its bits inverted, so that zero means "not yet". The one number without a word of its own is a NaN of
/// unusual payload, which becomes the usual one.
#[cube]
pub(super) fn publish(board: &[Atomic<u32>], at: usize, x: f32) {
    let word = !u32::reinterpret(x);
    board[at].store(select(word == 0u32, 0x803F_FFFFu32, word));
}

/// A published word, or zero.
#[cube]
pub(super) fn peek(board: &[Atomic<u32>], at: usize) -> u32 {
    board[at].load()
}

/// The number of a word that is not zero.
#[cube]
pub(super) fn number(word: u32) -> f32 {
    f32::reinterpret(!word)
}
