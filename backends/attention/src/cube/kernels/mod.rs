//! CubeCL kernels on matrix units that multiply 16x8x16 from registers.
//!
//! A cube of four planes owns 64 or 128 rows of one head of one sequence, one or two bands of 16 for each plane: queries in `attend`
//! and `query_gradient`, keys in `key_gradient`. It goes over the blocks of the other side, which pass through shared memory. Scores
//! stay in registers: the layout in which the units leave a product's 16x8 squares is that in which they take two of them as the
//! left operand of the next.
//!
//! ```text
//! unit u of a plane holds of a square   rows u / 4 and u / 4 + 8, columns 2 (u % 4) and the next
//! ```

#![allow(
    clippy::too_many_arguments,
    clippy::manual_is_multiple_of,
    reason = "every buffer of a kernel is an argument, and the kernel language has operators only"
)]

mod backward;
mod deltas;
mod dropout;
mod forward;
mod place;
mod product;
mod tile;

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use crate::backend::Heads;

pub use self::{
    backward::{key_gradient, query_gradient},
    deltas::row_products,
    forward::attend,
};

/// Units of a plane.
pub const PLANE: usize = 32;
/// Rows that a plane owns: those of one instruction.
const SIDE: usize = 16;
/// Columns of one instruction.
const SQUARE: usize = 8;
/// Squares whose dropout one draw decides, of a band of queries: 32 keys.
const GROUP: usize = 4;
/// Planes of a cube.
const PLANES: usize = 4;
/// Units of a cube.
pub const UNITS: usize = PLANES * PLANE;
/// Operands that a unit copies at once: 16 bytes.
pub const WIDE: usize = 8;
/// Stands for minus infinity among scores: its exponential is zero, and differences of it are numbers.
const NEVER: f32 = -1.0e30;

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    /// 32, 64 or 128.
    pub d_head: usize,
    /// Whether queries see only keys that are not after them.
    pub causal: bool,
    /// Of 65,536 weights, how many are dropped.
    pub dropped: u16,
    /// Bands of 16 rows that a plane owns: with two, what it reads of the other side is used twice.
    bands: usize,
    /// Rows of the other side that pass at once.
    passing: usize,
    /// Whether the next of them are on their way, in registers, while a block is worked on.
    ahead: bool,
}

impl Format {
    /// For `attend`. The figures of this and the next were the fastest of three to six on an H100; more rows, or rows fetched ahead,
    /// take registers that wide heads and dropout need.
    pub fn forward(d_head: usize, heads: Heads) -> Self {
        let drops = heads.dropped > 0;
        Self {
            d_head,
            causal: heads.causal,
            dropped: heads.dropped,
            bands: if d_head > 64 && drops { 1 } else { 2 },
            passing: if d_head == 64 && !drops { 64 } else { 32 },
            ahead: d_head <= 64,
        }
    }

    /// For `query_gradient` and `key_gradient`, whose registers hold two sets of scores, and the latter's two results.
    pub fn gradient(d_head: usize, heads: Heads) -> Self {
        let (bands, passing) = if d_head > 64 { (1, 64) } else { (2, 32) };
        Self {
            d_head,
            causal: heads.causal,
            dropped: heads.dropped,
            bands,
            passing,
            ahead: d_head <= 64,
        }
    }

    /// Rows that a cube owns.
    pub fn rows(self) -> usize {
        PLANES * self.bands * SIDE
    }

    /// Groups of [`WIDE`] numbers of a row.
    pub fn lines(self) -> usize {
        self.d_head / WIDE
    }

    /// Groups from one row of a tile to the next: one more than needed, so that rows start in different banks.
    fn stride(self) -> usize {
        self.lines() + 1
    }

    /// Bytes of shared memory that a kernel takes at most: two tiles of its own rows, two of those that pass, two rows of sums.
    pub fn shared_bytes(self) -> usize {
        let tiles = 2 * (self.rows() + self.passing) * self.stride() * WIDE;
        2 * tiles + 2 * self.passing * size_of::<f32>()
    }
}

/// The dimensions of a launch.
#[derive(CubeLaunch, CubeType)]
pub struct Dims {
    pub seq: usize,
    pub heads: usize,
    /// Blocks of a cube's rows in a sequence.
    pub blocks: usize,
    /// Blocks of all heads and sequences.
    pub total: usize,
}
