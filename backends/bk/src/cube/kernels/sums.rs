//! Sums over positions and batch rows, and the approximate gradient rules.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{Complex, Dims, Unit};
use crate::rule::HYP7_FLOOR;

/// Tiles added up before their sum joins the next level of [`Sum`].
const RUN_TILES: usize = 16;
/// Tiles whose sums join the last level together.
const BLOCK_TILES: usize = 64 * RUN_TILES;

/// A sum over many positions in three levels of single-precision sums, none of them long: its rounding stays that of a few
/// dozen additions, whatever a compiler contracts or reorders.
#[derive(CubeType)]
struct Sum {
    run: f32,
    block: f32,
    total: f32,
}

#[cube]
impl Sum {
    fn zero() -> Sum {
        Sum {
            run: 0.0f32,
            block: 0.0f32,
            total: 0.0f32,
        }
    }

    fn add(&mut self, x: f32) {
        self.run += x;
    }

    fn end_of_tile(&mut self, tile: usize) {
        if (tile + 1) % RUN_TILES == 0 {
            self.block += self.run;
            self.run = 0.0f32;
            if (tile + 1) % BLOCK_TILES == 0 {
                self.total += self.block;
                self.block = 0.0f32;
            }
        }
    }

    fn value(&self) -> f32 {
        self.total + (self.block + self.run)
    }
}

/// What a chunk adds to the gradients of energy (two numbers) and hopping.
#[derive(CubeType)]
pub(super) struct Sums {
    energy_re: Sum,
    energy_im: Sum,
    hopping: Sum,
}

#[cube]
impl Sums {
    pub(super) fn zero() -> Sums {
        Sums {
            energy_re: Sum::zero(),
            energy_im: Sum::zero(),
            hopping: Sum::zero(),
        }
    }

    /// `- d alpha_i`, whose sum is the cotangent of `z`.
    pub(super) fn add_alpha(&mut self, minus_d_alpha: Complex) {
        self.energy_re.add(minus_d_alpha.re);
        self.energy_im.add(-minus_d_alpha.im);
    }

    /// `X w` for the neighbour `X` that hopping multiplies.
    pub(super) fn add_hopping(&mut self, neighbour: Complex, w: Complex) {
        self.hopping.add(neighbour.re * w.re - neighbour.im * w.im);
    }

    pub(super) fn end_of_tile(&mut self, tile: usize) {
        self.energy_re.end_of_tile(tile);
        self.energy_im.end_of_tile(tile);
        self.hopping.end_of_tile(tile);
    }

    /// Row `row` of `[rows, 3 * heads]`.
    pub(super) fn store(&self, target: &mut [f32], row: usize, unit: Unit) {
        let at = row * 3 * unit.heads + unit.head;
        target[at] = self.energy_re.value();
        target[at + unit.heads] = self.energy_im.value();
        target[at + 2 * unit.heads] = self.hopping.value();
    }
}

/// `(1 - t) g X^2 + t g conj(X^2) / max(|X^2|^2, floor^2)`: minus the approximate `d alpha_i`.
#[cube]
pub(super) fn approximate(g: Complex, squared: Complex, t: f32) -> Complex {
    let scale = t / max(squared.norm(), comptime!(HYP7_FLOOR * HYP7_FLOOR));
    let local = 1.0f32 - t;
    let factor = Complex::new((local + scale) * squared.re, (local - scale) * squared.im);
    g.mul(factor)
}

/// Sums groups of `dims.chunk` rows of `[dims.seq, width]`, columns `first ..` of them, to `[dims.chunks, dims.heads]`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn sum_rows(rows: &[f32], sums: &mut [f32], first: usize, width: usize, dims: Dims) {
    if ABSOLUTE_POS >= dims.units {
        terminate!();
    }
    let unit = Unit::of(&dims);
    let mut sum = 0.0f32;
    for i in 0..unit.count {
        sum += rows[(unit.first + i) * width + first + unit.head];
    }
    sums[ABSOLUTE_POS] = sum;
}
