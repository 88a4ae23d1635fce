//! Values: sweeps from the left and the right, and the diagonal from both.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{Complex, Dims, Medium, TILE, Unit, WIDE_TILE};

/// `x <- 1 / (a - z - beta x)` along the chunk: `L`, or in reverse `R`. Values `[batch, seq, 2 * heads]`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn sweep(
    potential: &[f32],
    hopping: &[f32],
    energy: &[f32],
    entering: &[f32],
    values: &mut [f32],
    dims: Dims,
    #[comptime] reverse: bool,
) {
    if ABSOLUTE_POS >= dims.units {
        terminate!();
    }
    let unit = Unit::of(&dims);
    let medium = Medium::load(hopping, energy, unit);
    let x = Complex::load(entering, unit.row, unit);
    let mut re = x.re;
    let mut im = x.im;
    for tile in 0..unit.count.div_ceil(TILE) {
        let mut a = Array::<f32>::new(TILE);
        #[unroll]
        for j in 0..TILE {
            a[j] = potential[unit.step(tile * TILE + j, reverse) * unit.heads + unit.head];
        }
        #[unroll]
        for j in 0..TILE {
            let i = tile * TILE + j;
            if i < unit.count {
                let x = medium.resolvent(a[j], Complex::new(re, im));
                x.store(values, unit.step(i, reverse), unit);
                re = x.re;
                im = x.im;
            }
        }
    }
}

/// `G_ii` from the finished `R` and a sweep from the left.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn diagonal(
    potential: &[f32],
    hopping: &[f32],
    energy: &[f32],
    entering: &[f32],
    right: &[f32],
    values: &mut [f32],
    dims: Dims,
) {
    if ABSOLUTE_POS >= dims.units {
        terminate!();
    }
    let unit = Unit::of(&dims);
    let medium = Medium::load(hopping, energy, unit);
    let x = Complex::load(entering, unit.row, unit);
    let mut re = x.re;
    let mut im = x.im;
    for tile in 0..unit.count.div_ceil(WIDE_TILE) {
        let mut a = Array::<f32>::new(WIDE_TILE);
        let mut right_re = Array::<f32>::new(WIDE_TILE);
        let mut right_im = Array::<f32>::new(WIDE_TILE);
        #[unroll]
        for j in 0..WIDE_TILE {
            let row = unit.step(tile * WIDE_TILE + j, false);
            a[j] = potential[row * unit.heads + unit.head];
            let above = min(row + 1, unit.last_of_batch);
            let above =
                Complex::zero().or(Complex::load(right, above, unit), row < unit.last_of_batch);
            right_re[j] = above.re;
            right_im[j] = above.im;
        }
        #[unroll]
        for j in 0..WIDE_TILE {
            let i = tile * WIDE_TILE + j;
            if i < unit.count {
                let left = Complex::new(re, im);
                let both = left.add(Complex::new(right_re[j], right_im[j]));
                let centre = medium.resolvent(a[j], both);
                centre.store(values, unit.step(i, false), unit);
                let x = medium.resolvent(a[j], left);
                re = x.re;
                im = x.im;
            }
        }
    }
}
