//! Gradients of queries, and of keys and values.

use burn_cubecl::cubecl;
use cubecl::prelude::*;
use kiln_native::exp2;

use super::{
    Dims, Format, GROUP, SIDE, SQUARE, WIDE,
    dropout::Stream,
    place::{Place, plane_row, unit_col, unit_row},
    product::{Pair, Strip, operands},
    tile::{Passing, load, store, tile},
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
    let (stride, rows, lines) = comptime!((format.stride(), format.rows(), format.lines()));
    let (bands, passing) = comptime!((format.bands, format.passing));
    let steps = comptime!(format.d_head / SIDE);
    let squares = comptime!(passing / SQUARE);
    let (seq, start) = (place.seq, place.start);
    let mut queries = tile::<E>(rows, format);
    let mut slopes = tile::<E>(rows, format);
    let (end, whole) = place.keys(format);
    let mut keys = Passing::<E>::new(place.packed(1usize, lines), end, format);
    let mut values = Passing::<E>::new(place.packed(2usize, lines), end, format);
    load(
        packed,
        &mut queries,
        place.packed(0usize, lines),
        start,
        seq,
        rows,
        format,
    );
    load(
        grad,
        &mut slopes,
        place.plain(lines),
        start,
        seq,
        rows,
        format,
    );
    keys.send_for(packed, 0usize);
    values.send_for(packed, 0usize);
    let row = start + plane_row(bands) + unit_row();
    let plane_end = start + plane_row(bands) + comptime!(bands * SIDE);
    let unit_rows = comptime!(2 * bands);
    let mut logs = Array::<f32>::new(unit_rows);
    let mut offsets = Array::<f32>::new(unit_rows);
    #[unroll]
    for i in 0..unit_rows {
        let at = row + comptime!((i / 2) * SIDE + (i % 2) * 8);
        logs[i] = NO_QUERY.runtime();
        offsets[i] = 0.0f32;
        if at < seq {
            logs[i] = sums[place.sum(at)] * core::f32::consts::LOG2_E;
            offsets[i] = deltas[place.sum(at)];
        }
    }
    let stream = Stream::of(seed, place, format.dropped);
    let mut total = Strip::zeros(comptime!(format.d_head / SQUARE), bands);
    let blocks = (end + passing - 1) / passing;
    for block in 0..blocks {
        let first = block * passing;
        sync_cube();
        keys.arrive(packed, first);
        values.arrive(packed, first);
        sync_cube();
        // On their way while this block is worked on.
        let next = first + passing;
        keys.send_for(packed, next);
        values.send_for(packed, next);
        let mut seen = true;
        if comptime!(format.causal) {
            seen = first < plane_end;
        }
        if seen {
            let mut scores = Strip::zeros(squares, bands);
            let left = operands::<E>(&queries, plane_row(bands), bands, steps, stride);
            scores.add_by_rows::<E>(&left, &keys.tile, steps, stride);
            let col = first + unit_col();
            if next > whole {
                scores.hide(row, col, seq, false, comptime!(format.causal));
            }
            let mut slope = Strip::zeros(squares, bands);
            let left = operands::<E>(&slopes, plane_row(bands), bands, steps, stride);
            slope.add_by_rows::<E>(&left, &values.tile, steps, stride);
            let weigh = Weigh::new(scale);
            score_gradient(
                &mut scores,
                &slope,
                &logs,
                &offsets,
                &stream,
                &weigh,
                row,
                col,
            );
            let left = scores.to_operands::<E>();
            total.add_by_columns::<E>(&left, &keys.tile, comptime!(passing / SIDE), stride);
        }
    }
    total.scale(scale * core::f32::consts::LN_2);
    let rows = place.packed(0usize, comptime!(format.d_head / 2));
    store(&total, d_packed, rows, row, seq);
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
    let (stride, rows, lines) = comptime!((format.stride(), format.rows(), format.lines()));
    let (bands, passing) = comptime!((format.bands, format.passing));
    let steps = comptime!(format.d_head / SIDE);
    let squares = comptime!(passing / SQUARE);
    let (seq, start) = (place.seq, place.start);
    let mut keys = tile::<E>(rows, format);
    let mut values = tile::<E>(rows, format);
    let mut queries = Passing::<E>::new(place.packed(0usize, lines), seq, format);
    let mut slopes = Passing::<E>::new(place.plain(lines), seq, format);
    let mut logs = Shared::<[f32]>::new_aligned_slice(passing, 128usize);
    let mut offsets = Shared::<[f32]>::new_aligned_slice(passing, 128usize);
    load(
        packed,
        &mut keys,
        place.packed(1usize, lines),
        start,
        seq,
        rows,
        format,
    );
    load(
        packed,
        &mut values,
        place.packed(2usize, lines),
        start,
        seq,
        rows,
        format,
    );
    let mut begin = 0usize;
    if comptime!(format.causal) {
        begin = start / passing;
    }
    queries.send_for(packed, begin * passing);
    slopes.send_for(grad, begin * passing);
    let plane_start = start + plane_row(bands);
    let row = plane_start + unit_row();
    let stream = Stream::of(seed, place, format.dropped);
    let mut d_keys = Strip::zeros(comptime!(format.d_head / SQUARE), bands);
    let mut d_values = Strip::zeros(comptime!(format.d_head / SQUARE), bands);
    let blocks = (seq + passing - 1) / passing;
    for block in begin..blocks {
        let first = block * passing;
        sync_cube();
        queries.arrive(packed, first);
        slopes.arrive(grad, first);
        load_sums(sums, deltas, &mut logs, &mut offsets, place, first, passing);
        sync_cube();
        // On their way while this block is worked on.
        let next = first + passing;
        queries.send_for(packed, next);
        slopes.send_for(grad, next);
        let mut seen = true;
        if comptime!(format.causal) {
            seen = next > plane_start;
        }
        if seen {
            let mut scores = Strip::zeros(squares, bands);
            let left = operands::<E>(&keys, plane_row(bands), bands, steps, stride);
            scores.add_by_rows::<E>(&left, &queries.tile, steps, stride);
            if comptime!(format.causal) {
                if first < start + rows {
                    scores.hide(row, first + unit_col(), seq, true, true);
                }
            }
            let mut slope = Strip::zeros(squares, bands);
            let left = operands::<E>(&values, plane_row(bands), bands, steps, stride);
            slope.add_by_rows::<E>(&left, &slopes.tile, steps, stride);
            let weigh = Weigh::new(scale);
            turned_score_gradient(
                &mut scores,
                &mut slope,
                &logs,
                &offsets,
                &stream,
                &weigh,
                row,
                first,
            );
            let weights = scores.to_operands::<E>();
            d_values.add_by_columns::<E>(&weights, &slopes.tile, comptime!(passing / SIDE), stride);
            let left = slope.to_operands::<E>();
            d_keys.add_by_columns::<E>(&left, &queries.tile, comptime!(passing / SIDE), stride);
        }
    }
    d_keys.scale(scale * core::f32::consts::LN_2);
    let pairs = comptime!(format.d_head / 2);
    store(&d_keys, d_packed, place.packed(1usize, pairs), row, seq);
    store(&d_values, d_packed, place.packed(2usize, pairs), row, seq);
}

/// From products of queries and keys to weights.
#[derive(CubeType)]
struct Weigh {
    scale: f32,
}

#[cube]
impl Weigh {
    fn new(scale: f32) -> Weigh {
        Weigh { scale }
    }

    /// The weights of two scores, from the logarithms of their sums to base two.
    fn weights(&self, score: Pair<f32>, log: Pair<f32>) -> Pair<f32> {
        let mut weights = Pair::<f32>::new(0.0f32);
        #[unroll]
        for next in 0..2usize {
            let exponent = score.extract(next) * self.scale - log.extract(next);
            weights.insert(next, exp2(exponent));
        }
        weights
    }
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
    weigh: &Weigh,
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
                let weight = weigh.weights(score[lower], Pair::<f32>::new(logs[i]));
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
    weigh: &Weigh,
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
                let weight = weigh.weights(score[lower], log);
                change[lower] = weight * (change[lower] * kept - offset);
                score[lower] = weight * kept;
            }
        }
    }
}

/// Logarithms of sums to base two, and `g_i . y_i`, of queries `first ..`.
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
            log = sums[place.sum(first + at)] * core::f32::consts::LOG2_E;
            offset = deltas[place.sum(first + at)];
        }
        logs[at] = log;
        offsets[at] = offset;
    }
}
