//! The CubeCL implementation: kernels of its own, the same on CUDA, ROCm, Vulkan, WebGPU and Metal.
//!
//! Few rows: one unit walks some tiles of one output, so that neighbouring units read neighbouring words, and decodes them in
//! registers. Where outputs alone are too few to fill a device, the inputs are cut into parts whose sums are added afterwards. Many
//! rows: blocks of outputs are unpacked, one after the other, for the runtime's own product.

/// The address type that reaches every element of these tensors.
macro_rules! address_type {
    ($($tensor:expr),*) => {
        [$($tensor.required_address_type()),*].into_iter().max().unwrap_or_default()
    };
}

mod integers;
mod kernels;

use burn::{
    backend::{
        Cube, TensorMetadata,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Int, Shape, Tensor},
};
use burn_cubecl::{
    cubecl::{calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    ops::numeric::empty_device_contiguous_dtype,
    tensor::CubeTensor,
};

use self::kernels::{Codes, LayoutLaunch, TILE};
use crate::{
    activations::{Activations, MOST},
    backend::QuantBackend,
    encoding::{Encoding, FloatType},
    format::PackedFormat,
};

type Primitive = FloatTensor<Cube>;

/// Units of a cube.
const CUBE_UNITS: u32 = 64;
/// Rows that a unit multiplies what it decodes with.
const UNIT_ROWS: usize = 4;
/// Rows up to which the words are read for each of them; above, every block of outputs is unpacked once.
const FEW_ROWS: usize = 16;
/// Numbers that are unpacked at a time: 16 MiB of f32, enough outputs of usual layers to fill a device.
const MOST_UNPACKED: usize = 4 << 20;
/// Units below which inputs are cut into parts.
const MANY_UNITS: usize = 32 * 1024;

fn lift<const D: usize>(primitive: Primitive) -> Tensor<D> {
    Tensor::from_primitive::<Cube>(primitive)
}

fn lower<const D: usize>(tensor: Tensor<D>) -> Primitive {
    tensor
        .try_into_primitive::<Cube>()
        .expect("a tensor of a CubeCL backend, without autodiff")
}

/// A new buffer, not initialised.
fn empty(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(
        like.client.clone(),
        like.device.clone(),
        shape.into(),
        dtype,
    )
}

/// What kernels know when they are compiled.
fn codes(format: &PackedFormat) -> Codes {
    Codes {
        bits: format.encoding.bits(),
        asymmetric: format.asymmetric,
        float: format.encoding == Encoding::E4m3,
        half_scales: format.scales == FloatType::F16,
        whole: format.d_input.is_multiple_of(TILE),
    }
}

/// What kernels are told.
fn layout(format: &PackedFormat, rows: usize, parts: usize, units: usize) -> LayoutLaunch {
    LayoutLaunch::new(
        format.d_input,
        format.d_output,
        format.group,
        format.panel_words(),
        format.header(1),
        format.codes(0),
        format.code_words(),
        rows,
        parts,
        units,
    )
}

/// Parts of the inputs whose sums are `[parts, rows, d_output]`, in row blocks of [`UNIT_ROWS`].
fn parts(format: &PackedFormat, rows: usize) -> usize {
    let units = rows.div_ceil(UNIT_ROWS) * format.d_output;
    MANY_UNITS
        .div_ceil(units)
        .min(format.d_input.div_ceil(TILE))
}

fn few_rows(x: CubeTensor, words: CubeTensor, format: PackedFormat) -> Primitive {
    let rows = x.shape()[0];
    let parts = parts(&format, rows);
    let y = empty(&x, [parts, rows, format.d_output], DType::F32);
    let units = parts * rows.div_ceil(UNIT_ROWS) * format.d_output;
    let client = x.client.clone();
    let cube_dim = CubeDim::new_1d(CUBE_UNITS);
    let cube_count = calculate_cube_count_elemwise(&client, units, cube_dim);
    // SAFETY: the kernel stays inside x `[rows, d_input]`, the words of the format and y `[parts, rows, d_output]`; surplus units
    // leave at once.
    unsafe {
        kernels::multiply::launch_unchecked(
            &client,
            cube_count,
            cube_dim,
            address_type!(x, words, y),
            x.clone().into_buffer_arg(),
            words.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            layout(&format, rows, parts, units),
            codes(&format),
            if rows == 1 { 1 } else { UNIT_ROWS },
        );
    }
    match parts {
        1 => lower(lift::<3>(y).squeeze_dim::<2>(0)),
        _ => lower(lift::<3>(y).sum_dim(0).squeeze_dim::<2>(0)),
    }
}

/// Blocks of outputs, unpacked in the place of one another.
fn many_rows(x: CubeTensor, words: IntTensor<Cube>, format: PackedFormat) -> Primitive {
    let x = lift::<2>(x);
    let device = x.device();
    let width = (MOST_UNPACKED / format.d_input).clamp(1, format.d_output);
    let block = |first: usize| {
        let last = format.d_output.min(first + width);
        let outputs = Tensor::<1, Int>::arange(first as i64..last as i64, (&device, DType::I32));
        let outputs = outputs
            .try_into_primitive::<Cube>()
            .expect("a tensor of the device of x");
        let transposed = lift::<2>(Cube::packed_columns(words.clone(), outputs, format));
        x.clone().matmul(transposed.transpose())
    };
    let mut blocks: Vec<Tensor<2>> = (0..format.d_output).step_by(width).map(block).collect();
    lower(match blocks.len() {
        1 => blocks.remove(0),
        _ => Tensor::cat(blocks, 1),
    })
}

impl QuantBackend for Cube {
    fn packed_linear(x: Primitive, words: IntTensor<Cube>, format: PackedFormat) -> Primitive {
        let rows = x.shape()[0];
        if rows <= FEW_ROWS {
            return few_rows(into_contiguous(x), into_contiguous(words), format);
        }
        many_rows(x, words, format)
    }

    fn integer_linear(
        x: Primitive,
        words: IntTensor<Cube>,
        format: PackedFormat,
        activations: Activations,
    ) -> Primitive {
        let x = lift::<2>(x);
        let steps = match activations {
            Activations::Static { step } => x.clone().slice([0..x.dims()[0], 0..1]).full_like(step),
            Activations::Dynamic => x.clone().abs().max_dim(1).div_scalar(MOST), // [rows, 1]
            Activations::Signs => x.clone().abs().mean_dim(1),
        };
        // What is no number may be lost on the way to integers; a mean may be infinite of numbers that are not.
        let finite = x.clone().is_finite().all_dim(1); // [rows, 1]
        let finite = finite.bool_and(steps.clone().is_finite());
        let steps = steps.mask_fill(finite.bool_not(), f32::NAN);
        let words = into_contiguous(words);
        let sums = match activations {
            Activations::Signs => integers::sums_of_signs(into_contiguous(lower(x)), words, format),
            Activations::Static { .. } | Activations::Dynamic => {
                // A row of zeros has a step of zero, by which nothing is divided; its integers are zeros by any other.
                let divisors = steps.clone().mask_fill(steps.clone().equal_elem(0.0), 1.0);
                let levels = (x / divisors).round().clamp(-MOST, MOST);
                integers::sums(lower(levels), words, format)
            }
        };
        lower(lift::<2>(sums) * steps)
    }

    fn packed_columns(
        words: IntTensor<Cube>,
        outputs: IntTensor<Cube>,
        format: PackedFormat,
    ) -> Primitive {
        let (words, outputs) = (into_contiguous(words), into_contiguous(outputs));
        let count = outputs.shape()[0];
        let columns = empty(&words, [count, format.d_input], DType::F32);
        let units = count * format.d_input;
        let client = words.client.clone();
        let cube_dim = CubeDim::new_1d(CUBE_UNITS);
        let cube_count = calculate_cube_count_elemwise(&client, units, cube_dim);
        // SAFETY: the kernel stays inside outputs `[count]`, the words of the format and columns `[count, d_input]`; outputs that do
        // not exist are read as the last; surplus units leave at once.
        unsafe {
            kernels::columns::launch_unchecked(
                &client,
                cube_count,
                cube_dim,
                address_type!(words, outputs, columns),
                words.into_buffer_arg(),
                outputs.into_buffer_arg(),
                columns.clone().into_buffer_arg(),
                layout(&format, count, 1, units),
                codes(&format),
            );
        }
        columns
    }
}
