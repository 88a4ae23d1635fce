//! The gradients of a chunk's gates, from every path that passes through them: see [`crate::chunked`].
//!
//! Sums of terms of both signs that cancel would be shorter, and wrong where a gate forgets everything: these are of paths
//! that do pass through the gate, and of nothing else.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{
    CHUNK, Format, HALVES, Numbers, PLANES, Place, UNITS,
    band::{lines, passes, piece, put, staged},
    gates::Gates,
    half,
    tile::Tile,
};

/// Units that walk a column of the paths between them.
const WALKERS: usize = UNITS / CHUNK;
/// What each of them walks.
const WALK: usize = CHUNK / WALKERS;

/// A band of `dy v^T` times `D`, as operands; and times the weights `q k^T D`, which are the paths `M`: sums of them along each half of a
/// row, up to every column, in the stage.
#[cube]
pub(super) fn paths_of_band<O: Float, N: Size>(
    stage: &mut Numbers,
    weights: &Tile<O, N>,
    d_scores: &mut Tile<O, N>,
    gates: &Gates,
    #[comptime] format: Format,
) {
    #[unroll]
    for pass in 0..comptime!(passes(CHUNK, format)) {
        let at = piece(pass, CHUNK, format);
        let place = (at.row * comptime!(format.stride(CHUNK)) + at.col) / comptime!(format.wide());
        let mut value = Vector::<O, N>::new(O::from_int(0));
        let mut path = Vector::<f32, N>::new(0.0f32);
        if at.col <= at.row {
            let d_weights = staged::<N>(stage, at, format);
            value = Vector::<O, N>::cast_from(d_weights * gates.piece::<N>(at, format));
            // Weights behind a position are zeros, and a product of finite numbers is.
            path = d_weights * Vector::<f32, N>::cast_from(weights[place]);
        }
        put::<N>(stage, at, summed_up::<N>(path, format), format);
        d_scores[place] = value;
    }
}

/// The sums along a half of a row up to each number of a piece; the units of a half row are neighbours.
#[cube]
fn summed_up<N: Size>(piece: Vector<f32, N>, #[comptime] format: Format) -> Vector<f32, N> {
    let lines = comptime!(lines(CHUNK, format));
    let mut sums = piece;
    let mut total = 0.0f32;
    #[unroll]
    for i in 0..comptime!(format.wide()) {
        total += piece.extract(i);
        sums.insert(i, total);
    }
    let line = UNIT_POS_PLANE as usize % lines;
    let mut up_to = total;
    #[unroll]
    for level in 0..comptime!(lines.trailing_zeros()) {
        let before = plane_shuffle_up(up_to, comptime!(1u32 << level));
        if line >= comptime!(1usize << level) {
            up_to += before;
        }
    }
    // Of those before, not this one: a difference would lose digits.
    let mut before = plane_shuffle_up(up_to, 1u32);
    if line == 0 {
        before = 0.0f32;
    }
    sums + Vector::<f32, N>::new(before)
}

/// `sum_{t >= i > j} M_tj` for every gate i, from the sums of paths in the stage, which it uses up. Starts and ends with all units in step.
#[cube]
pub(super) fn crossing(
    stage: &mut Numbers,
    crossing: &mut Shared<[f32]>,
    #[comptime] format: Format,
) {
    let stride = comptime!(format.stage());
    let unit = UNIT_POS as usize;
    // A part of a column each, of the sums over j < i: up to the last of them, and, in the second half of a row, over the first.
    let gate = unit % CHUNK;
    let part = unit / CHUNK;
    let half = comptime!(CHUNK / HALVES);
    let mut sum = Vector::<f32, Const<1>>::new(0.0f32);
    if gate > 0 {
        let j = gate - 1;
        #[unroll]
        for step in 0..WALK {
            let t = part * WALK + step;
            if t >= gate {
                sum += stage[t * stride + j];
                if j >= half {
                    sum += stage[t * stride + comptime!(half - 1)];
                }
            }
        }
    }
    sync_cube();
    stage[unit] = sum;
    sync_cube();
    if unit < CHUNK {
        crossing[unit] = sum_of_walkers(stage, unit);
    }
    sync_cube();
}

/// The sum of what the walkers of a position left in the stage.
#[cube]
fn sum_of_walkers(stage: &mut Numbers, position: usize) -> f32 {
    let mut sum = Vector::<f32, Const<1>>::new(0.0f32);
    #[unroll]
    for part in 0..WALKERS {
        sum += stage[position + comptime!(part * CHUNK)];
    }
    sum.extract(0usize)
}

/// The products of a tile's rows with those that units hold, for each half of a row.
#[cube]
pub(super) fn dot_band<O: Float, N: Size>(
    held: &Array<Vector<f32, N>>,
    tile: &Tile<O, N>,
    dots: &mut Shared<[f32]>,
    #[comptime] width: usize,
    #[comptime] format: Format,
) {
    let wide = comptime!(format.wide());
    let lines = comptime!(lines(width, format));
    #[unroll]
    for pass in 0..comptime!(passes(width, format)) {
        let at = piece(pass, width, format);
        let value = tile[(at.row * comptime!(format.stride(width)) + at.col) / wide];
        let mut sum = (held[pass] * Vector::<f32, N>::cast_from(value)).vector_sum();
        // The units of a half row are neighbours.
        #[unroll]
        for level in 0..comptime!(lines.trailing_zeros()) {
            sum += plane_shuffle_xor(sum, comptime!(1u32 << level));
        }
        if UNIT_POS_PLANE as usize % lines == 0 {
            dots[at.row * HALVES + half()] = sum;
        }
    }
}

/// The gradients of the gates: what crosses them inside the chunk, what enters (`read`) and leaves it (`left`) through them and what is
/// written by them, each in halves, what is written by them, and what passes through the whole chunk, `kept`, a part for each plane. Starts with all units in step; the stage is used up.
#[cube]
pub(super) fn store_gates(
    d_gates: &mut [f32],
    stage: &mut Numbers,
    crossing: &Shared<[f32]>,
    read: &Shared<[f32]>,
    left: &Shared<[f32]>,
    written: &Shared<[f32]>,
    kept: &Shared<[f32]>,
    gates: &Gates,
    place: Place,
    #[comptime] format: Format,
) {
    let unit = UNIT_POS as usize;
    let gate = unit % CHUNK;
    let part = unit / CHUNK;
    let mut sum = 0.0f32;
    #[unroll]
    for step in 0..WALK {
        let t = part * WALK + step;
        #[unroll]
        for half in 0..HALVES {
            if t >= gate {
                sum += read[t * HALVES + half];
            } else {
                sum += left[t * HALVES + half];
            }
        }
    }
    stage[unit] = Vector::new(sum);
    sync_cube();
    if unit < place.len {
        let mut sum = 0.0f32;
        #[unroll]
        for plane in 0..PLANES {
            sum += kept[plane];
        }
        sum *= gates.entering(comptime!(CHUNK - 1).runtime());
        sum += crossing[unit] + sum_of_walkers(stage, unit);
        if comptime!(format.forgotten) {
            let mut along = 0.0f32;
            #[unroll]
            for half in 0..HALVES {
                along += written[unit * HALVES + half];
            }
            // The derivative of 1 - e^g is -e^g.
            sum += (gates.forgotten(unit) - 1.0f32) * along;
        }
        d_gates[(place.first + unit) * place.heads + place.head] = sum;
    }
}
