//! What a plane does with its band of a stage, element by element.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{
    CHUNK, Format, PLANE, Place, SIDE,
    gates::Gates,
    tile::{Scale, Tile},
};

/// Where a unit stands in its plane's band, over which the plane passes in pieces of [`Format::wide`] columns.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Piece {
    /// Position in the chunk.
    pub row: usize,
    /// First column.
    pub col: usize,
}

/// Passes of a plane over its band.
pub(super) fn passes(width: usize, format: Format) -> usize {
    SIDE * width / (PLANE * format.wide())
}

/// The piece of a unit in a pass.
#[cube]
pub(super) fn piece(
    #[comptime] pass: usize,
    #[comptime] width: usize,
    #[comptime] format: Format,
) -> Piece {
    let lines = comptime!(width / format.wide());
    let unit = UNIT_POS_PLANE as usize;
    Piece {
        row: PLANE_POS as usize * SIDE + comptime!(pass * PLANE / lines) + unit / lines,
        col: (unit % lines) * comptime!(format.wide()),
    }
}

/// A band of scores times `D`, as operands.
#[cube]
pub(super) fn decay_band<O: Float, N: Size>(
    stage: &Shared<[f32]>,
    weights: &mut Tile<O, N>,
    gates: &Gates,
    #[comptime] format: Format,
) {
    let stride = comptime!(format.stage());
    #[unroll]
    for pass in 0..comptime!(passes(CHUNK, format)) {
        let at = piece(pass, CHUNK, format);
        let mut value = Vector::<O, N>::new(O::from_int(0));
        #[unroll]
        for i in 0..comptime!(format.wide()) {
            let j = at.col + i;
            if j <= at.row {
                let weight = stage[at.row * stride + j] * gates.between(at.row, j);
                value.insert(i, O::cast_from(weight));
            }
        }
        weights[(at.row * comptime!(format.stride(CHUNK)) + at.col) / comptime!(format.wide())] =
            value;
    }
}

/// Multiplies the rows of a band.
#[cube]
pub(super) fn scale_band(
    stage: &mut Shared<[f32]>,
    gates: &Gates,
    #[comptime] width: usize,
    #[comptime] scale: Scale,
    #[comptime] format: Format,
) {
    let stride = comptime!(format.stage());
    #[unroll]
    for pass in 0..comptime!(passes(width, format)) {
        let at = piece(pass, width, format);
        let factor = if comptime!(scale == Scale::Entering) {
            gates.entering(at.row)
        } else {
            gates.leaving(at.row)
        };
        #[unroll]
        for i in 0..comptime!(format.wide()) {
            stage[at.row * stride + at.col + i] *= factor;
        }
    }
}

/// Writes a band to `[batch * seq, heads, width]`.
#[cube]
pub(super) fn store_band<E: Float, N: Size>(
    stage: &Shared<[f32]>,
    target: &mut [Vector<E, N>],
    place: Place,
    #[comptime] width: usize,
    #[comptime] format: Format,
) {
    let (stride, wide) = comptime!((format.stage(), format.wide()));
    #[unroll]
    for pass in 0..comptime!(passes(width, format)) {
        let at = piece(pass, width, format);
        let mut value = Vector::<E, N>::new(E::from_int(0));
        #[unroll]
        for i in 0..wide {
            value.insert(i, E::cast_from(stage[at.row * stride + at.col + i]));
        }
        if at.row < place.len {
            let row = (place.first + at.row) * place.heads + place.head;
            target[row * comptime!(width / wide) + at.col / wide] = value;
        }
    }
}
