//! Dropout: each unit takes one vector, which lies within a draw.

use burn::backend::{Cube, TensorMetadata, tensor::IntTensor};
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
};
use kiln_attention::{FACTORS, ROUNDS, STEPS, kept_factor};

use super::{CUBE_UNITS, Primitive, address_type, empty_like, vector, with_float};
use crate::dropout::{DropoutBackend, OF_DRAW, PURPOSE};

impl DropoutBackend for Cube {
    fn fused_dropout(x: Primitive, seed: IntTensor<Cube>, dropped: u16) -> Primitive {
        let (x, seed) = (into_contiguous(x), into_contiguous(seed));
        let y = empty_like(&x);
        let total = x.shape().num_elements();
        if total == 0 {
            return y;
        }
        let wide = vector(&x, total).min(OF_DRAW);
        let dim = CubeDim::new_1d(CUBE_UNITS);
        let count = calculate_cube_count_elemwise(&x.client, total / wide, dim);
        // SAFETY: the buffers are packed and of one length, and surplus units leave at once.
        unsafe {
            with_float!(x, E => drop_some::launch_unchecked::<E>(
                &x.client,
                count,
                dim,
                address_type!(x, y),
                wide,
                x.clone().into_buffer_arg(),
                seed.into_buffer_arg(),
                y.clone().into_buffer_arg(),
                total / wide,
                dropped,
            ));
        }
        y
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn drop_some<E: Float, N: Size>(
    x: &[Vector<E, N>],
    seed: &[i32],
    y: &mut [Vector<E, N>],
    total: usize,
    #[comptime] dropped: u16,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let first = ABSOLUTE_POS * N::value();
    let low = u32::reinterpret(seed[0]);
    let high = u32::reinterpret(seed[1]);
    let words = philox((first / OF_DRAW) as u32, low, high);
    let value = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]);
    let mut kept = value;
    #[unroll]
    for i in 0..N::value() {
        let at = first % OF_DRAW + i;
        let mut word = words[0];
        #[unroll]
        for other in 1..4usize {
            word = select(at / 2 == other, words[other], word);
        }
        let bits = (word >> (16 * (at % 2)) as u32) & 0xFFFFu32;
        let factor = comptime!(kept_factor(dropped));
        let element = select(
            bits < comptime!(dropped as u32),
            0.0f32,
            value.extract(i) * factor,
        );
        kept.insert(i, element);
    }
    y[ABSOLUTE_POS] = Vector::<E, N>::cast_from(kept);
}

/// A draw as `kiln_attention::philox` defines it.
#[cube]
fn philox(number: u32, seed_low: u32, seed_high: u32) -> Array<u32> {
    let mut counter = Array::<u32>::new(4usize);
    counter[0] = number;
    counter[1] = 0u32;
    counter[2] = 0u32;
    counter[3] = PURPOSE.runtime();
    let mut low = seed_low;
    let mut high = seed_high;
    #[unroll]
    for _ in 0..ROUNDS {
        let first = counter[0];
        let third = counter[2];
        let second = counter[1];
        let fourth = counter[3];
        counter[0] = u32::mul_hi(third, comptime!(FACTORS[1]).runtime()) ^ second ^ low;
        counter[1] = third * comptime!(FACTORS[1]);
        counter[2] = u32::mul_hi(first, comptime!(FACTORS[0]).runtime()) ^ fourth ^ high;
        counter[3] = first * comptime!(FACTORS[0]);
        low += comptime!(STEPS[0]);
        high += comptime!(STEPS[1]);
    }
    counter
}
