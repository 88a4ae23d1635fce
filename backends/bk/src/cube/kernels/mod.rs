//! CubeCL kernels, one source for every runtime.
//!
//! One unit walks one chunk of one sequence, a sequence being the positions of one (batch row, head) pair: unit
//! `(batch * chunks + chunk) * heads + head`, so that neighbouring units read and write neighbouring heads. The value that
//! enters a chunk comes from a buffer `[batch, chunks, 2 * heads]`; with a single chunk that is the state of the sequence.
//!
//! Loads of a few positions are issued together, ahead of the recurrence that waits for them. No kernel binds more than
//! seven buffers, which with CubeCL's own one stays within the eight that every WebGPU device has; but for those in one pass
//! (`left_one_pass`, `left_grad_one_pass`), in which a cube works on a tile, and which bind up to twelve.

#![allow(
    clippy::too_many_arguments,
    clippy::manual_is_multiple_of,
    reason = "every buffer of a kernel is an argument, and the kernel language has operators only"
)]

mod diagonal_grad;
mod gates;
mod left_grad;
mod left_grad_one_pass;
mod left_one_pass;
mod look_back;
mod scan;
mod solve;
mod sums;
mod values;

use burn_cubecl::cubecl;
use cubecl::prelude::*;

pub use self::{
    diagonal_grad::diagonal_adjoint,
    gates::{log_kept, log_kept_adjoint},
    left_grad::left_adjoint,
    left_grad_one_pass::{WORDS as ADJOINT_WORDS, left_adjoint_look_back},
    left_one_pass::{WORDS as LEFT_WORDS, left_look_back},
    look_back::{Born, GridLaunch, TICKET_WORDS, Tiling},
    scan::{compose, descend, diagonal_adjoint_maps, left_adjoint_maps, sweep_maps},
    solve::{ColumnDimsLaunch, eliminate, products, substitute},
    sums::sum_rows,
    values::{diagonal, sweep},
};

/// Positions whose potentials are loaded together.
const TILE: usize = 8;
/// The same where a position needs several numbers.
const WIDE_TILE: usize = 4;

/// The dimensions of a launch: what a unit walks is `seq` elements long, in `chunks` pieces of `chunk` (the last shorter).
#[derive(CubeLaunch, CubeType)]
pub struct Dims {
    seq: usize,
    heads: usize,
    chunks: usize,
    chunk: usize,
    units: usize,
}

/// A unit's share of the work.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Unit {
    head: usize,
    heads: usize,
    /// Row of per-chunk buffers.
    row: usize,
    chunk: usize,
    batch: usize,
    /// Row of per-position buffers where the chunk starts.
    first: usize,
    count: usize,
    first_of_batch: usize,
    last_of_batch: usize,
}

#[cube]
impl Unit {
    fn of(dims: &Dims) -> Unit {
        let head = ABSOLUTE_POS % dims.heads;
        let row = ABSOLUTE_POS / dims.heads;
        let batch = row / dims.chunks;
        let chunk = row % dims.chunks;
        let start = chunk * dims.chunk;
        Unit {
            head,
            heads: dims.heads,
            row,
            chunk,
            batch,
            first: batch * dims.seq + start,
            count: min(dims.chunk, dims.seq - start),
            first_of_batch: batch * dims.seq,
            last_of_batch: (batch + 1) * dims.seq - 1,
        }
    }

    /// The row of step `i` of the walk; past the end, that of the last step.
    fn step(self, i: usize, #[comptime] reverse: bool) -> usize {
        let i = min(i, self.count - 1);
        if comptime!(reverse) {
            self.first + self.count - 1 - i
        } else {
            self.first + i
        }
    }
}

#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Complex {
    re: f32,
    im: f32,
}

#[cube]
impl Complex {
    fn new(re: f32, im: f32) -> Complex {
        Complex { re, im }
    }

    /// Row `row` of a buffer `[rows, 2 * heads]`.
    fn load(source: &[f32], row: usize, unit: Unit) -> Complex {
        Complex::load_part(source, row, unit, 0usize, 1usize)
    }

    /// Number `part` of a row that holds `parts` of them for every head.
    fn load_part(
        source: &[f32],
        row: usize,
        unit: Unit,
        #[comptime] part: usize,
        #[comptime] parts: usize,
    ) -> Complex {
        let at = (row * comptime!(2 * parts) + comptime!(2 * part)) * unit.heads + unit.head;
        Complex {
            re: source[at],
            im: source[at + unit.heads],
        }
    }

    fn store(self, target: &mut [f32], row: usize, unit: Unit) {
        self.store_part(target, row, unit, 0usize, 1usize);
    }

    fn store_part(
        self,
        target: &mut [f32],
        row: usize,
        unit: Unit,
        #[comptime] part: usize,
        #[comptime] parts: usize,
    ) {
        let at = (row * comptime!(2 * parts) + comptime!(2 * part)) * unit.heads + unit.head;
        target[at] = self.re;
        target[at + unit.heads] = self.im;
    }

    fn add(self, other: Complex) -> Complex {
        Complex {
            re: self.re + other.re,
            im: self.im + other.im,
        }
    }

    fn scale(self, factor: f32) -> Complex {
        Complex {
            re: self.re * factor,
            im: self.im * factor,
        }
    }

    fn mul(self, other: Complex) -> Complex {
        Complex {
            re: self.re * other.re - self.im * other.im,
            im: self.re * other.im + self.im * other.re,
        }
    }

    fn conj(self) -> Complex {
        Complex {
            re: self.re,
            im: -self.im,
        }
    }

    fn zero() -> Complex {
        Complex {
            re: 0.0f32,
            im: 0.0f32,
        }
    }

    /// The other where the condition holds.
    fn or(self, other: Complex, condition: bool) -> Complex {
        Complex {
            re: select(condition, other.re, self.re),
            im: select(condition, other.im, self.im),
        }
    }

    fn set(&mut self, value: Complex) {
        self.re = value.re;
        self.im = value.im;
    }

    fn square(self) -> Complex {
        Complex {
            re: self.re * self.re - self.im * self.im,
            im: 2.0f32 * self.re * self.im,
        }
    }

    fn norm(self) -> f32 {
        self.re * self.re + self.im * self.im
    }

    fn size(self) -> f32 {
        self.re.abs() + self.im.abs()
    }

    fn over(self, divisor: Complex) -> Complex {
        let q = 1.0f32 / divisor.norm();
        Complex {
            re: (self.re * divisor.re + self.im * divisor.im) * q,
            im: (self.im * divisor.re - self.re * divisor.im) * q,
        }
    }
}

/// Hopping and energy of a head.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Medium {
    beta: f32,
    z: Complex,
}

#[cube]
impl Medium {
    fn load(hopping: &[f32], energy: &[f32], unit: Unit) -> Medium {
        Medium {
            beta: hopping[unit.head],
            z: Complex::load(energy, 0usize, unit),
        }
    }

    /// `1 / (a - z - beta x)`
    fn resolvent(self, a: f32, x: Complex) -> Complex {
        let re = a - self.z.re - self.beta * x.re;
        let im = self.z.im + self.beta * x.im; // of the conjugate
        let q = 1.0f32 / (re * re + im * im);
        Complex {
            re: re * q,
            im: im * q,
        }
    }
}
