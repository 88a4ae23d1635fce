//! Integer products: one unit walks the words of an output, four bytes or 32 signs in each, for a few rows.

use burn::{backend::TensorMetadata, tensor::DType};
use burn_cubecl::{
    cubecl,
    cubecl::{calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};

use super::kernels::{Codes, Layout, Place};
use super::{CUBE_UNITS, Primitive, UNIT_ROWS, codes, empty, layout, lift, lower};
use crate::format::{LANES, PackedFormat};

/// Signs of 32 inputs to a word, the first in the lowest bit: 1 for what is not below zero, 0 beyond the last input. Unit
/// `(row, word)`; x `[rows, d_input]`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn pack_signs(x: &[f32], signs: &mut [i32], layout: Layout) {
    if ABSOLUTE_POS >= layout.units {
        terminate!();
    }
    let width = layout.d_input.div_ceil(32);
    let (row, first) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width * 32);
    let count = min(32, layout.d_input - first);
    let mut word = 0u32;
    for at in 0..count {
        let bit = select(x[row * layout.d_input + first + at] < 0.0f32, 0u32, 1u32);
        word |= bit << at as u32;
    }
    signs[ABSOLUTE_POS] = word as i32;
}

/// Sums of the products of levels in 32 bits, times the scales of the outputs. Unit `(block of unit_rows rows, output)`; x
/// `[rows, d_input]` of small integers, or `[rows, words]` of [`pack_signs`] for weights of one bit; y `[rows, d_output]`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn multiply_integers(
    x: &[i32],
    words: &[u32],
    y: &mut [f32],
    layout: Layout,
    #[comptime] codes: Codes,
    #[comptime] unit_rows: usize,
) {
    if ABSOLUTE_POS >= layout.units {
        terminate!();
    }
    let output = ABSOLUTE_POS % layout.d_output;
    let first_row = ABSOLUTE_POS / layout.d_output * unit_rows;
    let place = Place::of(&layout, 0, output);
    let mut sums = Array::<i32>::new(unit_rows);
    #[unroll]
    for row in 0..unit_rows {
        sums[row] = 0i32;
    }
    if comptime!(codes.bits == 1) {
        let width = layout.d_input.div_ceil(32);
        for at in 0..width {
            let word = words[place.codes + at * LANES];
            #[unroll]
            for row in 0..unit_rows {
                let from = min(first_row + row, layout.rows - 1);
                let differ = word ^ x[from * width + at] as u32;
                sums[row] += differ.count_ones() as i32;
            }
        }
        // Two signs multiply to -1 where they differ, and to 1 elsewhere.
        #[unroll]
        for row in 0..unit_rows {
            sums[row] = layout.d_input as i32 - 2i32 * sums[row];
        }
    } else {
        for at in 0..layout.d_input.div_ceil(4) {
            let mut word = words[place.codes + at * LANES];
            for byte in 0..4 {
                let input = at * 4 + byte;
                if input < layout.d_input {
                    // Two's complement: the highest bit flipped, and its value taken off again.
                    let level = ((word & 0xffu32) ^ 128u32) as i32 - 128i32;
                    #[unroll]
                    for row in 0..unit_rows {
                        let from = min(first_row + row, layout.rows - 1);
                        sums[row] += level * x[from * layout.d_input + input];
                    }
                }
                word = word >> 8u32;
            }
        }
    }
    let scale = place.scale(words, codes);
    #[unroll]
    for row in 0..unit_rows {
        if first_row + row < layout.rows {
            y[(first_row + row) * layout.d_output + output] = sums[row] as f32 * scale;
        }
    }
}

/// The sums of products with the signs of x `[rows, d_input]`, as [`sums`] gives them.
pub(super) fn sums_of_signs(x: CubeTensor, words: CubeTensor, format: PackedFormat) -> Primitive {
    let rows = x.shape()[0];
    let width = format.d_input.div_ceil(32);
    let signs = empty(&x, [rows, width], DType::I32);
    let client = x.client.clone();
    let cube_dim = CubeDim::new_1d(CUBE_UNITS);
    let cube_count = calculate_cube_count_elemwise(&client, rows * width, cube_dim);
    // SAFETY: the kernel stays inside x `[rows, d_input]` and signs `[rows, width]`; surplus units leave at once.
    unsafe {
        pack_signs::launch_unchecked(
            &client,
            cube_count,
            cube_dim,
            address_type!(x, signs),
            x.into_buffer_arg(),
            signs.clone().into_buffer_arg(),
            layout(&format, rows, 1, rows * width),
        );
    }
    multiplied(signs, words, format)
}

/// Sums of the products of levels, times the scales of the outputs: levels `[rows, d_input]` of small integers, output
/// `[rows, d_output]`.
pub(super) fn sums(levels: Primitive, words: CubeTensor, format: PackedFormat) -> Primitive {
    let levels = lift::<2>(levels).int().cast(DType::I32);
    let levels = levels
        .try_into_primitive::<burn::backend::Cube>()
        .expect("a tensor of a CubeCL backend, without autodiff");
    multiplied(into_contiguous(levels), words, format)
}

fn multiplied(levels: CubeTensor, words: CubeTensor, format: PackedFormat) -> Primitive {
    let rows = levels.shape()[0];
    let y = empty(&levels, [rows, format.d_output], DType::F32);
    let units = rows.div_ceil(UNIT_ROWS) * format.d_output;
    let client = levels.client.clone();
    let cube_dim = CubeDim::new_1d(CUBE_UNITS);
    let cube_count = calculate_cube_count_elemwise(&client, units, cube_dim);
    // SAFETY: the kernel stays inside levels `[rows, d_input]` or their words, the words of the format and y `[rows, d_output]`;
    // surplus units leave at once.
    unsafe {
        multiply_integers::launch_unchecked(
            &client,
            cube_count,
            cube_dim,
            address_type!(levels, words, y),
            levels.into_buffer_arg(),
            words.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            layout(&format, rows, 1, units),
            codes(&format),
            if rows == 1 { 1 } else { UNIT_ROWS },
        );
    }
    lower(lift::<2>(y))
}
