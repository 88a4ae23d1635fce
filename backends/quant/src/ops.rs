//! The public functions: check shapes, then hand the primitives to the backend.

use burn::{
    backend::Dispatch,
    tensor::{DType, Device, Int, IntDType, Tensor, TensorData, assert_shape},
};

use crate::{backend::QuantBackend, format::PackedFormat, matrix::PackedMatrix};

impl PackedMatrix {
    /// The words as a tensor `[words]` of `u32`, as [`packed_linear`] takes them.
    pub fn to_tensor(&self, device: &Device) -> Tensor<1, Int> {
        let words = self.words().to_vec();
        let len = words.len();
        Tensor::from_data(TensorData::new(words, [len]), (device, DType::U32))
    }
}

fn check_words(words: &Tensor<1, Int>, format: PackedFormat) {
    assert_shape!(words, [format.words()]);
    assert_eq!(
        words.dtype(),
        DType::U32,
        "packed weights: words must be u32"
    );
}

/// A linear layer with packed weights, `x W`, computed in f32 from the words as they are. Gradients reach x; W takes none.
///
/// # Shapes
/// - x `[.., d_input]`; words `[words]` of `u32` (see [`PackedMatrix::to_tensor`]); output `[.., d_output]`
///
/// # Cost
/// `2 rows d_input d_output` operations; few rows read the words once, `bits / 8` bytes an entry and the scales.
///
/// # Panics
/// If the shapes do not fit.
pub fn packed_linear<const D: usize>(
    x: Tensor<D>,
    words: Tensor<1, Int>,
    format: PackedFormat,
) -> Tensor<D> {
    let PackedFormat {
        d_input, d_output, ..
    } = format;
    assert_shape!(x, [.., d_input]);
    check_words(&words, format);
    let mut shape = x.shape();
    let rows = shape.num_elements() / d_input;
    shape[D - 1] = d_output;
    let dtype = x.dtype();
    let x = x.cast(DType::F32).reshape([rows, d_input]);
    let y = Dispatch::packed_linear(x.into_dispatch(), words.into_dispatch(), format);
    Tensor::<2>::from_dispatch(y).cast(dtype).reshape(shape)
}

/// Columns of a packed matrix: the rows of an embedding `[d_output, d_input]` that is packed transposed, so that a tied head is
/// [`packed_linear`] with the same words.
///
/// # Shapes
/// - words `[words]` of `u32`; outputs `[n]`, each below `d_output`; output `[n, d_input]` of `f32`
///
/// # Panics
/// If the shapes do not fit, and on a CPU for an output that does not exist.
pub fn packed_columns(
    words: Tensor<1, Int>,
    outputs: Tensor<1, Int>,
    format: PackedFormat,
) -> Tensor<2> {
    check_words(&words, format);
    let outputs = outputs.cast(IntDType::I32);
    let columns = Dispatch::packed_columns(words.into_dispatch(), outputs.into_dispatch(), format);
    Tensor::from_dispatch(columns)
}
