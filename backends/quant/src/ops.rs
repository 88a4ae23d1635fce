//! The public functions: check shapes, then hand the primitives to the backend.

use burn::{
    backend::Dispatch,
    tensor::{DType, Device, Int, IntDType, Tensor, TensorData, assert_shape},
};

use crate::{
    activations::Activations, backend::QuantBackend, format::PackedFormat, matrix::PackedMatrix,
};

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
    rows_of(x, words, format, |x, words| {
        let y = Dispatch::packed_linear(x.into_dispatch(), words.into_dispatch(), format);
        Tensor::from_dispatch(y)
    })
}

/// A linear layer whose inputs are rounded as its weights are: int8 with 8 bits, or signs with signs. Products and sums are those of
/// integers, in 32 bits. Gradients reach x as those of [`packed_linear`] do, straight through the rounding (arXiv 1308.3432), or as
/// [`signs`](crate::signs) passes them on; W takes none.
///
/// A row with an input that is infinite or no number gives no numbers.
///
/// # Shapes
/// - x `[.., d_input]`; words `[words]` of `u32` (see [`PackedMatrix::to_tensor`]); output `[.., d_output]`
///
/// # Cost
/// `2 rows d_input d_output` operations on integers, 32 products of signs at a time; words are read once for every four rows.
///
/// # Panics
/// If the shapes do not fit, or [`Activations::check`] refuses.
pub fn integer_linear<const D: usize>(
    x: Tensor<D>,
    words: Tensor<1, Int>,
    format: PackedFormat,
    activations: Activations,
) -> Tensor<D> {
    if let Err(error) = activations.check(&format) {
        panic!("integer_linear: {error}");
    }
    rows_of(x, words, format, |x, words| {
        let (x, words) = (x.into_dispatch(), words.into_dispatch());
        let y = Dispatch::integer_linear(x, words, format, activations);
        Tensor::from_dispatch(y)
    })
}

/// A product of rows `[rows, d_input]` in f32, for x `[.., d_input]` of any type.
fn rows_of<const D: usize>(
    x: Tensor<D>,
    words: Tensor<1, Int>,
    format: PackedFormat,
    product: impl FnOnce(Tensor<2>, Tensor<1, Int>) -> Tensor<2>,
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
    product(x, words).cast(dtype).reshape(shape)
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
