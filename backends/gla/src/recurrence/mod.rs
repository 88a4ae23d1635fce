//! The elementwise recurrence `h_t = a_t h_{t-1} + x_t` that minimal gated units (arXiv 2410.01201) and their kin are made of: one
//! memory a channel, decays that the token decides on, no products of matrices.
//!
//! # Cost
//! A multiplication and an addition an element forward, twice that backward; memory is what takes the time: forward two numbers are read
//! and one is written, backward three are read and two written. Channels and batch rows go in parallel, positions one after the other: a
//! GPU is busy from some 50,000 channels in all on, and a single long sequence leaves most of it idle.

mod autodiff;
#[cfg(feature = "_cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
pub mod reference;

use burn::{
    backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor},
    tensor::{DType, Tensor},
};

use crate::error::{GlaError, check_filled, check_shape, check_type};

/// A backend that runs the recurrence. `Dispatch` asks the backend of the tensors, `Autodiff` records one node.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "_cube"), Autodiff)]
pub trait RecurrenceBackend: Backend {
    /// The states after every position, see [`linear_recurrence`].
    fn linear_recurrence(
        decay: FloatTensor<Self>,
        input: FloatTensor<Self>,
        entering: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// The vector-Jacobian product behind [`RecurrenceBackend`], of plain backends.
pub trait RecurrenceAdjoint: Backend {
    /// Gradients of decay, input and entering state, from that of the states.
    fn linear_recurrence_adjoint(
        decay: FloatTensor<Self>,
        states: FloatTensor<Self>,
        entering: FloatTensor<Self>,
        d_states: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3];
}

/// `h_t = a_t h_{t-1} + x_t` in every channel, with its exact gradient; the states after every position, the last of which continues
/// the sequence.
///
/// # Shapes
/// - decay `a` and input `x`: `[batch, seq, channels]`, `f32`
/// - entering `h_0`: `[batch, channels]`, `f32`; none starts from zeros
/// - returns `[batch, seq, channels]`
///
/// The decays' values are not looked at here; beyond 1 they are an amplification that can overflow.
///
/// # Errors
/// [`GlaError::Shape`], [`GlaError::Empty`] or [`GlaError::DType`].
pub fn linear_recurrence(
    decay: Tensor<3>,
    input: Tensor<3>,
    entering: Option<Tensor<2>>,
) -> Result<Tensor<3>, GlaError> {
    const NAME: &str = "linear_recurrence";
    const SEQUENCE: &str = "[batch, seq, channels]";
    let [batch, seq, channels] = decay.dims();
    check_filled(NAME, ["decay", SEQUENCE], &decay.dims())?;
    let whole = [batch, seq, channels];
    check_shape(NAME, ["input", SEQUENCE], &whole, &input.dims())?;
    check_type(NAME, ["decay", "F32"], [DType::F32, decay.dtype()])?;
    check_type(NAME, ["input", "F32"], [DType::F32, input.dtype()])?;
    if let Some(entering) = &entering {
        let axes = ["entering", "[batch, channels]"];
        check_shape(NAME, axes, &[batch, channels], &entering.dims())?;
        check_type(NAME, ["entering", "F32"], [DType::F32, entering.dtype()])?;
    }
    let entering =
        entering.unwrap_or_else(|| Tensor::zeros([batch, channels], (&input.device(), DType::F32)));
    Ok(Tensor::from_dispatch(Dispatch::linear_recurrence(
        decay.into_dispatch(),
        input.into_dispatch(),
        entering.into_dispatch(),
    )))
}
