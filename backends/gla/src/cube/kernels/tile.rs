//! Tiles between global and shared memory. `E` is what tensors hold, `O` what is multiplied, `N` how many go at once.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{CHUNK, FOUR, Format, Place, UNITS, gates::Gates};

/// By what the rows of a tile are multiplied as they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scale {
    None,
    /// `exp(A_t)`
    Entering,
    /// `exp(A_C - A_t)`
    Leaving,
}

/// Operands in shared memory, in rows of [`Format::stride`].
pub(super) type Tile<O, N> = Shared<[Vector<O, N>]>;

/// A tile of `rows` rows of `width` operands.
#[cube]
pub(super) fn tile<O: Float, N: Size>(
    #[comptime] rows: usize,
    #[comptime] width: usize,
    #[comptime] format: Format,
) -> Tile<O, N> {
    Tile::<O, N>::new_aligned_slice(
        comptime!(rows * format.stride(width) / format.wide()),
        128usize,
    )
}

/// Rows of a chunk, `[batch * seq, heads, width]`, zeros where the sequence has none; keys, if `forgotten`, by what their gate forgets.
#[cube]
pub(super) fn load_rows<E: Float, O: Float, N: Size>(
    rows: &[Vector<E, N>],
    tile: &mut Tile<O, N>,
    gates: &Gates,
    place: Place,
    #[comptime] width: usize,
    #[comptime] scale: Scale,
    #[comptime] forgotten: bool,
    #[comptime] format: Format,
) {
    let lines = comptime!(width / format.wide());
    let stride = comptime!(format.stride(width) / format.wide());
    #[unroll]
    for step in 0..comptime!(CHUNK * lines / UNITS) {
        let at = UNIT_POS as usize + comptime!(step * UNITS);
        let row = at / lines;
        let line = at % lines;
        let mut value = Vector::<E, N>::new(E::from_int(0));
        if row < place.len {
            value = rows[((place.first + row) * place.heads + place.head) * lines + line];
        }
        if comptime!(scale != Scale::None || forgotten) {
            let mut factor = 1.0f32;
            if comptime!(scale == Scale::Entering) {
                factor = gates.entering(row);
            }
            if comptime!(scale == Scale::Leaving) {
                factor = gates.leaving(row);
            }
            if comptime!(forgotten) {
                // Rows that are not there are zeros, but what shared memory holds for them may not even be a number.
                if row < place.len {
                    factor *= gates.forgotten(row);
                }
            }
            let scaled = Vector::<f32, N>::cast_from(value) * Vector::<f32, N>::new(factor);
            tile[row * stride + line] = Vector::<O, N>::cast_from(scaled);
        } else {
            tile[row * stride + line] = Vector::<O, N>::cast_from(value);
        }
    }
}

/// State number `number` of `[.., d_key, d_value]`, rounded to operands.
#[cube]
pub(super) fn load_state<E: Float, O: Float, N: Size>(
    states: &[Vector<E, Const<FOUR>>],
    tile: &mut Tile<O, N>,
    number: usize,
    #[comptime] format: Format,
) {
    let lines = comptime!(format.d_value / FOUR);
    let stride = comptime!(format.stride(format.d_value) / FOUR);
    let size = comptime!(format.state() / FOUR);
    let target = tile.with_vector_size_mut::<Const<FOUR>>();
    #[unroll]
    for step in 0..comptime!(size / UNITS) {
        let at = UNIT_POS as usize + comptime!(step * UNITS);
        let value = states[number * size + at];
        target[(at / lines) * stride + at % lines] = Vector::<O, Const<FOUR>>::cast_from(value);
    }
}
