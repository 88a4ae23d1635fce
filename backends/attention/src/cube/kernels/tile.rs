//! Tiles between global and shared memory.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{Format, UNITS, WIDE, place::Place};

/// Operands in shared memory, in rows of [`Format::stride`] groups.
pub(super) type Tile<E> = Shared<[Vector<E, Const<WIDE>>]>;

/// A tile of `rows` rows.
#[cube]
pub(super) fn tile<E: Float>(#[comptime] rows: usize, #[comptime] format: Format) -> Tile<E> {
    Tile::<E>::new_aligned_slice(comptime!(rows * format.stride()), 128usize)
}

/// Rows `first ..` of one part of packed projections; zeros where the sequence has none.
#[cube]
pub(super) fn load_packed<E: Float>(
    packed: &[Vector<E, Const<WIDE>>],
    tile: &mut Tile<E>,
    place: Place,
    first: usize,
    part: usize,
    #[comptime] rows: usize,
    #[comptime] format: Format,
) {
    let (lines, stride) = comptime!((format.lines(), format.stride()));
    #[unroll]
    for step in 0..comptime!(rows * lines / UNITS) {
        let at = UNIT_POS as usize + comptime!(step * UNITS);
        let (row, line) = (at / lines, at % lines);
        let mut value = Vector::<E, Const<WIDE>>::new(E::from_int(0));
        if first + row < place.seq {
            value = packed[place.packed(first + row, part, lines) + line];
        }
        tile[row * stride + line] = value;
    }
}

/// Rows `first ..` of a gradient of the output; zeros where the sequence has none.
#[cube]
pub(super) fn load_plain<E: Float>(
    source: &[Vector<E, Const<WIDE>>],
    tile: &mut Tile<E>,
    place: Place,
    first: usize,
    #[comptime] rows: usize,
    #[comptime] format: Format,
) {
    let (lines, stride) = comptime!((format.lines(), format.stride()));
    #[unroll]
    for step in 0..comptime!(rows * lines / UNITS) {
        let at = UNIT_POS as usize + comptime!(step * UNITS);
        let (row, line) = (at / lines, at % lines);
        let mut value = Vector::<E, Const<WIDE>>::new(E::from_int(0));
        if first + row < place.seq {
            value = source[place.plain(first + row, lines) + line];
        }
        tile[row * stride + line] = value;
    }
}
