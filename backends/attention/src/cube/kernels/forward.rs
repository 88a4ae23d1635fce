//! `y_i = sum_j p_ij v_j`, block by block of keys, with the largest score so far taken out.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{
    Dims, Format, GROUP, NEVER, SIDE, SQUARE, WIDE,
    dropout::Stream,
    place::{Place, plane_row, unit_col, unit_row},
    product::{Pair, Strip, operands},
    tile::{load_packed, tile},
};

/// The output `[batch, seq, heads, d_head]`, and the logarithms of the sums `[batch, heads, seq]`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn attend<E: Float>(
    packed: &[Vector<E, Const<WIDE>>],
    output: &mut [Pair<E>],
    sums: &mut [f32],
    seed: ComptimeOption<&[i32]>,
    dims: Dims,
    scale: f32,
    #[comptime] format: Format,
) {
    let place = Place::of(&dims, comptime!(format.rows()), comptime!(format.causal));
    if !place.exists {
        terminate!();
    }
    let (stride, rows) = comptime!((format.stride(), format.rows()));
    let (bands, passing) = comptime!((format.bands, format.passing));
    let steps = comptime!(format.d_head / SIDE);
    let squares = comptime!(passing / SQUARE);
    let mut own = tile::<E>(rows, format);
    let mut keys = tile::<E>(passing, format);
    let mut values = tile::<E>(passing, format);
    load_packed(packed, &mut own, place, place.start, 0usize, rows, format);
    sync_cube();
    let queries = operands::<E>(&own, plane_row(bands), bands, steps, stride);

    let stream = Stream::of(seed, place, format.dropped);
    let mut total = Strip::zeros(comptime!(format.d_head / SQUARE), bands);
    let unit_rows = comptime!(2 * bands);
    let mut tops = Array::<f32>::new(unit_rows);
    let mut sums_so_far = Array::<f32>::new(unit_rows);
    let mut kept = Array::<f32>::new(unit_rows);
    #[unroll]
    for i in 0..unit_rows {
        tops[i] = NEVER.runtime();
        sums_so_far[i] = 0.0f32;
    }
    let row = place.start + plane_row(bands) + unit_row();
    // Keys before `whole` are seen by every query of the block.
    let mut end = place.seq;
    let mut whole = place.seq;
    if comptime!(format.causal) {
        end = min(place.seq, place.start + rows);
        whole = place.start;
    }
    let blocks = (end + passing - 1) / passing;
    for block in 0..blocks {
        let first = block * passing;
        sync_cube();
        load_packed(packed, &mut keys, place, first, 1usize, passing, format);
        load_packed(packed, &mut values, place, first, 2usize, passing, format);
        sync_cube();
        let mut scores = Strip::zeros(squares, bands);
        scores.add_by_rows::<E>(&queries, &keys, steps, stride);
        scores.scale(scale);
        if first + passing > whole {
            let col = first + unit_col();
            scores.hide(row, col, place.seq, false, comptime!(format.causal));
        }
        #[unroll]
        for i in 0..unit_rows {
            let (band, lower) = comptime!((i / 2, i % 2));
            let mut top = tops[i];
            #[unroll]
            for square in 0..squares {
                let pair = scores.squares.index(comptime!(band * squares + square))[lower];
                top = max(top, max(pair.extract(0usize), pair.extract(1usize)));
            }
            top = largest_of_four(top);
            kept[i] = (tops[i] - top).exp();
            tops[i] = top;
            let mut added = Pair::<f32>::new(0.0f32);
            #[unroll]
            for square in 0..squares {
                let part = scores.squares.index_mut(comptime!(band * squares + square));
                let weight = (part[lower] - Pair::<f32>::new(top)).exp();
                added += weight;
                part[lower] = weight;
            }
            let added = added.extract(0usize) + added.extract(1usize);
            sums_so_far[i] = sums_so_far[i] * kept[i] + added;
        }
        if comptime!(format.dropped > 0) {
            drop_weights(&mut scores, &stream, row, first + unit_col());
        }
        total.scale_rows(&kept);
        let weights = scores.to_operands::<E>();
        total.add_by_columns::<E>(&weights, &values, comptime!(passing / SIDE), stride);
    }
    #[unroll]
    for i in 0..unit_rows {
        let sum = sum_of_four(sums_so_far[i]);
        kept[i] = 1.0 / sum;
        let at = row + comptime!((i / 2) * SIDE + (i % 2) * 8);
        if unit_col() == 0 && at < place.seq {
            sums[place.sum(at)] = tops[i] + sum.ln();
        }
    }
    total.scale_rows(&kept);
    store_rows(&total, output, place, row, format);
}

/// Dropout of weights, `row` being the position of the first of the unit's rows and `col` that of the first of its columns.
#[cube]
fn drop_weights(weights: &mut Strip, stream: &Stream, row: usize, col: usize) {
    let (count, groups) = comptime!((weights.count, weights.count / GROUP));
    #[unroll]
    for part in 0..comptime!(weights.bands * groups) {
        let (band, group) = comptime!((part / groups, part % groups));
        let query = row + comptime!(band * SIDE);
        let words = stream.of_keys(query, col + comptime!(group * GROUP * SQUARE));
        #[unroll]
        for square in 0..GROUP {
            let of_square = weights
                .squares
                .index_mut(comptime!(band * count + group * GROUP + square));
            #[unroll]
            for lower in 0..2usize {
                let word = comptime!(2 * lower + square / 2);
                let factor = stream.factors(&words, word, comptime!(square % 2 == 1));
                of_square[lower] = of_square[lower] * factor;
            }
        }
    }
}

/// Writes the unit's part of a strip, the first of its own rows being `row`.
#[cube]
fn store_rows<E: Float>(
    strip: &Strip,
    output: &mut [Pair<E>],
    place: Place,
    row: usize,
    #[comptime] format: Format,
) {
    let pairs = comptime!(format.d_head / 2);
    #[unroll]
    for at in 0..comptime!(strip.bands * strip.count) {
        let part = strip.squares.index(at);
        let col = unit_col() / 2 + comptime!((at % strip.count) * SQUARE / 2);
        let row = row + comptime!((at / strip.count) * SIDE);
        if row < place.seq {
            output[place.plain(row, pairs) + col] = Pair::<E>::cast_from(part[0]);
        }
        if row + 8 < place.seq {
            output[place.plain(row + 8, pairs) + col] = Pair::<E>::cast_from(part[1]);
        }
    }
}

/// The four units that hold a row agree on its largest score.
#[cube]
fn largest_of_four(value: f32) -> f32 {
    let of_two = max(value, plane_shuffle_xor(value, 1u32));
    max(of_two, plane_shuffle_xor(of_two, 2u32))
}

/// The four units that hold a row add up their sums.
#[cube]
fn sum_of_four(value: f32) -> f32 {
    let of_two = value + plane_shuffle_xor(value, 1u32);
    of_two + plane_shuffle_xor(of_two, 2u32)
}
