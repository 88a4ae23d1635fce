//! `y_t = sum_j (q k^T * D)_tj v_j + exp(A_t) S^T q_t`

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{
    CHUNK, Dims, FOUR, Format, HALVES, Numbers, Place, SIDE,
    band::{decay_band, scaled_band, store_sum},
    band_row,
    gates::Gates,
    half,
    product::{Band, Operand},
    tile::{Scale, load_rows, load_state, tile},
};

/// The output `[batch, seq, heads, d_value]`, from the states before every chunk.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn chunk_output<E: Float, O: Float, N: Size>(
    queries: &[Vector<E, N>],
    keys: &[Vector<E, N>],
    values: &[Vector<E, N>],
    log_decay: &[f32],
    states: &[Vector<E, Const<FOUR>>],
    outputs: &mut [Vector<E, N>],
    dims: Dims,
    #[comptime] format: Format,
) {
    let place = Place::of(&dims);
    if !place.exists {
        terminate!();
    }
    let (d_key, d_value) = comptime!((format.d_key, format.d_value));
    let gates = Gates::load(log_decay, place, format);
    let mut q = tile::<O, N>(CHUNK, d_key, format);
    let mut k = tile::<O, N>(CHUNK, d_key, format);
    let mut v = tile::<O, N>(CHUNK, d_value, format);
    let mut state = tile::<O, N>(d_key, d_value, format);
    load_rows(
        queries,
        &mut q,
        &gates,
        place,
        d_key,
        Scale::None,
        false,
        format,
    );
    load_rows(
        keys,
        &mut k,
        &gates,
        place,
        d_key,
        Scale::None,
        format.forgotten,
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
    let number = place.row * (dims.chunks + 1) + place.chunk;
    load_state(states, &mut state, number, format);
    sync_cube();

    let stride = comptime!(format.stage());
    let mut stage = Numbers::new_aligned_slice(comptime!(CHUNK * stride), 128usize);
    let mut weights = tile::<O, N>(CHUNK, CHUNK, format);
    let row = band_row();
    let of_chunk = half() * comptime!(CHUNK / HALVES);
    let of_value = half() * comptime!(d_value / HALVES);
    let by_key = comptime!(Operand::rows(d_key, format));
    let to_key = comptime!(Operand::transposed(d_key, format));
    let by_value = comptime!(Operand::rows(d_value, format));
    let by_chunk = comptime!(Operand::rows(CHUNK, format));
    let across = comptime!(d_value / HALVES / SIDE);

    let mut scores = Band::zeros(comptime!(CHUNK / HALVES / SIDE), format);
    scores.add_product(&q, &k, row, of_chunk, by_key, to_key, d_key);
    scores.store(&mut stage, row, of_chunk, stride);
    sync_plane();
    decay_band(&mut stage, &mut weights, &gates, format);

    let mut read = Band::zeros(across, format);
    read.add_product(&q, &state, row, of_value, by_key, by_value, d_key);
    // The other half's weights are read from here on, and halves of values are not those of the chunk.
    sync_cube();
    read.store(&mut stage, row, of_value, stride);
    sync_plane();
    let held = scaled_band::<N>(&mut stage, &gates, d_value, Scale::Entering, format);
    let mut inside = Band::zeros(across, format);
    inside.add_product(&weights, &v, row, of_value, by_chunk, by_value, CHUNK);
    sync_plane();
    inside.store(&mut stage, row, of_value, stride);
    sync_plane();
    store_sum(&mut stage, &held, outputs, place, d_value, format);
}
