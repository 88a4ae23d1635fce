//! The gradients of a chunk's gates, from every path that passes through them: see [`crate::chunked`].
//!
//! Sums of terms of both signs that cancel would be shorter, and wrong where a gate forgets everything: these are of paths
//! that do pass through the gate, and of nothing else.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{
    CHUNK, Format, PLANES, Place, UNITS,
    band::{passes, piece},
    gates::Gates,
    tile::Tile,
};

/// Pieces in which two units walk a row, or a column, of the paths.
const HALF: usize = CHUNK / 2;

/// A band of `dy v^T` times `D`, as operands; and times the weights `q k^T D`, which are the paths `M`, in the stage.
#[cube]
pub(super) fn paths_of_band<O: Float, N: Size>(
    stage: &mut Shared<[f32]>,
    weights: &Tile<O, N>,
    d_scores: &mut Tile<O, N>,
    gates: &Gates,
    #[comptime] format: Format,
) {
    let stride = comptime!(format.stage());
    #[unroll]
    for pass in 0..comptime!(passes(CHUNK, format)) {
        let at = piece(pass, CHUNK, format);
        let place = (at.row * comptime!(format.stride(CHUNK)) + at.col) / comptime!(format.wide());
        let weight = weights[place];
        let mut value = Vector::<O, N>::new(O::from_int(0));
        #[unroll]
        for i in 0..comptime!(format.wide()) {
            let j = at.col + i;
            let d_weight = stage[at.row * stride + j];
            let mut path = 0.0f32;
            if j <= at.row {
                value.insert(i, O::cast_from(d_weight * gates.between(at.row, j)));
                path = d_weight * f32::cast_from(weight.extract(i));
            }
            stage[at.row * stride + j] = path;
        }
        d_scores[place] = value;
    }
}

/// `sum_{t >= i > j} M_tj` for every gate i, in two parts, from the paths in the stage, which it uses up. Starts and ends with
/// all units in step.
#[cube]
pub(super) fn crossing(
    stage: &mut Shared<[f32]>,
    crossing: &mut Shared<[f32]>,
    #[comptime] format: Format,
) {
    let stride = comptime!(format.stage());
    let unit = UNIT_POS as usize;
    // Sums along half a row each.
    let row = unit / 2;
    let first = row * stride + (unit % 2) * HALF;
    let mut sum = 0.0f32;
    #[unroll]
    for j in 0..HALF {
        sum += stage[first + j];
        stage[first + j] = sum;
    }
    sync_cube();
    // Half a column each, of the sums over j < i.
    let gate = unit % CHUNK;
    let half = unit / CHUNK;
    let mut sum = 0.0f32;
    if gate > 0 {
        let j = gate - 1;
        for step in 0..HALF {
            let t = half * HALF + step;
            if t >= gate {
                sum += stage[t * stride + j];
                if j >= HALF {
                    sum += stage[t * stride + comptime!(HALF - 1)];
                }
            }
        }
    }
    crossing[unit] = sum;
    sync_cube();
}

/// What a plane's units add to the products of a tile's rows with the stage's: parts of every position's sum.
#[cube]
pub(super) fn dot_band<O: Float, N: Size>(
    stage: &Shared<[f32]>,
    tile: &Tile<O, N>,
    parts: &mut Shared<[f32]>,
    #[comptime] width: usize,
    #[comptime] format: Format,
) {
    let (stride, wide) = comptime!((format.stage(), format.wide()));
    #[unroll]
    for pass in 0..comptime!(passes(width, format)) {
        let at = piece(pass, width, format);
        let value = tile[(at.row * comptime!(format.stride(width)) + at.col) / wide];
        let mut sum = 0.0f32;
        #[unroll]
        for i in 0..wide {
            sum += stage[at.row * stride + at.col + i] * f32::cast_from(value.extract(i));
        }
        parts[at.row * comptime!(width / wide) + at.col / wide] = sum;
    }
}

/// The gradients of the gates: what crosses them inside the chunk, what enters (`read`) and leaves it (`left`) through them,
/// each in parts, and what passes through the whole chunk, `kept`, a part for each plane.
#[cube]
pub(super) fn store_gates(
    d_gates: &mut [f32],
    crossing: &Shared<[f32]>,
    read: &Shared<[f32]>,
    left: &Shared<[f32]>,
    kept: &Shared<[f32]>,
    gates: &Gates,
    place: Place,
    #[comptime] format: Format,
) {
    let parts = comptime!(format.d_key / format.wide());
    let mut sums = Shared::<[f32]>::new_slice(comptime!(2 * CHUNK));
    let unit = UNIT_POS as usize;
    let position = unit % CHUNK;
    let mut sum = 0.0f32;
    #[unroll]
    for part in 0..parts {
        if unit < CHUNK {
            sum += read[position * parts + part];
        } else {
            sum += left[position * parts + part];
        }
    }
    sums[unit] = sum;
    sync_cube();
    if unit < place.len {
        let mut sum = 0.0f32;
        #[unroll]
        for plane in 0..PLANES {
            sum += kept[plane];
        }
        sum *= gates.entering(comptime!(CHUNK - 1).runtime());
        sum += crossing[unit] + crossing[unit + comptime!(UNITS / 2)];
        for t in 0..CHUNK {
            if t >= unit {
                sum += sums[t];
            } else {
                sum += sums[t + CHUNK];
            }
        }
        d_gates[(place.first + unit) * place.heads + place.head] = sum;
    }
}
