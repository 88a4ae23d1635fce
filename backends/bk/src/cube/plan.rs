//! Splitting sequences into chunks, so that a device with many units has work for all of them.

use super::kernels::{TICKET_WORDS, Tiling};

/// Most heads of a tile: a row of them is 128 bytes, what a warp reads at once.
const MAX_LANES: usize = 32;
/// Positions of a unit in a tile.
const COUNT: usize = 16;
/// Positions up to which a sequence is walked by one unit.
const SHORT: usize = 16;
/// Rows of tiles from which on small tiles keep a device busy.
const MANY_ROWS: usize = 256;
/// Units per processor of the device from which on its memory is kept busy.
const UNITS_PER_PROCESSOR: usize = 512;
/// Processors of a device that does not say how many it has.
const USUAL_PROCESSORS: usize = 64;
/// Below this many positions a chunk is not worth the passes that find what enters it.
const MIN_CHUNK: usize = 64;

/// How a CubeCL backend computes the operations.
///
/// The operations choose for themselves; tests and benchmarks compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// `Sequential` where sequences are many or short, else `Chunked`.
    #[default]
    Auto,
    /// No kernels: [`reference`](mod@crate::reference) and [`adjoint`](crate::adjoint), position by position.
    Reference,
    /// One unit walks one sequence from end to end.
    Sequential,
    /// One unit walks one chunk of a sequence, once to summarise it as a map and once to compute, with a scan over the
    /// maps in between.
    Chunked {
        /// Positions in a chunk, at least one.
        chunk: usize,
    },
    /// One cube computes one tile of a few neighbouring sequences in one pass over memory, and looks back over the tiles
    /// before it for what enters. `left` only, `diagonal` takes `Auto`. Results repeat to a rounding: which earlier tile the
    /// look-back ends at is a matter of time. Panics on devices whose cubes do not see each other's writes, and for a
    /// division that no cube holds.
    LookBack {
        /// Neighbouring heads of a cube, a power of two; no more than the problem's heads, rounded up to one.
        lanes: usize,
        /// Units of a cube that share a sequence, a power of two.
        subs: usize,
        /// Positions of a unit.
        count: usize,
    },
}

/// A problem and its division: `chunks` pieces of `chunk` positions, the last one shorter but never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub batch: usize,
    pub seq: usize,
    pub heads: usize,
    pub chunk: usize,
    pub chunks: usize,
}

impl Plan {
    /// None where no kernels are wanted. `processors`: of the device, if it knows.
    pub fn new(
        strategy: Strategy,
        [batch, seq, heads]: [usize; 3],
        processors: Option<u32>,
    ) -> Option<Self> {
        let chunk = match strategy {
            Strategy::Reference => return None,
            Strategy::Sequential => seq,
            Strategy::Chunked { chunk } => chunk.clamp(1, seq),
            Strategy::Auto | Strategy::LookBack { .. } => {
                let processors = processors.map_or(USUAL_PROCESSORS, |count| count as usize);
                let wanted = (processors * UNITS_PER_PROCESSOR).div_ceil(batch * heads);
                seq.div_ceil(wanted).max(MIN_CHUNK).min(seq)
            }
        };
        Some(Self::cut([batch, seq, heads], chunk))
    }

    pub fn cut([batch, seq, heads]: [usize; 3], chunk: usize) -> Self {
        Self {
            batch,
            seq,
            heads,
            chunk,
            chunks: seq.div_ceil(chunk),
        }
    }

    /// Rows of per-chunk buffers.
    pub fn rows(self) -> usize {
        self.batch * self.chunks
    }

    pub fn units(self) -> usize {
        self.rows() * self.heads
    }
}

/// Which way a sequence is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Forward,
    Backward,
}

/// A problem and its division into tiles of `tiling.positions()` positions of `tiling.lanes` heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiles {
    pub batch: usize,
    pub seq: usize,
    pub heads: usize,
    pub tiling: Tiling,
    /// Blocks of lanes.
    pub blocks: usize,
    /// Tiles of a sequence.
    pub tiles: usize,
}

impl Tiles {
    pub fn new([batch, seq, heads]: [usize; 3], [lanes, subs, count]: [usize; 3]) -> Self {
        let lanes = heads.next_power_of_two().min(lanes);
        let tiles = seq.div_ceil(subs * count);
        Self {
            batch,
            seq,
            heads,
            tiling: Tiling {
                lanes,
                subs,
                count,
                whole: tiles == 1,
            },
            blocks: heads.div_ceil(lanes),
            tiles,
        }
    }

    /// The division that was fastest on a Hopper GPU; none where sequences are so short that one unit walks each.
    pub fn auto(shape: [usize; 3], pass: Pass) -> Option<Self> {
        let [batch, seq, _] = shape;
        if seq <= SHORT {
            return None;
        }
        let one = Self::new(shape, [MAX_LANES, 8, COUNT]);
        let subs = match pass {
            _ if batch * one.blocks >= MANY_ROWS => 8,
            Pass::Forward => 16,
            // Carries have farther to go than values, whose maps forget sooner: larger tiles.
            Pass::Backward => 512 / one.tiling.lanes.max(16),
        };
        // No more units than a sequence has positions for.
        let enough = seq.div_ceil(COUNT).next_power_of_two();
        Some(Self::new(shape, [MAX_LANES, subs.min(enough), COUNT]))
    }

    pub fn total(self) -> usize {
        self.batch * self.blocks * self.tiles
    }

    /// Words of a board with `words` for every tile and lane, and a counter for every block of lanes.
    pub fn board(self, words: usize) -> usize {
        TICKET_WORDS + self.total() * words * self.tiling.lanes + self.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(strategy: Strategy, shape: [usize; 3]) -> (usize, usize) {
        let plan = Plan::new(strategy, shape, Some(100)).expect("kernels");
        (plan.chunk, plan.chunks)
    }

    #[test]
    fn many_or_short_sequences_stay_whole() {
        assert_eq!(chunk(Strategy::Auto, [64, 1024, 800]), (1024, 1));
        assert_eq!(chunk(Strategy::Auto, [1, MIN_CHUNK, 1]), (MIN_CHUNK, 1));
        assert_eq!(chunk(Strategy::Auto, [1, 1, 1]), (1, 1));
    }

    #[test]
    fn few_long_sequences_are_cut() {
        assert_eq!(chunk(Strategy::Auto, [1, 1_048_576, 16]), (328, 3197));
        assert_eq!(chunk(Strategy::Auto, [1, 65, 1]), (64, 2));
    }

    #[test]
    fn tiles_cover_their_problem() {
        for shape in [[16, 1024, 768], [1, 1_048_576, 16], [2, 100, 3], [1, 17, 1]] {
            for pass in [Pass::Forward, Pass::Backward] {
                let tiles = Tiles::auto(shape, pass).expect("long enough");
                let Tiling { lanes, subs, .. } = tiles.tiling;
                assert!(lanes * subs <= 1024 && subs.is_power_of_two(), "{tiles:?}");
                let covered = tiles.tiles * tiles.tiling.positions();
                assert!(covered >= shape[1], "{tiles:?}");
                assert!(covered - shape[1] < tiles.tiling.positions(), "{tiles:?}");
                assert!(tiles.blocks * lanes >= shape[2], "{tiles:?}");
                assert_eq!(tiles.tiling.whole, tiles.tiles == 1);
            }
        }
        assert_eq!(Tiles::auto([64, SHORT, 8], Pass::Forward), None);
    }

    #[test]
    fn forced_strategies_are_taken_at_their_word() {
        assert_eq!(chunk(Strategy::Sequential, [1, 4096, 1]), (4096, 1));
        assert_eq!(chunk(Strategy::Chunked { chunk: 7 }, [800, 15, 64]), (7, 3));
        assert_eq!(chunk(Strategy::Chunked { chunk: 0 }, [1, 3, 1]), (1, 3));
        assert_eq!(chunk(Strategy::Chunked { chunk: 9 }, [1, 3, 1]), (3, 1));
        assert_eq!(Plan::new(Strategy::Reference, [1, 3, 1], None), None);
    }
}
