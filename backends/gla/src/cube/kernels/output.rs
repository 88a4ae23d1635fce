//! `y_t = sum_j (q k^T * D)_tj v_j + exp(A_t) S^T q_t`

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{
    CHUNK, Dims, FOUR, Format, Place, SIDE,
    band::{decay_band, scale_band, store_band},
    gates::Gates,
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
    states: &[Vector<f32, Const<FOUR>>],
    outputs: &mut [Vector<E, N>],
    dims: Dims,
    #[comptime] format: Format,
) {
    let place = Place::of(&dims);
    if !place.exists {
        terminate!();
    }
    let (d_key, d_value) = comptime!((format.d_key, format.d_value));
    let gates = Gates::load(log_decay, place);
    let mut q = tile::<O, N>(CHUNK, d_key, format);
    let mut k = tile::<O, N>(CHUNK, d_key, format);
    let mut v = tile::<O, N>(CHUNK, d_value, format);
    let mut state = tile::<O, N>(d_key, d_value, format);
    load_rows(queries, &mut q, &gates, place, d_key, Scale::None, format);
    load_rows(keys, &mut k, &gates, place, d_key, Scale::None, format);
    load_rows(values, &mut v, &gates, place, d_value, Scale::None, format);
    let number = place.row * (dims.chunks + 1) + place.chunk;
    load_state(states, &mut state, number, format);
    sync_cube();

    let stride = comptime!(format.stage());
    let mut stage = Shared::<[f32]>::new_aligned_slice(comptime!(CHUNK * stride), 128usize);
    let mut weights = tile::<O, N>(CHUNK, CHUNK, format);
    let row = PLANE_POS as usize * SIDE;
    let by_key = comptime!(Operand::rows(d_key, format));
    let to_key = comptime!(Operand::transposed(d_key, format));
    let by_value = comptime!(Operand::rows(d_value, format));
    let by_chunk = comptime!(Operand::rows(CHUNK, format));
    let across = comptime!(d_value / SIDE);

    let mut scores = Band::zeros(comptime!(CHUNK / SIDE), format);
    scores.add_product(&q, &k, row, 0usize, by_key, to_key, d_key);
    scores.store(&mut stage, row, 0usize, stride);
    sync_plane();
    decay_band(&stage, &mut weights, &gates, format);

    let mut read = Band::zeros(across, format);
    read.add_product(&q, &state, row, 0usize, by_key, by_value, d_key);
    sync_plane();
    read.store(&mut stage, row, 0usize, stride);
    sync_plane();
    scale_band(&mut stage, &gates, d_value, Scale::Entering, format);
    sync_plane();
    let mut total = Band::load(&stage, row, stride, across, format);
    total.add_product(&weights, &v, row, 0usize, by_chunk, by_value, CHUNK);
    sync_plane();
    total.store(&mut stage, row, 0usize, stride);
    sync_plane();
    store_band(&stage, outputs, place, d_value, format);
}
