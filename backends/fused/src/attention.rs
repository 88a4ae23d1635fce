//! Attention at the level of backend primitives, with its autodiff rule.

use burn::backend::{
    Autodiff, Backend, autodiff::checkpoint::strategy::CheckpointStrategy, backend_extension,
    tensor::FloatTensor,
};

use crate::{autodiff::unary, mask::AttentionMask};

/// A backend with attention of its own.
#[backend_extension(Flex: cfg(feature = "flex"), Autodiff)]
pub trait AttentionBackend: Backend {
    /// See [`attention`](crate::attention).
    fn fused_attention(
        packed: FloatTensor<Self>,
        heads: usize,
        mask: AttentionMask,
    ) -> FloatTensor<Self>;
}

/// The vector-Jacobian product behind [`AttentionBackend`].
pub trait AttentionAdjoint: Backend {
    /// Gradient of the packed projections.
    fn attention_adjoint(
        packed: FloatTensor<Self>,
        heads: usize,
        mask: AttentionMask,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl<B: AttentionBackend + AttentionAdjoint, C: CheckpointStrategy> AttentionBackend
    for Autodiff<B, C>
{
    fn fused_attention(
        packed: FloatTensor<Self>,
        heads: usize,
        mask: AttentionMask,
    ) -> FloatTensor<Self> {
        unary::<B, C, _>(
            packed,
            (heads, mask),
            |packed, (heads, mask)| B::fused_attention(packed, heads, mask),
            |packed, (heads, mask), grad| B::attention_adjoint(packed, heads, mask, grad),
        )
    }
}
