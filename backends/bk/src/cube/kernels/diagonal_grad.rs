//! The two sweeps of the diagonal's adjoint.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{
    Complex, Dims, Unit, WIDE_TILE,
    sums::{Sums, approximate},
};

/// One step of a sweep of the diagonal's adjoint: in reverse with the values `L`, or forward with the values `R`.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Step {
    pub(super) g: Complex,
    /// The sweep's value one step further: `L_{i-1}` or `R_{i+1}`.
    next: Complex,
    /// The other sweep's value one step back: `R_{i+1}` or `L_{i-1}`.
    across: Complex,
}

#[cube]
impl Step {
    pub(super) fn load(
        grad: &[f32],
        left: &[f32],
        right: &[f32],
        row: usize,
        unit: Unit,
        #[comptime] reverse: bool,
    ) -> Step {
        let below = max(row, unit.first_of_batch + 1) - 1;
        let below = Complex::zero().or(Complex::load(left, below, unit), row > unit.first_of_batch);
        let above = min(row + 1, unit.last_of_batch);
        let above = Complex::zero().or(Complex::load(right, above, unit), row < unit.last_of_batch);
        let g = Complex::load(grad, row, unit).conj();
        if comptime!(reverse) {
            Step {
                g,
                next: below,
                across: above,
            }
        } else {
            Step {
                g,
                next: above,
                across: below,
            }
        }
    }

    /// `G_ii^2`, from `G = X / (1 - beta X Y)` with the two sweeps' values at and across the position.
    pub(super) fn squared_centre(self, own: Complex, beta: f32) -> Complex {
        let product = own.mul(self.across).scale(-beta);
        own.over(Complex::new(1.0f32 + product.re, product.im))
            .square()
    }
}

/// The sweeps of the diagonal's adjoint: first in reverse with `lam`, then forward with `rho`, which completes what the
/// first left in `d_potential`. `carry` holds what enters a chunk. Sums `[2, batch * chunks, 3 * heads]`, one row a launch.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn diagonal_adjoint(
    hopping: &[f32],
    grad: &[f32],
    left: &[f32],
    right: &[f32],
    carry: &[f32],
    d_potential: &mut [f32],
    sums: &mut [f32],
    blend: f32,
    dims: Dims,
    #[comptime] exact: bool,
    #[comptime] reverse: bool,
) {
    if ABSOLUTE_POS >= dims.units {
        terminate!();
    }
    let unit = Unit::of(&dims);
    let beta = hopping[unit.head];
    let entering = Complex::load(carry, unit.row, unit);
    let mut carry_re = entering.re;
    let mut carry_im = entering.im;
    let x = own(left, right, unit.step(0usize, reverse), unit, reverse);
    let mut own_re = x.re;
    let mut own_im = x.im;
    let mut total = Sums::zero();
    for tile in 0..unit.count.div_ceil(WIDE_TILE) {
        let mut loaded = Array::<f32>::new(comptime!(6 * WIDE_TILE));
        #[unroll]
        for j in 0..WIDE_TILE {
            let row = unit.step(tile * WIDE_TILE + j, reverse);
            let step = Step::load(grad, left, right, row, unit, reverse);
            loaded[6 * j] = step.g.re;
            loaded[6 * j + 1] = step.g.im;
            loaded[6 * j + 2] = step.next.re;
            loaded[6 * j + 3] = step.next.im;
            loaded[6 * j + 4] = step.across.re;
            loaded[6 * j + 5] = step.across.im;
        }
        #[unroll]
        for j in 0..WIDE_TILE {
            let i = tile * WIDE_TILE + j;
            if i < unit.count {
                let step = Step {
                    g: Complex::new(loaded[6 * j], loaded[6 * j + 1]),
                    next: Complex::new(loaded[6 * j + 2], loaded[6 * j + 3]),
                    across: Complex::new(loaded[6 * j + 4], loaded[6 * j + 5]),
                };
                let x = Complex::new(own_re, own_im);
                let squared = step.squared_centre(x, beta);
                let passed = x.square().mul(Complex::new(carry_re, carry_im)); // u_i or v_i
                let both = step.g.mul(squared).add(passed);
                total.add_hopping(step.next, both);
                let at = unit.step(i, reverse) * unit.heads + unit.head;
                if comptime!(exact && reverse) {
                    total.add_alpha(both);
                    d_potential[at] = both.re;
                } else if comptime!(exact) {
                    total.add_alpha(passed);
                    d_potential[at] = -(d_potential[at] + passed.re);
                } else if comptime!(reverse) {
                    let kept = approximate(step.g, squared, blend);
                    total.add_alpha(kept);
                    d_potential[at] = -kept.re;
                }
                carry_re = beta * both.re;
                carry_im = beta * both.im;
                own_re = step.next.re;
                own_im = step.next.im;
            }
        }
        total.end_of_tile(tile);
    }
    let row = if comptime!(reverse) {
        unit.row
    } else {
        unit.row + dims.units / dims.heads
    };
    total.store(sums, row, unit);
}

#[cube]
pub(super) fn own(
    left: &[f32],
    right: &[f32],
    row: usize,
    unit: Unit,
    #[comptime] reverse: bool,
) -> Complex {
    if comptime!(reverse) {
        Complex::load(left, row, unit)
    } else {
        Complex::load(right, row, unit)
    }
}
