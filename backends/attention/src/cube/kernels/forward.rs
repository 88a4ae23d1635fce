//! `y_i = sum_j p_ij v_j`, block by block of keys, with the largest score so far taken out.

use burn_cubecl::cubecl;
use cubecl::prelude::*;
use kiln_native::exp2;

use super::{
    Dims, Format, GROUP, NEVER, SIDE, SQUARE, WIDE,
    dropout::Stream,
    place::{Place, plane_row, unit_col, unit_row},
    product::{Pair, Strip, operands},
    tile::{Passing, load, store, tile},
};

/// The output `[batch, seq, heads, d_head]`, and the logarithms of the sums `[batch, heads, seq]`.
///
/// `scale` is that of exponents of two.
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
    let (stride, rows, lines) = comptime!((format.stride(), format.rows(), format.lines()));
    let (bands, passing) = comptime!((format.bands, format.passing));
    let steps = comptime!(format.d_head / SIDE);
    let squares = comptime!(passing / SQUARE);
    let (seq, start) = (place.seq, place.start);
    let mut own = tile::<E>(rows, format);
    let (end, whole) = place.keys(format);
    let mut keys = Passing::<E>::new(place.packed(1usize, lines), end, format);
    let mut values = Passing::<E>::new(place.packed(2usize, lines), end, format);
    load(
        packed,
        &mut own,
        place.packed(0usize, lines),
        start,
        seq,
        rows,
        format,
    );
    keys.send_for(packed, 0usize);
    values.send_for(packed, 0usize);
    sync_cube();
    let queries = operands::<E>(&own, plane_row(bands), bands, steps, stride);

    let stream = Stream::of(seed, place, format.dropped);
    let mut total = Strip::zeros(comptime!(format.d_head / SQUARE), bands);
    let mut softmax = Softmax::new(bands);
    let row = start + plane_row(bands) + unit_row();
    let plane_end = start + plane_row(bands) + comptime!(bands * SIDE);
    let blocks = (end + passing - 1) / passing;
    for block in 0..blocks {
        let first = block * passing;
        sync_cube();
        keys.arrive(packed, first);
        values.arrive(packed, first);
        sync_cube();
        // On their way while this block is worked on.
        keys.send_for(packed, first + passing);
        values.send_for(packed, first + passing);
        let mut seen = true;
        if comptime!(format.causal) {
            seen = first < plane_end;
        }
        if seen {
            let mut scores = Strip::zeros(squares, bands);
            scores.add_by_rows::<E>(&queries, &keys.tile, steps, stride);
            if first + passing > whole {
                let col = first + unit_col();
                scores.hide(row, col, seq, false, comptime!(format.causal));
            }
            softmax.take(&mut scores, scale);
            if comptime!(format.dropped > 0) {
                drop_weights(&mut scores, &stream, row, first + unit_col());
            }
            total.scale_rows(&softmax.kept);
            let weights = scores.to_operands::<E>();
            total.add_by_columns::<E>(&weights, &values.tile, comptime!(passing / SIDE), stride);
        }
    }
    #[unroll]
    for i in 0..comptime!(2 * bands) {
        let sum = sum_of_four(softmax.sums[i]);
        softmax.kept[i] = 1.0 / sum;
        let at = row + comptime!((i / 2) * SIDE + (i % 2) * 8);
        if unit_col() == 0 && at < seq {
            let top = softmax.tops[i] * scale * core::f32::consts::LN_2;
            sums[place.sum(at)] = top + sum.ln();
        }
    }
    total.scale_rows(&softmax.kept);
    store(
        &total,
        output,
        place.plain(comptime!(format.d_head / 2)),
        row,
        seq,
    );
}

/// What is known of each of the unit's rows, two a band.
#[derive(CubeType)]
struct Softmax {
    /// The largest score so far.
    tops: Array<f32>,
    /// The unit's part of the sum of the exponentials so far, the largest score taken out.
    sums: Array<f32>,
    /// What the last block left of the sum before it.
    kept: Array<f32>,
    #[cube(comptime)]
    rows: usize,
}

#[cube]
impl Softmax {
    fn new(#[comptime] bands: usize) -> Softmax {
        let rows = comptime!(2 * bands);
        let mut tops = Array::<f32>::new(rows);
        let mut sums = Array::<f32>::new(rows);
        let kept = Array::<f32>::new(rows);
        #[unroll]
        for i in 0..rows {
            tops[i] = NEVER.runtime();
            sums[i] = 0.0f32;
        }
        Softmax {
            tops,
            sums,
            kept,
            rows,
        }
    }

    /// Turns the scores of a block into weights, those of all blocks being relative to the largest score so far.
    fn take(&mut self, scores: &mut Strip, scale: f32) {
        let squares = comptime!(scores.count);
        #[unroll]
        for i in 0..comptime!(self.rows) {
            let (band, lower) = comptime!((i / 2, i % 2));
            let mut top = self.tops[i];
            #[unroll]
            for square in 0..squares {
                let pair = scores.squares.index(comptime!(band * squares + square))[lower];
                top = max(top, max(pair.extract(0usize), pair.extract(1usize)));
            }
            top = largest_of_four(top);
            self.kept[i] = exp2((self.tops[i] - top) * scale);
            self.tops[i] = top;
            let offset = top * scale;
            let mut added = 0.0f32;
            #[unroll]
            for square in 0..squares {
                let part = scores.squares.index_mut(comptime!(band * squares + square));
                let mut pair = part[lower];
                #[unroll]
                for next in 0..2usize {
                    let weight = exp2(pair.extract(next) * scale - offset);
                    added += weight;
                    pair.insert(next, weight);
                }
                part[lower] = pair;
            }
            self.sums[i] = self.sums[i] * self.kept[i] + added;
        }
    }
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
