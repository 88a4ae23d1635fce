//! What a chunk adds to the state: `sum_j exp(A_C - A_j) k_j v_j^T`, and backward `sum_t exp(A_t) q_t dy_t^T`.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{
    CHUNK, Dims, Format, PLANES, Place, SIDE,
    gates::Gates,
    product::{Band, Operand},
    tile::{Scale, load_rows, tile},
};

/// `states [rows, chunks + 1, d_key, d_value]` from number 1 on or, backward, with q for the keys and the gradient of the
/// output for the values, from number 0 on; and the sums of a chunk's gates, `whole [rows, chunks]`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn write_states<E: Float, O: Float, N: Size>(
    keys: &[Vector<E, N>],
    values: &[Vector<E, N>],
    log_decay: &[f32],
    states: &mut [f32],
    whole: &mut [f32],
    dims: Dims,
    #[comptime] format: Format,
    #[comptime] reverse: bool,
) {
    let place = Place::of(&dims);
    if !place.exists {
        terminate!();
    }
    let (d_key, d_value) = comptime!((format.d_key, format.d_value));
    let gates = Gates::load(log_decay, place, format);
    let mut k = tile::<O, N>(CHUNK, d_key, format);
    let mut v = tile::<O, N>(CHUNK, d_value, format);
    let scale = comptime!(match reverse {
        true => Scale::Entering,
        false => Scale::Leaving,
    });
    let by_forgotten = comptime!(format.forgotten && !reverse);
    load_rows(
        keys,
        &mut k,
        &gates,
        place,
        d_key,
        scale,
        by_forgotten,
        format,
    );
    load_rows(
        values,
        &mut v,
        &gates,
        place,
        d_value,
        Scale::None,
        false,
        format,
    );
    let mut number = place.row * (dims.chunks + 1) + place.chunk;
    if comptime!(!reverse) {
        number += 1;
    }
    if UNIT_POS == 0 {
        whole[place.row * dims.chunks + place.chunk] = gates.sum(comptime!(CHUNK - 1).runtime());
    }
    sync_cube();

    // Squares of the state, row by row, in equal shares; of the smallest state some planes have none.
    let across = comptime!(d_value / SIDE);
    let squares = comptime!(d_key / SIDE * across);
    let share = comptime!(squares.div_ceil(PLANES));
    let count = comptime!(share.min(across));
    let start = number * comptime!(format.state());
    let end = start + comptime!(format.state());
    #[unroll]
    for band in 0..comptime!(share.div_ceil(across)) {
        let square = PLANE_POS as usize * share + comptime!(band * across);
        let row = (square / across) * SIDE;
        let col = (square % across) * SIDE;
        if square < squares {
            let mut acc = Band::zeros(count, format);
            acc.add_product(
                &k,
                &v,
                row,
                col,
                comptime!(Operand::transposed(d_key, format)),
                comptime!(Operand::rows(d_value, format)),
                CHUNK,
            );
            acc.store(&mut states[start..end], row, col, d_value);
        }
    }
}
