//! The operation at the level of backend primitives. Shapes and element types are checked before they get here.

use burn::backend::{
    Backend, backend_extension,
    tensor::{FloatTensor, IntTensor},
};

/// How the projections are divided, what a query sees, and how much of it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Number of heads.
    pub count: usize,
    /// Whether a query sees only its own position and those before.
    pub causal: bool,
    /// Of 65,536 weights, how many are dropped; with a seed, and only then, more than none.
    pub dropped: u16,
}

/// A backend with flash attention. `Dispatch` implements it by asking the backend of the tensors it is given, and `Autodiff` by
/// recording one node.
#[backend_extension(Cube: cfg(feature = "_cube"), Autodiff)]
pub trait FlashBackend: Backend {
    /// See [`flash_attention`](crate::flash_attention).
    fn flash_attention(packed: FloatTensor<Self>, heads: Heads) -> FloatTensor<Self>;

    /// The same with dropout of weights, which follows from the seed.
    fn flash_attention_with_dropout(
        packed: FloatTensor<Self>,
        seed: IntTensor<Self>,
        heads: Heads,
    ) -> FloatTensor<Self>;
}

/// The vector-Jacobian product behind [`FlashBackend`].
///
/// A trait of its own, implemented by the plain backends only: gradients are first order.
pub trait FlashAdjoint: Backend {
    /// The output, and the logarithms of the sums that its weights were divided by, `[batch, heads, seq]`.
    fn flash_forward(
        packed: FloatTensor<Self>,
        seed: Option<IntTensor<Self>>,
        heads: Heads,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of the projections from that of the output.
    fn flash_adjoint(
        packed: FloatTensor<Self>,
        output: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        seed: Option<IntTensor<Self>>,
        grad: FloatTensor<Self>,
        heads: Heads,
    ) -> FloatTensor<Self>;
}
