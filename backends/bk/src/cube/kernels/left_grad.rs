//! The reverse sweep of the left operation.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{
    Complex, Dims, Unit, WIDE_TILE,
    sums::{Sums, approximate},
};

/// The reverse sweep of `left`. `carry` holds `beta w` of the position after the chunk and receives that of its first
/// position, conjugated: after the first chunk, the gradient of the state.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn left_adjoint(
    features: &[f32],
    hopping: &[f32],
    state: &[f32],
    grad: &[f32],
    carry: &mut [f32],
    d_potential: &mut [f32],
    sums: &mut [f32],
    blend: f32,
    dims: Dims,
    #[comptime] exact: bool,
) {
    if ABSOLUTE_POS >= dims.units {
        terminate!();
    }
    let unit = Unit::of(&dims);
    let beta = hopping[unit.head];
    let at = 2 * unit.row * unit.heads + unit.head;
    let mut carry_re = carry[at];
    let mut carry_im = carry[at + unit.heads];
    let start = Complex::load(state, unit.batch, unit);
    let x = Complex::load(features, unit.step(0usize, true), unit);
    let mut own_re = x.re;
    let mut own_im = x.im;
    let mut total = Sums::zero();
    for tile in 0..unit.count.div_ceil(WIDE_TILE) {
        let mut before_re = Array::<f32>::new(WIDE_TILE);
        let mut before_im = Array::<f32>::new(WIDE_TILE);
        let mut g_re = Array::<f32>::new(WIDE_TILE);
        let mut g_im = Array::<f32>::new(WIDE_TILE);
        #[unroll]
        for j in 0..WIDE_TILE {
            let i = tile * WIDE_TILE + j;
            let row = unit.step(i, true);
            let g = Complex::load(grad, row, unit);
            g_re[j] = g.re;
            g_im[j] = -g.im;
            let before = Complex::load(features, max(row, 1) - 1, unit);
            let before = start.or(before, i + 1 < unit.count || unit.chunk > 0);
            before_re[j] = before.re;
            before_im[j] = before.im;
        }
        #[unroll]
        for j in 0..WIDE_TILE {
            let i = tile * WIDE_TILE + j;
            if i < unit.count {
                let g = Complex::new(g_re[j], g_im[j]);
                let before = Complex::new(before_re[j], before_im[j]);
                let squared = Complex::new(own_re, own_im).square();
                let w = squared.mul(g.add(Complex::new(carry_re, carry_im)));
                total.add_hopping(before, w);
                let at = unit.step(i, true) * unit.heads + unit.head;
                if comptime!(exact) {
                    total.add_alpha(w);
                    d_potential[at] = -w.re;
                } else {
                    let kept = approximate(g, squared, blend);
                    total.add_alpha(kept);
                    d_potential[at] = -kept.re;
                }
                carry_re = beta * w.re;
                carry_im = beta * w.im;
                own_re = before_re[j];
                own_im = before_im[j];
            }
        }
        total.end_of_tile(tile);
    }
    let leaving = Complex::new(carry_re, -carry_im);
    leaving.store(carry, unit.row, unit);
    total.store(sums, unit.row, unit);
}
