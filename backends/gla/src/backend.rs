//! The operation at the level of backend primitives. Shapes and element types are checked before they get here.

use burn::backend::{Backend, backend_extension, tensor::FloatTensor};

use crate::strategy::Strategy;

/// A backend on which the operation runs. `Dispatch` implements it by asking the backend of the tensors it is given, and
/// `Autodiff` by recording one node an output, so this is the trait through which the public function goes.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "_cube"), Autodiff)]
pub trait GlaBackend: Backend {
    /// Output and final state, see [`gated_linear_attention`](crate::gated_linear_attention). Of a fresh start nothing enters: the state is
    /// then another tensor of as many axes that stands for it, and is not read.
    fn gated_linear_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        log_decay: FloatTensor<Self>,
        state: FloatTensor<Self>,
        strategy: Strategy,
        fresh: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// What the autodiff nodes keep: the arguments, and the states that [`GlaAdjoint::gla_forward`] returned.
#[derive(Clone, Debug)]
pub struct Saved<B: Backend> {
    /// `[batch, seq, heads, d_key]`
    pub q: FloatTensor<B>,
    /// `[batch, seq, heads, d_key]`
    pub k: FloatTensor<B>,
    /// `[batch, seq, heads, d_value]`
    pub v: FloatTensor<B>,
    /// `[batch, seq, heads]`
    pub log_decay: FloatTensor<B>,
    /// `[batch, heads, d_key, d_value]`, or what stands for it.
    pub state: FloatTensor<B>,
    /// `[batch, heads, chunks + 1, d_key, d_value]`, that before every chunk, and the final one
    pub states: FloatTensor<B>,
    /// The strategy that computed the states.
    pub strategy: Strategy,
    /// Whether nothing entered.
    pub fresh: bool,
}

/// The vector-Jacobian product behind [`GlaBackend`].
///
/// A trait of its own, implemented by the plain backends only: gradients are first order, so `Autodiff` has no use for it
/// and cannot be asked.
pub trait GlaAdjoint: Backend {
    /// The output, the states of [`Saved`], whose number and element type are the implementation's affair, and the final state.
    fn gla_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        log_decay: FloatTensor<Self>,
        state: FloatTensor<Self>,
        strategy: Strategy,
        fresh: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Gradients of q, k, v, log_decay and state, from those of the output and of the final state; absent ones are zero. Of a fresh start
    /// the last is what it would be of a state of zeros.
    fn gla_adjoint(
        saved: Saved<Self>,
        d_output: Option<FloatTensor<Self>>,
        d_state: Option<FloatTensor<Self>>,
    ) -> [FloatTensor<Self>; 5];
}
