//! The gradients of a chunk: see [`crate::chunked`] for the equations.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{
    CHUNK, Dims, FOUR, Format, HALVES, Numbers, PLANES, Place, SIDE, UNITS,
    band::{decay_band, scaled_band, store_keys, store_sum},
    band_row,
    gates::Gates,
    half,
    paths::{crossing, dot_band, paths_of_band, store_gates},
    product::{Band, Operand},
    tile::{Scale, Tile, load_rows, tile},
};

/// Gradients of q, k, v and the gates, from the states before every chunk and the gradients of the states after them.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn chunk_gradient<E: Float, O: Float, N: Size>(
    queries: &[Vector<E, N>],
    keys: &[Vector<E, N>],
    values: &[Vector<E, N>],
    d_outputs: &[Vector<E, N>],
    log_decay: &[f32],
    states: &[Vector<E, Const<FOUR>>],
    d_states: &[Vector<E, Const<FOUR>>],
    d_queries: &mut [Vector<E, N>],
    d_keys: &mut [Vector<E, N>],
    d_values: &mut [Vector<E, N>],
    d_gates: &mut [f32],
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
    let mut dy = tile::<O, N>(CHUNK, d_value, format);
    let mut before = tile::<O, N>(d_key, d_value, format);
    let mut after = tile::<O, N>(d_key, d_value, format);
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
    load_rows(
        d_outputs,
        &mut dy,
        &gates,
        place,
        d_value,
        Scale::None,
        false,
        format,
    );
    let number = place.row * (dims.chunks + 1) + place.chunk;
    let mut kept = Shared::<[f32]>::new_slice(PLANES);
    let product = load_states(states, d_states, &mut before, &mut after, number, format);
    let product = plane_sum(product);
    if UNIT_POS_PLANE == 0 {
        kept[PLANE_POS as usize] = product;
    }
    sync_cube();

    let stride = comptime!(format.stage());
    let mut stage = Numbers::new_aligned_slice(comptime!(CHUNK * stride), 128usize);
    let mut weights = tile::<O, N>(CHUNK, CHUNK, format);
    let mut d_scores = tile::<O, N>(CHUNK, CHUNK, format);
    let row = band_row();
    let of_chunk = half() * comptime!(CHUNK / HALVES);
    let of_key = half() * comptime!(d_key / HALVES);
    let of_value = half() * comptime!(d_value / HALVES);
    let by_key = comptime!(Operand::rows(d_key, format));
    let to_key = comptime!(Operand::transposed(d_key, format));
    let by_value = comptime!(Operand::rows(d_value, format));
    let to_value = comptime!(Operand::transposed(d_value, format));
    let by_chunk = comptime!(Operand::rows(CHUNK, format));
    let over_chunk = comptime!(Operand::transposed(CHUNK, format));
    let across_chunk = comptime!(CHUNK / HALVES / SIDE);
    let (across_key, across_value) = comptime!((d_key / HALVES / SIDE, d_value / HALVES / SIDE));

    // Weights and their gradients, with what crosses every gate.
    let mut scores = Band::zeros(across_chunk, format);
    scores.add_product(&q, &k, row, of_chunk, by_key, to_key, d_key);
    scores.store(&mut stage, row, of_chunk, stride);
    sync_plane();
    decay_band(&mut stage, &mut weights, &gates, format);
    sync_plane();
    let mut scores = Band::zeros(across_chunk, format);
    scores.add_product(&dy, &v, row, of_chunk, by_value, to_value, d_value);
    scores.store(&mut stage, row, of_chunk, stride);
    sync_plane();
    paths_of_band(&mut stage, &weights, &mut d_scores, &gates, format);
    let mut crossed = Shared::<[f32]>::new_slice(CHUNK);
    sync_cube();
    crossing(&mut stage, &mut crossed, format);

    // dq: from the state before the chunk, then from inside it.
    let mut entered = Shared::<[f32]>::new_slice(comptime!(HALVES * CHUNK));
    let mut read = Band::zeros(across_key, format);
    read.add_product(&dy, &before, row, of_key, by_value, to_value, d_value);
    read.store(&mut stage, row, of_key, stride);
    sync_plane();
    let held = scaled_band::<N>(&mut stage, &gates, d_key, Scale::Entering, format);
    dot_band(&held, &q, &mut entered, d_key, format);
    let mut inside = Band::zeros(across_key, format);
    inside.add_product(&d_scores, &k, row, of_key, by_chunk, by_key, CHUNK);
    sync_plane();
    inside.store(&mut stage, row, of_key, stride);
    sync_plane();
    store_sum(&mut stage, &held, d_queries, place, d_key, format);
    sync_plane();

    // dk: from behind the chunk, then from inside it.
    let mut left = Shared::<[f32]>::new_slice(comptime!(HALVES * CHUNK));
    let mut read = Band::zeros(across_key, format);
    read.add_product(&v, &after, row, of_key, by_value, to_value, d_value);
    read.store(&mut stage, row, of_key, stride);
    sync_plane();
    let held = scaled_band::<N>(&mut stage, &gates, d_key, Scale::Leaving, format);
    dot_band(&held, &k, &mut left, d_key, format);
    let mut inside = Band::zeros(across_key, format);
    inside.add_product(&d_scores, &q, row, of_key, over_chunk, by_key, CHUNK);
    sync_plane();
    inside.store(&mut stage, row, of_key, stride);
    sync_plane();
    let mut written = Shared::<[f32]>::new_slice(comptime!(HALVES * CHUNK));
    store_keys(
        &mut stage,
        &held,
        keys,
        d_keys,
        &mut written,
        &gates,
        place,
        format,
    );
    // Halves of values are not those of keys.
    sync_cube();

    // dv
    let mut read = Band::zeros(across_value, format);
    read.add_product(&k, &after, row, of_value, by_key, by_value, d_key);
    read.store(&mut stage, row, of_value, stride);
    sync_plane();
    let held = scaled_band::<N>(&mut stage, &gates, d_value, Scale::Leaving, format);
    let mut inside = Band::zeros(across_value, format);
    inside.add_product(&weights, &dy, row, of_value, over_chunk, by_value, CHUNK);
    sync_plane();
    inside.store(&mut stage, row, of_value, stride);
    sync_plane();
    store_sum(&mut stage, &held, d_values, place, d_value, format);
    sync_cube();

    store_gates(
        d_gates, &mut stage, &crossed, &entered, &left, &written, &kept, &gates, place, format,
    );
}

/// Loads the states before and behind a chunk, and returns a unit's part of the sum of their products.
#[cube]
fn load_states<E: Float, O: Float, N: Size>(
    states: &[Vector<E, Const<FOUR>>],
    d_states: &[Vector<E, Const<FOUR>>],
    before: &mut Tile<O, N>,
    after: &mut Tile<O, N>,
    number: usize,
    #[comptime] format: Format,
) -> f32 {
    let lines = comptime!(format.d_value / FOUR);
    let stride = comptime!(format.stride(format.d_value) / FOUR);
    let size = comptime!(format.state() / FOUR);
    let before = before.with_vector_size_mut::<Const<FOUR>>();
    let after = after.with_vector_size_mut::<Const<FOUR>>();
    let mut sum = 0.0f32;
    #[unroll]
    for step in 0..comptime!(size / UNITS) {
        let at = UNIT_POS as usize + comptime!(step * UNITS);
        let state = states[number * size + at];
        let d_state = d_states[(number + 1) * size + at];
        let target = (at / lines) * stride + at % lines;
        before[target] = Vector::<O, Const<FOUR>>::cast_from(state);
        after[target] = Vector::<O, Const<FOUR>>::cast_from(d_state);
        let product = Vector::<f32, Const<FOUR>>::cast_from(state)
            * Vector::<f32, Const<FOUR>>::cast_from(d_state);
        #[unroll]
        for i in 0..FOUR {
            sum += product.extract(i);
        }
    }
    sum
}
