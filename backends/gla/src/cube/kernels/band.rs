//! What a plane does with its band of a stage, element by element.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{
    CHUNK, FOUR, Format, HALVES, Numbers, PLANE, Place, SIDE, band_row,
    gates::Gates,
    half,
    tile::{Scale, Tile},
};

/// Where a unit stands in its plane's half of a band, over which the plane passes in pieces of [`Format::wide`] columns.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Piece {
    /// Position in the chunk.
    pub row: usize,
    /// First column.
    pub col: usize,
}

/// Pieces of a row of a plane's half.
pub(super) fn lines(width: usize, format: Format) -> usize {
    width / HALVES / format.wide()
}

/// Passes of a plane over its half of a band.
pub(super) fn passes(width: usize, format: Format) -> usize {
    SIDE * lines(width, format) / PLANE
}

/// The piece of a unit in a pass.
#[cube]
pub(super) fn piece(
    #[comptime] pass: usize,
    #[comptime] width: usize,
    #[comptime] format: Format,
) -> Piece {
    let lines = comptime!(lines(width, format));
    let unit = UNIT_POS_PLANE as usize;
    Piece {
        row: band_row() + comptime!(pass * PLANE / lines) + unit / lines,
        col: half() * comptime!(width / HALVES) + (unit % lines) * comptime!(format.wide()),
    }
}

/// A piece of a stage: numbers that lie beside each other are read and written together, without conflicts between the rows of a plane.
#[cube]
pub(super) fn staged<N: Size>(
    stage: &mut Numbers,
    at: Piece,
    #[comptime] format: Format,
) -> Vector<f32, N> {
    let stride = comptime!(format.stage() / FOUR);
    let stage = stage.with_vector_size::<Const<FOUR>>();
    let mut value = Vector::<f32, N>::new(0.0f32);
    #[unroll]
    for part in 0..comptime!(format.wide() / FOUR) {
        let four = stage[at.row * stride + at.col / FOUR + part];
        #[unroll]
        for i in 0..FOUR {
            value.insert(comptime!(part * FOUR + i), four.extract(i));
        }
    }
    value
}

/// Puts a piece into a stage.
#[cube]
pub(super) fn put<N: Size>(
    stage: &mut Numbers,
    at: Piece,
    value: Vector<f32, N>,
    #[comptime] format: Format,
) {
    let stride = comptime!(format.stage() / FOUR);
    let stage = stage.with_vector_size_mut::<Const<FOUR>>();
    #[unroll]
    for part in 0..comptime!(format.wide() / FOUR) {
        let mut four = Vector::<f32, Const<FOUR>>::new(0.0f32);
        #[unroll]
        for i in 0..FOUR {
            four.insert(i, value.extract(comptime!(part * FOUR + i)));
        }
        stage[at.row * stride + at.col / FOUR + part] = four;
    }
}

/// A band of scores times `D`, as operands.
#[cube]
pub(super) fn decay_band<O: Float, N: Size>(
    stage: &mut Numbers,
    weights: &mut Tile<O, N>,
    gates: &Gates,
    #[comptime] format: Format,
) {
    #[unroll]
    for pass in 0..comptime!(passes(CHUNK, format)) {
        let at = piece(pass, CHUNK, format);
        let mut value = Vector::<O, N>::new(O::from_int(0));
        if at.col <= at.row {
            let scores = staged::<N>(stage, at, format);
            let decay = gates.piece::<N>(at, format);
            value = Vector::<O, N>::cast_from(scores * decay);
        }
        weights[(at.row * comptime!(format.stride(CHUNK)) + at.col) / comptime!(format.wide())] =
            value;
    }
}

/// A plane's half of a band times the factors of its rows, which units keep in registers: what is added to it later need not pass
/// through shared memory once more.
#[cube]
pub(super) fn scaled_band<N: Size>(
    stage: &mut Numbers,
    gates: &Gates,
    #[comptime] width: usize,
    #[comptime] scale: Scale,
    #[comptime] format: Format,
) -> Array<Vector<f32, N>> {
    let mut held = Array::<Vector<f32, N>>::new(comptime!(passes(width, format)));
    #[unroll]
    for pass in 0..comptime!(passes(width, format)) {
        let at = piece(pass, width, format);
        let factor = if comptime!(scale == Scale::Entering) {
            gates.entering(at.row)
        } else {
            gates.leaving(at.row)
        };
        held[pass] = staged::<N>(stage, at, format) * Vector::<f32, N>::new(factor);
    }
    held
}

/// Writes what units hold of a band and what the stage has of it, added up, to `[batch * seq, heads, width]`.
#[cube]
pub(super) fn store_sum<E: Float, N: Size>(
    stage: &mut Numbers,
    held: &Array<Vector<f32, N>>,
    target: &mut [Vector<E, N>],
    place: Place,
    #[comptime] width: usize,
    #[comptime] format: Format,
) {
    let wide = comptime!(format.wide());
    #[unroll]
    for pass in 0..comptime!(passes(width, format)) {
        let at = piece(pass, width, format);
        let value = held[pass] + staged::<N>(stage, at, format);
        if at.row < place.len {
            let row = (place.first + at.row) * place.heads + place.head;
            target[row * comptime!(width / wide) + at.col / wide] =
                Vector::<E, N>::cast_from(value);
        }
    }
}

/// [`store_sum`] of the gradients of keys. Where a key is written by what its gate forgets, what comes is the gradient of that product:
/// `written` gets its products with the keys, for each half of a row.
#[cube]
pub(super) fn store_keys<E: Float, N: Size>(
    stage: &mut Numbers,
    held: &Array<Vector<f32, N>>,
    keys: &[Vector<E, N>],
    target: &mut [Vector<E, N>],
    written: &mut Shared<[f32]>,
    gates: &Gates,
    place: Place,
    #[comptime] format: Format,
) {
    let width = comptime!(format.d_key);
    let wide = comptime!(format.wide());
    let lines = comptime!(lines(width, format));
    #[unroll]
    for pass in 0..comptime!(passes(width, format)) {
        let at = piece(pass, width, format);
        let mut value = held[pass] + staged::<N>(stage, at, format);
        let row = (place.first + at.row) * place.heads + place.head;
        let to = row * comptime!(width / wide) + at.col / wide;
        if comptime!(format.forgotten) {
            let mut dot = 0.0f32;
            if at.row < place.len {
                dot = (value * Vector::<f32, N>::cast_from(keys[to])).vector_sum();
                value *= Vector::<f32, N>::new(gates.forgotten(at.row));
            }
            // The units of a half row are neighbours.
            #[unroll]
            for level in 0..comptime!(lines.trailing_zeros()) {
                dot += plane_shuffle_xor(dot, comptime!(1u32 << level));
            }
            if UNIT_POS_PLANE as usize % lines == 0 {
                written[at.row * HALVES + half()] = dot;
            }
        }
        if at.row < place.len {
            target[to] = Vector::<E, N>::cast_from(value);
        }
    }
}
