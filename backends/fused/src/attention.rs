//! Attention: the public functions, and the operation at the level of backend primitives with its autodiff rule.

use burn::{
    backend::{
        Autodiff, Backend, Dispatch, autodiff::checkpoint::strategy::CheckpointStrategy,
        backend_extension, tensor::FloatTensor,
    },
    tensor::Tensor,
};
use kiln_attention::WeightDropout;

use crate::{autodiff::unary, mask::AttentionMask, ops::on_flex, reference};

/// Softmax attention, `y_i = sum_j softmax_j(q_i . k_j / sqrt(d_head)) v_j` over the positions j that the mask lets i see, for
/// each head by itself (arXiv 1706.03762), on the projections as the linear layer leaves them.
///
/// # Shapes
/// - packed `[batch, seq, 3 * heads * d_head]`: all heads' queries, then keys, then values
/// - output `[batch, seq, heads * d_head]`
///
/// # Cost
/// `4 batch heads seq keys d_head` operations forward, where keys is the number that a block of 64 queries sees: seq without a
/// mask, on average half of it with the causal one (blocks wholly in the future are left out), and at most
/// `window + sinks + 63` with a window. Backward takes 2.5 times that; scratch is a block of queries by those keys a thread, so
/// nothing quadratic in seq. [`reference`](mod@reference) computes and masks the whole square.
///
/// # Panics
/// If the last axis is not a multiple of `3 * heads`, or a window is 0.
pub fn attention(packed: Tensor<3>, heads: usize, mask: AttentionMask) -> Tensor<3> {
    check_attention(&packed, heads, mask);
    if !on_flex(&packed) {
        return match flash_serves(&packed, heads, mask) {
            true => kiln_attention::flash_attention(packed, heads, is_causal(mask), None),
            false => reference::attention(packed, heads, mask),
        };
    }
    Tensor::from_dispatch(Dispatch::fused_attention(
        packed.into_dispatch(),
        heads,
        mask,
    ))
}

fn check_attention(packed: &Tensor<3>, heads: usize, mask: AttentionMask) {
    let [_, _, width] = packed.dims();
    assert!(
        heads > 0 && width % (3 * heads) == 0,
        "attention: the last axis, {width}, must be a multiple of 3 * heads = {}",
        3 * heads
    );
    assert!(
        !matches!(mask, AttentionMask::Window { window: 0, .. }),
        "attention: a window of 0 sees no key; it must be at least 1"
    );
}

fn is_causal(mask: AttentionMask) -> bool {
    mask == AttentionMask::Causal
}

/// Whether flash attention takes these projections under this mask.
fn flash_serves(packed: &Tensor<3>, heads: usize, mask: AttentionMask) -> bool {
    let whole = is_causal(mask) || mask == AttentionMask::Full;
    whole && kiln_attention::serves(packed, heads)
}

/// Whether [`attention_with_dropout`] draws its mask inside a kernel here; if not, it draws it on the host.
pub fn drops_in_kernel(packed: &Tensor<3>, heads: usize, mask: AttentionMask) -> bool {
    !on_flex(packed) && flash_serves(packed, heads, mask)
}

/// [`attention`] with dropout of its weights after the softmax.
///
/// # Shapes
/// - those of [`attention`]
///
/// # Cost
/// Where [`drops_in_kernel`], that of [`attention`] and some 10 operations a weight for its random number, twice in backward;
/// else [`reference`](mod@reference) runs, on a mask of the whole square from the host.
///
/// # Panics
/// If the last axis is not a multiple of `3 * heads`, or a window is 0.
pub fn attention_with_dropout(
    packed: Tensor<3>,
    heads: usize,
    mask: AttentionMask,
    dropout: WeightDropout,
) -> Tensor<3> {
    check_attention(&packed, heads, mask);
    match drops_in_kernel(&packed, heads, mask) {
        true => kiln_attention::flash_attention(packed, heads, is_causal(mask), Some(dropout)),
        false => reference::attention_with_dropout(packed, heads, mask, &dropout),
    }
}

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
