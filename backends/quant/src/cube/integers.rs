//! Integer products: one unit walks the words of an output, four inputs in each, for a few rows.

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

/// Sums of the products of levels in 32 bits, times the scales of the outputs. Unit `(block of unit_rows rows, output)`; x
/// `[rows, d_input]` of small integers, y `[rows, d_output]`.
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
    let scale = place.scale(words, codes);
    #[unroll]
    for row in 0..unit_rows {
        if first_row + row < layout.rows {
            y[(first_row + row) * layout.d_output + output] = sums[row] as f32 * scale;
        }
    }
}

/// Sums of the products of levels, times the scales of the outputs: levels `[rows, d_input]` of small integers, output
/// `[rows, d_output]`.
pub(super) fn sums(levels: Primitive, words: CubeTensor, format: PackedFormat) -> Primitive {
    let levels = lift::<2>(levels).int().cast(DType::I32);
    let levels = levels
        .try_into_primitive::<burn::backend::Cube>()
        .expect("a tensor of a CubeCL backend, without autodiff");
    let levels = into_contiguous(levels);
    let rows = levels.shape()[0];
    let y = empty(&levels, [rows, format.d_output]);
    let units = rows.div_ceil(UNIT_ROWS) * format.d_output;
    let client = levels.client.clone();
    let cube_dim = CubeDim::new_1d(CUBE_UNITS);
    let cube_count = calculate_cube_count_elemwise(&client, units, cube_dim);
    // SAFETY: the kernel stays inside levels `[rows, d_input]`, the words of the format and y `[rows, d_output]`; surplus units
    // leave at once.
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
