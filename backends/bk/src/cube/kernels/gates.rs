//! The gates of resolvent attention, `ln(1 - p_i) = -ln(1 + 1 / x_i)` with `x_i = beta Im L_{i-1} / eta`.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use kiln_native::ln_one_plus;

use super::{Dims, Unit};
use crate::gates::LEAST_KEPT;

/// `Im L` of the position before row `row`, from the features or, before the first of a batch row, from what entered.
#[cube]
fn imaginary_before(features: &[f32], left: &[f32], row: usize, unit: Unit) -> f32 {
    let at = unit.heads + unit.head;
    let mut im = left[unit.batch * 2 * unit.heads + at];
    if row > unit.first_of_batch {
        im = features[(row - 1) * 2 * unit.heads + at];
    }
    im
}

/// `kept [batch, seq, heads]`; each unit has a few positions of a head.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn log_kept(
    features: &[f32],
    left: &[f32],
    hopping: &[f32],
    energy: &[f32],
    kept: &mut [f32],
    dims: Dims,
) {
    if ABSOLUTE_POS >= dims.units {
        terminate!();
    }
    let unit = Unit::of(&dims);
    let ratio = hopping[unit.head] / energy[unit.heads + unit.head];
    for i in 0..unit.count {
        let row = unit.first + i;
        let im = imaginary_before(features, left, row, unit);
        kept[row * unit.heads + unit.head] = kept_of(im, ratio);
    }
}

/// `ln(1 - p)` from `Im L` of the position before and `beta / eta`.
#[cube]
pub(super) fn kept_of(im: f32, ratio: f32) -> f32 {
    -ln_one_plus(1.0f32 / (im * ratio + LEAST_KEPT))
}

/// With `s_i = g_i / (x_i (1 + x_i))`: `d Im L_{i-1} = s_i beta / eta`, and a row of `sums [rows, 3 * heads]` for each unit with its
/// part of `d Im z = - beta / eta^2 sum s_i Im L_{i-1}` and `d beta = 1 / eta sum s_i Im L_{i-1}`.
///
/// A unit writes the gradients of its own rows of features, to which the gate of the next row belongs; its sums are over the gates of
/// its rows.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn log_kept_adjoint(
    features: &[f32],
    left: &[f32],
    hopping: &[f32],
    energy: &[f32],
    grad: &[f32],
    d_features: &mut [f32],
    sums: &mut [f32],
    dims: Dims,
) {
    if ABSOLUTE_POS >= dims.units {
        terminate!();
    }
    let unit = Unit::of(&dims);
    let (heads, head) = (unit.heads, unit.head);
    let eta = energy[heads + head];
    let beta = hopping[head];
    let ratio = beta / eta;
    let mut along = 0.0f32;
    let mut im = imaginary_before(features, left, unit.first, unit);
    let mut slope = slope_of(im * ratio, grad[unit.first * heads + head]);
    for i in 0..unit.count {
        let row = unit.first + i;
        along += slope * im;
        im = features[row * 2 * heads + heads + head];
        slope = 0.0f32;
        if row < unit.last_of_batch {
            slope = slope_of(im * ratio, grad[(row + 1) * heads + head]);
        }
        d_features[row * 2 * heads + head] = 0.0f32;
        d_features[row * 2 * heads + heads + head] = slope * ratio;
    }
    let at = unit.row * 3 * heads + head;
    sums[at] = 0.0f32;
    sums[at + heads] = -(ratio / eta) * along;
    sums[at + 2 * heads] = along / eta;
}

/// The gradient of x from that of `-ln(1 + 1 / x)`.
#[cube]
pub(super) fn slope_of(x: f32, grad: f32) -> f32 {
    let x = x + LEAST_KEPT;
    grad / (x * (1.0f32 + x))
}
