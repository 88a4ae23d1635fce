//! Gradients of queries, and of keys and values.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{
    Dims, Format, GROUP, SIDE, SQUARE, WIDE,
    dropout::Stream,
    place::{Place, plane_row, unit_col, unit_row},
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
    let mut queries = tile::<E>(rows, format);
    let mut slopes = tile::<E>(rows, format);
    let mut keys = tile::<E>(passing, format);
    let mut values = tile::<E>(passing, format);
    load_packed(
        packed,
        &mut queries,
        place,
        place.start,
        0usize,
        rows,
        format,
    );
    load_plain(grad, &mut slopes, place, place.start, rows, format);
    let row = place.start + plane_row(bands) + unit_row();
    let unit_rows = comptime!(2 * bands);
    let mut logs = Array::<f32>::new(unit_rows);
    let mut offsets = Array::<f32>::new(unit_rows);
    #[unroll]
    for i in 0..unit_rows {
        let at = row + comptime!((i / 2) * SIDE + (i % 2) * 8);
        let mut log = NO_QUERY.runtime();
        let mut offset = 0.0f32;
        if at < place.seq {
            log = sums[place.sum(at)];
            offset = deltas[place.sum(at)];
        }
        logs[i] = log;
        offsets[i] = offset;
    }
    let stream = Stream::of(seed, place, format.dropped);
    let mut total = Strip::zeros(comptime!(format.d_head / SQUARE), bands);
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
        let left = operands::<E>(&queries, plane_row(bands), bands, steps, stride);
        scores.add_by_rows::<E>(&left, &keys, steps, stride);
        scores.scale(scale);
        if first + passing > whole {
            let col = first + unit_col();
            scores.hide(row, col, place.seq, false, comptime!(format.causal));
        }
        let mut slope = Strip::zeros(squares, bands);
        let left = operands::<E>(&slopes, plane_row(bands), bands, steps, stride);
        slope.add_by_rows::<E>(&left, &values, steps, stride);
        score_gradient(
            &mut scores,
            &slope,
            &logs,
            &offsets,
            &stream,
            row,
            first + unit_col(),
        );
        let left = scores.to_operands::<E>();
        total.add_by_columns::<E>(&left, &keys, comptime!(passing / SIDE), stride);
    }
    total.scale(scale);
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
    seed: ComptimeOption<&[i32]>,
    dims: Dims,
    scale: f32,
    #[comptime] format: Format,
) {
    let place = Place::of(&dims, comptime!(format.rows()), false);
    if !place.exists {
        terminate!();
    }
    let (stride, rows) = comptime!((format.stride(), format.rows()));
    let (bands, passing) = comptime!((format.bands, format.passing));
    let steps = comptime!(format.d_head / SIDE);
    let squares = comptime!(passing / SQUARE);
    let mut keys = tile::<E>(rows, format);
    let mut values = tile::<E>(rows, format);
    let mut queries = tile::<E>(passing, format);
    let mut slopes = tile::<E>(passing, format);
    let mut logs = Shared::<[f32]>::new_aligned_slice(passing, 128usize);
    let mut offsets = Shared::<[f32]>::new_aligned_slice(passing, 128usize);
    load_packed(packed, &mut keys, place, place.start, 1usize, rows, format);
    load_packed(
        packed,
        &mut values,
        place,
        place.start,
        2usize,
        rows,
        format,
    );
    let row = place.start + plane_row(bands) + unit_row();
    let stream = Stream::of(seed, place, format.dropped);
    let mut d_keys = Strip::zeros(comptime!(format.d_head / SQUARE), bands);
    let mut d_values = Strip::zeros(comptime!(format.d_head / SQUARE), bands);
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
        let mut scores = Strip::zeros(squares, bands);
        let left = operands::<E>(&keys, plane_row(bands), bands, steps, stride);
        scores.add_by_rows::<E>(&left, &queries, steps, stride);
        scores.scale(scale);
        if comptime!(format.causal) {
            if first < place.start + rows {
                scores.hide(row, first + unit_col(), place.seq, true, true);
            }
        }
        let mut slope = Strip::zeros(squares, bands);
        let left = operands::<E>(&values, plane_row(bands), bands, steps, stride);
        slope.add_by_rows::<E>(&left, &slopes, steps, stride);
        turned_score_gradient(
            &mut scores,
            &mut slope,
            &logs,
            &offsets,
            &stream,
            row,
            first,
        );
        let weights = scores.to_operands::<E>();
        d_values.add_by_columns::<E>(&weights, &slopes, comptime!(passing / SIDE), stride);
        let left = slope.to_operands::<E>();
        d_keys.add_by_columns::<E>(&left, &queries, comptime!(passing / SIDE), stride);
    }
    d_keys.scale(scale);
    store_packed(&d_keys, d_packed, place, row, 1usize, format);
    store_packed(&d_values, d_packed, place, row, 2usize, format);
}

/// From scores and `g_i . v_j` to `d s_ij` without its scale, in place of the scores. Rows are queries; `row` is the position of
/// the first of the unit's rows and `col` that of the first of its columns.
#[cube]
fn score_gradient(
    scores: &mut Strip,
    slope: &Strip,
    logs: &Array<f32>,
    offsets: &Array<f32>,
    stream: &Stream,
    row: usize,
    col: usize,
) {
    let (count, groups) = comptime!((scores.count, scores.count / GROUP));
    #[unroll]
    for part in 0..comptime!(scores.bands * groups) {
        let (band, group) = comptime!((part / groups, part % groups));
        let query = row + comptime!(band * SIDE);
        let words = stream.of_keys(query, col + comptime!(group * GROUP * SQUARE));
        #[unroll]
        for square in 0..GROUP {
            let at = comptime!(band * count + group * GROUP + square);
            let score = scores.squares.index_mut(at);
            let change = slope.squares.index(at);
            #[unroll]
            for lower in 0..2usize {
                let i = comptime!(2 * band + lower);
                let word = comptime!(2 * lower + square / 2);
                let kept = stream.factors(&words, word, comptime!(square % 2 == 1));
                let weight = (score[lower] - Pair::<f32>::new(logs[i])).exp();
                score[lower] = weight * (change[lower] * kept - Pair::<f32>::new(offsets[i]));
            }
        }
    }
}

/// From scores and `g_i . v_j` to weights with dropout, in place of the scores, and `d s_ij` without its scale, in place of the
/// others. Rows are keys, the first of the unit's being `row`; columns are queries, the first of the block being `first`.
#[cube]
fn turned_score_gradient(
    scores: &mut Strip,
    slope: &mut Strip,
    logs: &Shared<[f32]>,
    offsets: &Shared<[f32]>,
    stream: &Stream,
    row: usize,
    first: usize,
) {
    let (count, bands) = comptime!((scores.count, scores.bands));
    #[unroll]
    for side in 0..comptime!(count * SQUARE / SIDE) {
        let query = first + unit_col() + comptime!(side * SIDE);
        let words = stream.of_queries(query, row, bands);
        #[unroll]
        for part in 0..comptime!(2 * bands) {
            let (right, band) = comptime!((part % 2, part / 2));
            let square = comptime!(2 * side + right);
            let col = unit_col() + comptime!(square * SQUARE);
            let mut log = Pair::<f32>::new(logs[col]);
            log.insert(1usize, logs[col + 1]);
            let mut offset = Pair::<f32>::new(offsets[col]);
            offset.insert(1usize, offsets[col + 1]);
            let score = scores.squares.index_mut(comptime!(band * count + square));
            let change = slope.squares.index_mut(comptime!(band * count + square));
            #[unroll]
            for lower in 0..2usize {
                let word = comptime!(2 * right + band);
                let kept = stream.factors(&words, word, comptime!(lower == 1));
                let weight = (score[lower] - log).exp();
                change[lower] = weight * (change[lower] * kept - offset);
                score[lower] = weight * kept;
            }
        }
    }
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

/// Writes the unit's part of a strip to one part of packed projections, the first of its own rows being `row`.
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
    for at in 0..comptime!(strip.bands * strip.count) {
        let square = strip.squares.index(at);
        let col = unit_col() / 2 + comptime!((at % strip.count) * SQUARE / 2);
        let row = row + comptime!((at / strip.count) * SIDE);
        if row < place.seq {
            packed[place.packed(row, part, pairs) + col] = Pair::<E>::cast_from(square[0]);
        }
        if row + 8 < place.seq {
            packed[place.packed(row + 8, part, pairs) + col] = Pair::<E>::cast_from(square[1]);
        }
    }
}
