//! Gradients of queries, and of keys and values.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{
    Dims, Format, ROWS, SIDE, SQUARE, WIDE,
    place::{Place, band, unit_col, unit_row},
    product::{Pair, Strip, operands},
    tile::{load_packed, load_plain, tile},
};

/// Stands for the logarithm of the sum of a query that the sequence does not have: its weights are zero.
const NO_QUERY: f32 = 1.0e30;

/// `d q_i = scale sum_j d s_ij k_j`, into the queries' part of `d_packed`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn query_gradient<E: Float>(
    packed: &[Vector<E, Const<WIDE>>],
    grad: &[Vector<E, Const<WIDE>>],
    sums: &[f32],
    deltas: &[f32],
    d_packed: &mut [Pair<E>],
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
    let mut queries = tile::<E>(ROWS, format);
    let mut slopes = tile::<E>(ROWS, format);
    let mut keys = tile::<E>(ROWS, format);
    let mut values = tile::<E>(ROWS, format);
    load_packed(
        packed,
        &mut queries,
        place,
        place.start,
        0usize,
        ROWS,
        format,
    );
    load_plain(grad, &mut slopes, place, place.start, ROWS, format);
    let row = place.start + band() + unit_row();
    let mut sum_upper = NO_QUERY.runtime();
    let mut sum_lower = NO_QUERY.runtime();
    let mut delta_upper = 0.0f32;
    let mut delta_lower = 0.0f32;
    if row < place.seq {
        sum_upper = sums[place.sum(row)];
        delta_upper = deltas[place.sum(row)];
    }
    if row + 8 < place.seq {
        sum_lower = sums[place.sum(row + 8)];
        delta_lower = deltas[place.sum(row + 8)];
    }
    let mut total = Strip::zeros(comptime!(format.d_head / SQUARE));
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
        let left = operands::<E>(&queries, band(), steps, stride);
        scores.add_by_rows::<E>(&left, &keys, steps, stride);
        scores.scale_rows(scale, scale);
        if first + ROWS > whole {
            let col = first + unit_col();
            scores.hide(row, col, place.seq, false, comptime!(format.causal));
        }
        let mut slope = Strip::zeros(comptime!(ROWS / SQUARE));
        let left = operands::<E>(&slopes, band(), steps, stride);
        slope.add_by_rows::<E>(&left, &values, steps, stride);
        #[unroll]
        for at in 0..comptime!(ROWS / SQUARE) {
            let score = scores.squares.index_mut(at);
            let part = slope.squares.index(at);
            let upper = (score[0] - Pair::<f32>::new(sum_upper)).exp();
            let lower = (score[1] - Pair::<f32>::new(sum_lower)).exp();
            score[0] = upper * (part[0] - Pair::<f32>::new(delta_upper));
            score[1] = lower * (part[1] - Pair::<f32>::new(delta_lower));
        }
        let left = scores.to_operands::<E>();
        total.add_by_columns::<E>(&left, &keys, comptime!(ROWS / SIDE), stride);
    }
    total.scale_rows(scale, scale);
    store_packed(&total, d_packed, place, row, 0usize, format);
}

/// `d v_j = sum_i p_ij g_i` and `d k_j = scale sum_i d s_ij q_i`, into their parts of `d_packed`. Rows of strips are keys.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn key_gradient<E: Float>(
    packed: &[Vector<E, Const<WIDE>>],
    grad: &[Vector<E, Const<WIDE>>],
    sums: &[f32],
    deltas: &[f32],
    d_packed: &mut [Pair<E>],
    dims: Dims,
    scale: f32,
    #[comptime] format: Format,
) {
    let place = Place::of(&dims, false);
    if !place.exists {
        terminate!();
    }
    let stride = comptime!(format.stride());
    let steps = comptime!(format.d_head / SIDE);
    let passing = comptime!(format.passing());
    let mut keys = tile::<E>(ROWS, format);
    let mut values = tile::<E>(ROWS, format);
    let mut queries = tile::<E>(passing, format);
    let mut slopes = tile::<E>(passing, format);
    let mut logs = Shared::<[f32]>::new_aligned_slice(passing, 128usize);
    let mut offsets = Shared::<[f32]>::new_aligned_slice(passing, 128usize);
    load_packed(packed, &mut keys, place, place.start, 1usize, ROWS, format);
    load_packed(
        packed,
        &mut values,
        place,
        place.start,
        2usize,
        ROWS,
        format,
    );
    let row = place.start + band() + unit_row();
    let mut d_keys = Strip::zeros(comptime!(format.d_head / SQUARE));
    let mut d_values = Strip::zeros(comptime!(format.d_head / SQUARE));
    let mut begin = 0usize;
    if comptime!(format.causal) {
        begin = place.start / passing;
    }
    let blocks = (place.seq + passing - 1) / passing;
    for block in begin..blocks {
        let first = block * passing;
        sync_cube();
        load_packed(packed, &mut queries, place, first, 0usize, passing, format);
        load_plain(grad, &mut slopes, place, first, passing, format);
        load_sums(sums, deltas, &mut logs, &mut offsets, place, first, passing);
        sync_cube();
        let mut scores = Strip::zeros(comptime!(passing / SQUARE));
        let left = operands::<E>(&keys, band(), steps, stride);
        scores.add_by_rows::<E>(&left, &queries, steps, stride);
        scores.scale_rows(scale, scale);
        if comptime!(format.causal) {
            if first < place.start + ROWS {
                scores.hide(row, first + unit_col(), place.seq, true, true);
            }
        }
        let mut slope = Strip::zeros(comptime!(passing / SQUARE));
        let left = operands::<E>(&values, band(), steps, stride);
        slope.add_by_rows::<E>(&left, &slopes, steps, stride);
        #[unroll]
        for at in 0..comptime!(passing / SQUARE) {
            let col = unit_col() + comptime!(at * SQUARE);
            let mut log = Pair::<f32>::new(logs[col]);
            log.insert(1usize, logs[col + 1]);
            let mut offset = Pair::<f32>::new(offsets[col]);
            offset.insert(1usize, offsets[col + 1]);
            let score = scores.squares.index_mut(at);
            let part = slope.squares.index_mut(at);
            let upper = (score[0] - log).exp();
            let lower = (score[1] - log).exp();
            part[0] = upper * (part[0] - offset);
            part[1] = lower * (part[1] - offset);
            score[0] = upper;
            score[1] = lower;
        }
        let weights = scores.to_operands::<E>();
        d_values.add_by_columns::<E>(&weights, &slopes, comptime!(passing / SIDE), stride);
        let left = slope.to_operands::<E>();
        d_keys.add_by_columns::<E>(&left, &queries, comptime!(passing / SIDE), stride);
    }
    d_keys.scale_rows(scale, scale);
    store_packed(&d_keys, d_packed, place, row, 1usize, format);
    store_packed(&d_values, d_packed, place, row, 2usize, format);
}

/// Logarithms of sums and `g_i . y_i` of queries `first ..`.
#[cube]
fn load_sums(
    sums: &[f32],
    deltas: &[f32],
    logs: &mut Shared<[f32]>,
    offsets: &mut Shared<[f32]>,
    place: Place,
    first: usize,
    #[comptime] rows: usize,
) {
    let at = UNIT_POS as usize;
    if at < rows {
        let mut log = NO_QUERY.runtime();
        let mut offset = 0.0f32;
        if first + at < place.seq {
            log = sums[place.sum(first + at)];
            offset = deltas[place.sum(first + at)];
        }
        logs[at] = log;
        offsets[at] = offset;
    }
}

/// Writes the unit's part of 16 rows to one part of packed projections, the first of its own rows being `row`.
#[cube]
fn store_packed<E: Float>(
    strip: &Strip,
    packed: &mut [Pair<E>],
    place: Place,
    row: usize,
    part: usize,
    #[comptime] format: Format,
) {
    let pairs = comptime!(format.d_head / 2);
    #[unroll]
    for at in 0..comptime!(strip.count) {
        let square = strip.squares.index(at);
        let col = unit_col() / 2 + comptime!(at * SQUARE / 2);
        if row < place.seq {
            packed[place.packed(row, part, pairs) + col] = Pair::<E>::cast_from(square[0]);
        }
        if row + 8 < place.seq {
            packed[place.packed(row + 8, part, pairs) + col] = Pair::<E>::cast_from(square[1]);
        }
    }
}
