//! `y_i = sum_j p_ij v_j`, block by block of keys, with the largest score so far taken out.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{
    Dims, Format, NEVER, ROWS, SIDE, SQUARE, WIDE,
    place::{Place, band, unit_col, unit_row},
    product::{Pair, Strip, operands},
    tile::{load_packed, tile},
};

/// The output `[batch, seq, heads, d_head]`, and the logarithms of the sums `[batch, heads, seq]`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn attend<E: Float>(
    packed: &[Vector<E, Const<WIDE>>],
    output: &mut [Pair<E>],
    sums: &mut [f32],
    dims: Dims,
    scale: f32,
    #[comptime] format: Format,
) {
    let place = Place::of(&dims, comptime!(format.causal));
    if !place.exists {
        terminate!();
    }
    let stride = comptime!(format.stride());
    let steps = comptime!(format.d_head / SIDE);
    let mut keys = tile::<E>(ROWS, format);
    let mut values = tile::<E>(ROWS, format);
    // Queries pass through the tile of the keys once.
    load_packed(packed, &mut keys, place, place.start, 0usize, ROWS, format);
    sync_cube();
    let queries = operands::<E>(&keys, band(), steps, stride);

    let mut total = Strip::zeros(comptime!(format.d_head / SQUARE));
    let mut top_upper = NEVER.runtime();
    let mut top_lower = NEVER.runtime();
    let mut sum_upper = 0.0f32;
    let mut sum_lower = 0.0f32;
    let row = place.start + band() + unit_row();
    // Keys before `whole` are seen by every query of the block.
    let mut end = place.seq;
    let mut whole = place.seq;
    if comptime!(format.causal) {
        end = min(place.seq, place.start + ROWS);
        whole = place.start;
    }
    let blocks = (end + ROWS - 1) / ROWS;
    for block in 0..blocks {
        let first = block * ROWS;
        sync_cube();
        load_packed(packed, &mut keys, place, first, 1usize, ROWS, format);
        load_packed(packed, &mut values, place, first, 2usize, ROWS, format);
        sync_cube();
        let mut scores = Strip::zeros(comptime!(ROWS / SQUARE));
        scores.add_by_rows::<E>(&queries, &keys, steps, stride);
        scores.scale_rows(scale, scale);
        if first + ROWS > whole {
            scores.hide(
                row,
                first + unit_col(),
                place.seq,
                false,
                comptime!(format.causal),
            );
        }
        let mut new_upper = top_upper;
        let mut new_lower = top_lower;
        #[unroll]
        for square in 0..comptime!(ROWS / SQUARE) {
            let square = scores.squares.index(square);
            new_upper = max(
                new_upper,
                max(square[0].extract(0usize), square[0].extract(1usize)),
            );
            new_lower = max(
                new_lower,
                max(square[1].extract(0usize), square[1].extract(1usize)),
            );
        }
        new_upper = largest_of_four(new_upper);
        new_lower = largest_of_four(new_lower);
        let kept_upper = (top_upper - new_upper).exp();
        let kept_lower = (top_lower - new_lower).exp();
        top_upper = new_upper;
        top_lower = new_lower;
        let mut added_upper = Pair::<f32>::new(0.0f32);
        let mut added_lower = Pair::<f32>::new(0.0f32);
        #[unroll]
        for square in 0..comptime!(ROWS / SQUARE) {
            let square = scores.squares.index_mut(square);
            let upper = (square[0] - Pair::<f32>::new(top_upper)).exp();
            let lower = (square[1] - Pair::<f32>::new(top_lower)).exp();
            added_upper += upper;
            added_lower += lower;
            square[0] = upper;
            square[1] = lower;
        }
        sum_upper =
            sum_upper * kept_upper + added_upper.extract(0usize) + added_upper.extract(1usize);
        sum_lower =
            sum_lower * kept_lower + added_lower.extract(0usize) + added_lower.extract(1usize);
        total.scale_rows(kept_upper, kept_lower);
        let weights = scores.to_operands::<E>();
        total.add_by_columns::<E>(&weights, &values, comptime!(ROWS / SIDE), stride);
    }
    sum_upper = sum_of_four(sum_upper);
    sum_lower = sum_of_four(sum_lower);
    total.scale_rows(1.0 / sum_upper, 1.0 / sum_lower);
    store_rows(&total, output, place, row, format);
    if unit_col() == 0 {
        if row < place.seq {
            sums[place.sum(row)] = top_upper + sum_upper.ln();
        }
        if row + 8 < place.seq {
            sums[place.sum(row + 8)] = top_lower + sum_lower.ln();
        }
    }
}

/// Writes the unit's part of 16 rows, the first of its own being `row`.
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
    for square in 0..comptime!(strip.count) {
        let part = strip.squares.index(square);
        let col = unit_col() / 2 + comptime!(square * SQUARE / 2);
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
