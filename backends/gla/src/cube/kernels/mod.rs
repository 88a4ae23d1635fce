//! CubeCL kernels of the chunk-wise form, whose inner products run on matrix units (Tensor Cores and their like).
//!
//! A cube of [`UNITS`] units works on one chunk of [`CHUNK`] positions of one (batch row, head) pair; cubes of neighbouring
//! heads are neighbours, so that they read neighbouring memory. Four kernels make a pass over the sequence:
//! - `write_states`: what each chunk adds to the state (backward: to the state's gradient);
//! - `carry_states`: the recurrence over chunks, one unit for four entries of a state;
//! - `chunk_output`, or `chunk_gradient`: everything else of a chunk, given the state before it (backward: and the gradient
//!   of the one after it).
//!
//! Operands are tiles in shared memory: `bf16` as they come, `f32` rounded to TF32. Accumulators are single precision. Two planes
//! own a band of 16 positions from the scores to the output, one half of the columns each: what one instruction waits for is long here,
//! and shared memory, which is per cube, is what limits how many planes a processor has to choose from.

#![allow(
    clippy::too_many_arguments,
    clippy::manual_is_multiple_of,
    reason = "every buffer of a kernel is an argument, and the kernel language has operators only"
)]

mod band;
mod carry;
mod gates;
mod gradient;
mod output;
mod paths;
mod product;
mod tile;
mod written;

use burn_cubecl::cubecl;
use cubecl::prelude::*;

pub use self::{
    carry::carry_states, gradient::chunk_gradient, output::chunk_output, written::write_states,
};

/// Positions of a chunk.
pub const CHUNK: usize = 64;
/// Units of a cube: [`PLANES`] planes of 32.
pub const UNITS: usize = PLANES * PLANE;
/// Planes of a cube: [`HALVES`] for every band of 16 positions.
pub const PLANES: usize = BANDS * HALVES;
/// Bands of a chunk.
const BANDS: usize = CHUNK / SIDE;
/// Planes of a band, which share out its columns.
const HALVES: usize = 2;
/// Units of a plane.
pub const PLANE: usize = 32;
/// Rows and columns that one instruction multiplies.
pub const SIDE: usize = 16;
/// Single-precision numbers that a unit reads and writes at once: 16 bytes.
pub const FOUR: usize = 4;
/// Numbers by which rows of a stage are longer than they need to be: 16 bytes, so that rows start in different banks.
const PAD_SINGLE: usize = 4;

/// Widths that the kernels are compiled for, and the operands of their products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Format {
    /// 32, 64 or 128.
    pub d_key: usize,
    /// 32, 64 or 128.
    pub d_value: usize,
    /// Bytes of an operand: 2 of `bf16`, 4 of TF32.
    pub operand: usize,
    /// Whether a key is written by the share that its gate forgets, `1 - a`, rather than whole.
    pub forgotten: bool,
}

impl Format {
    /// Operands that a unit reads and writes at once, and by which rows of a tile are longer than they need to be: 16 bytes.
    pub fn wide(self) -> usize {
        16 / self.operand
    }

    /// Numbers of a row and a column that one instruction multiplies and adds up: 16 of `bf16`, 8 of TF32.
    pub fn depth(self) -> usize {
        32 / self.operand
    }

    /// Numbers from one row of a tile to the next.
    fn stride(self, width: usize) -> usize {
        width + self.wide()
    }

    /// The longest row that a cube stages in single precision.
    fn stage(self) -> usize {
        CHUNK.max(self.d_key).max(self.d_value) + PAD_SINGLE
    }

    /// Numbers of a state.
    fn state(self) -> usize {
        self.d_key * self.d_value
    }

    /// Bytes of shared memory that `chunk_gradient`, which needs the most, takes.
    pub fn shared_bytes(self) -> usize {
        let [key, value, chunk] = [self.d_key, self.d_value, CHUNK].map(|x| self.stride(x));
        let tiles = 2 * CHUNK * (key + value + chunk) + 2 * self.d_key * value;
        // The stage, sums of gates in two parts, what they forget, what crosses them, three dot products a position in the halves of a
        // row, and one number a plane.
        let single = CHUNK * self.stage() + 4 * CHUNK + 3 * HALVES * CHUNK + PLANES;
        self.operand * tiles + size_of::<f32>() * single
    }
}

/// Numbers in shared memory, which can be read one at a time, or four that lie beside each other.
type Numbers = Shared<[Vector<f32, Const<1>>]>;

/// The dimensions of a launch.
#[derive(CubeLaunch, CubeType)]
pub struct Dims {
    pub seq: usize,
    pub heads: usize,
    pub chunks: usize,
    /// Chunks of all heads and batch rows.
    pub total: usize,
}

/// Which chunk a cube works on.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Place {
    exists: bool,
    head: usize,
    heads: usize,
    chunk: usize,
    /// Row of the state's buffers: `batch * heads + head`.
    row: usize,
    /// Row of `[batch * seq]` where the chunk starts.
    first: usize,
    /// Positions of the chunk that the sequence has.
    len: usize,
}

/// First row of a plane's band.
#[cube]
fn band_row() -> usize {
    PLANE_POS as usize / HALVES * SIDE
}

/// A plane's half of a band's columns.
#[cube]
fn half() -> usize {
    PLANE_POS as usize % HALVES
}

#[cube]
impl Place {
    fn of(dims: &Dims) -> Place {
        let head = CUBE_POS % dims.heads;
        let rest = CUBE_POS / dims.heads;
        let chunk = rest % dims.chunks;
        let batch = rest / dims.chunks;
        let start = chunk * CHUNK;
        Place {
            exists: CUBE_POS < dims.total,
            head,
            heads: dims.heads,
            chunk,
            row: batch * dims.heads + head,
            first: batch * dims.seq + start,
            len: min(dims.seq - start, CHUNK),
        }
    }
}
