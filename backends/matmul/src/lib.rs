//! The matrix products of linear layers, forward and backward, through the library that the maker of the device ships.
//!
//! ```text
//! y = x W          d x = g W^T          d W = x^T g
//! ```
//! On CUDA devices they go to cuBLASLt, whose kernels reach about four times the rate of those that CubeCL generates and tunes
//! (see the page on GPUs in the documentation), at run time: nothing links to it. Where the library is not there, on every
//! other device, and for shapes that it refuses, Burn multiplies.
//!
//! # Element types
//! y has the type of x. A weight of another type is rounded to that of x before it is multiplied, once a step, and gets its
//! gradient in its own: masters of weights stay in `f32` while `bf16` is multiplied. Sums are kept in `f32`; `f32` itself is
//! multiplied in TF32, as Burn does it on these devices.
//!
//! Gradients are first order: a backward pass cannot be differentiated again.

mod autodiff;
#[cfg_attr(
    not(feature = "_cube"),
    expect(
        unused_variables,
        reason = "without a backend, dispatch has nowhere to pass its arguments"
    )
)]
mod backend;
#[cfg(feature = "_cube")]
mod cube;
#[cfg(feature = "cuda")]
mod cublas;
mod sums;

pub use backend::{ProductAdjoint, ProductBackend, Sides};
pub use sums::{gradient_so_far, note_gradient};

use burn::tensor::{DType, Device, Tensor};

/// What recordings call the products of this crate, with the roundings of their operands.
pub const OPERATION: &str = "linear layer";

/// `x W`: one product over all rows.
///
/// # Shapes
/// - x `[.., d_in]`, weight `[d_in, d_out]` in any layout; output `[.., d_out]`, of x's element type
///
/// # Cost
/// `2 rows d_in d_out` operations forward, twice that backward.
///
/// # Panics
/// If the shapes do not fit, or the device fails.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>) -> Tensor<D> {
    let gradient = weight.dtype();
    linear_of_rounded(x, weight, gradient)
}

/// The same of a weight that has been rounded already, by an operation that takes its gradient in another type than it has given the
/// weight: on CubeCL devices the gradient is made in `gradient`, elsewhere in the weight's own.
///
/// # Panics
/// As [`linear`].
#[cfg_attr(
    not(feature = "_cube"),
    expect(
        unused_variables,
        reason = "elsewhere gradients follow from the weight"
    )
)]
pub fn linear_of_rounded<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    gradient: DType,
) -> Tensor<D> {
    let ([d_in, d_out], shape) = (weight.dims(), x.dims());
    assert_eq!(
        shape[D - 1],
        d_in,
        "linear: rows of {} numbers meet weights for {d_in}",
        shape[D - 1]
    );
    #[cfg(feature = "_cube")]
    if matches!(
        x.device().inner().as_dispatch(),
        burn::backend::DispatchDevice::Cube(_)
    ) {
        return Tensor::from_dispatch(burn::backend::Dispatch::linear_product(
            x.into_dispatch(),
            weight.into_dispatch(),
            gradient,
        ));
    }
    let rows = x.shape().num_elements() / d_in.max(1);
    let mut output = shape;
    output[D - 1] = d_out;
    let weight = match weight.dtype() == x.dtype() {
        true => weight,
        false => weight.cast(x.dtype()),
    };
    x.reshape([rows, d_in]).matmul(weight).reshape(output)
}

/// Why the vendor's library does not multiply on a device; none if it does.
pub fn library_missing(device: &Device) -> Option<String> {
    #[cfg(feature = "cuda")]
    {
        cublas::missing(device)
    }
    #[cfg(not(feature = "cuda"))]
    {
        let _ = device;
        Some("built without the feature `cuda`".into())
    }
}
