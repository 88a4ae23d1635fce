//! The products at the level of backend primitives. Shapes are checked before they get here.

use burn::{
    backend::{Backend, TensorMetadata, backend_extension, tensor::FloatTensor},
    tensor::{DType, Shape},
};
use kiln_profile::Operation;

use crate::OPERATION;

/// A backend with products of its own. `Dispatch` implements it by asking the backend of the tensors it is given, and
/// `Autodiff` by recording one node.
#[backend_extension(Cube: cfg(feature = "_cube"), Autodiff)]
pub trait ProductBackend: Backend {
    /// `x W`, `[.., d_in]` by `[d_in, d_out]`, see [`linear`](crate::linear); the weight's gradient is made in `gradient`.
    fn linear_product(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: DType,
    ) -> FloatTensor<Self>;
}

/// Which operands of a product are read as their transposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sides {
    /// `a b`
    Plain,
    /// `a^T b`
    LeftTransposed,
    /// `a b^T`
    RightTransposed,
}

/// What [`ProductBackend`] and its vector-Jacobian product are made of.
///
/// A trait of its own, implemented by the plain backends only: gradients are first order.
pub trait ProductAdjoint: Backend {
    /// The product of two matrices of one element type, in `dtype`.
    fn product(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        sides: Sides,
        dtype: DType,
    ) -> FloatTensor<Self>;

    /// `sum + a b`, in the buffer of the sum if nothing else holds it: products of many pieces need no memory of their own.
    fn add_product(
        sum: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        sides: Sides,
    ) -> FloatTensor<Self>;
}

/// All leading axes as one.
pub(crate) fn rows<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    let shape = tensor.shape();
    let width = shape[shape.num_dims() - 1];
    let rows = shape.num_elements() / width.max(1);
    B::float_reshape(tensor, [rows, width].into())
}

/// Rows with the leading axes of `shape`.
pub(crate) fn of_rows<B: Backend>(tensor: FloatTensor<B>, mut shape: Shape) -> FloatTensor<B> {
    let last = shape.num_dims() - 1;
    shape[last] = tensor.shape()[1];
    B::float_reshape(tensor, shape)
}

/// An operand in the element type that it is multiplied in.
pub(crate) fn rounded<B: Backend>(tensor: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if tensor.dtype() == dtype {
        return tensor;
    }
    let (numbers, from) = (tensor.shape().num_elements(), tensor.dtype());
    let of = || Operation {
        name: OPERATION,
        flops: 0.0,
        bytes: (numbers * (from.size() + dtype.size())) as f64,
    };
    kiln_profile::operation(of, || B::float_cast(tensor, dtype.into()))
}
