//! The operations at the level of backend primitives. Shapes are checked before they get here.

use burn::backend::{
    Backend, backend_extension,
    tensor::{FloatTensor, IntTensor},
};

use crate::{activations::Activations, format::PackedFormat};

/// A backend that computes from packed weights. `Dispatch` implements it by asking the backend of the tensors it is given, and
/// `Autodiff` by recording a node for x: words are constants.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "_cube"), Autodiff)]
pub trait QuantBackend: Backend {
    /// See [`packed_linear`](crate::packed_linear); x is `[rows, d_input]`.
    fn packed_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        format: PackedFormat,
    ) -> FloatTensor<Self>;

    /// See [`integer_linear`](crate::integer_linear); x is `[rows, d_input]`.
    fn integer_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        format: PackedFormat,
        activations: Activations,
    ) -> FloatTensor<Self>;

    /// See [`packed_columns`](crate::packed_columns).
    fn packed_columns(
        words: IntTensor<Self>,
        outputs: IntTensor<Self>,
        format: PackedFormat,
    ) -> FloatTensor<Self>;
}
