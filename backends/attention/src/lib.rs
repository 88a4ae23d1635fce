//! Softmax attention without its square of scores, forward and backward, on the matrix units of a GPU (FlashAttention-2, arXiv
//! 2307.08691).
//!
//! ```text
//! s_ij = q_i . k_j / sqrt(d)      p_ij = exp(s_ij - L_i)      L_i = ln sum_j exp(s_ij)      y_i = sum_j p_ij v_j
//! d v_j = sum_i p_ij g_i          d s_ij = p_ij (g_i . v_j - g_i . y_i)
//! d q_i = sum_j d s_ij k_j / sqrt(d)                  d k_j = sum_i d s_ij q_i / sqrt(d)
//! ```
//! With dropout a weight p_ij is multiplied by z_ij, 0 or one over the probability of being kept, and so is g_i . v_j; sums and
//! logarithms are those without ([`WeightDropout`]). Both passes draw the same z_ij from the seed, so that none is kept.
//!
//! Blocks of 64 queries meet blocks of 64 keys in registers; kept for backward are the input, the output and the L_i. Backward
//! goes over the blocks twice, once for the queries' gradients and once for those of keys and values, so that nothing is added up
//! atomically and results are the same on every run.
//!
//! # Where it runs
//! Operands of `bf16` or `f16`, heads of 32, 64 or 128, on CubeCL devices whose matrix units multiply 16x8x16 from registers:
//! NVIDIA's from the generation of 2020 on. [`serves`] says whether; callers have another form for the rest.
//!
//! # Cost
//! `4 batch heads d keys` operations a query forward, where keys is the sequence, or half of it for causal attention; 3.5 times
//! that backward. Memory traffic is linear in the sequence but for the blocks of keys and values, which caches hold.
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
mod dropout;

pub use backend::{FlashAdjoint, FlashBackend, Heads};
pub use dropout::{FACTORS, ROUNDS, STEPS, WeightDropout, kept_factor, of_levels, philox};

use burn::{backend::Dispatch, tensor::Tensor};

/// Whether [`flash_attention`] takes these projections, `[batch, seq, 3 * heads * d_head]`.
pub fn serves(packed: &Tensor<3>, heads: usize) -> bool {
    #[cfg(feature = "_cube")]
    if let burn::backend::DispatchDevice::Cube(device) = packed.device().inner().as_dispatch() {
        let [_, _, width] = packed.dims();
        return cube::serves(device, packed.dtype(), width / (3 * heads.max(1)));
    }
    let _ = (packed, heads);
    false
}

/// Softmax attention of each head by itself on the projections as the linear layer leaves them, with dropout of its weights if
/// asked for.
///
/// # Shapes
/// - packed `[batch, seq, 3 * heads * d_head]`: all heads' queries, then keys, then values
/// - output `[batch, seq, heads * d_head]`, of packed's element type
///
/// # Panics
/// If [`serves`] says no.
pub fn flash_attention(
    packed: Tensor<3>,
    heads: usize,
    causal: bool,
    dropout: Option<WeightDropout>,
) -> Tensor<3> {
    assert!(
        serves(&packed, heads),
        "flash_attention: {:?} with {heads} heads, {:?}, is not served on {:?}",
        packed.dims(),
        packed.dtype(),
        packed.device()
    );
    let heads = |dropped| Heads {
        count: heads,
        causal,
        dropped,
    };
    let packed = packed.into_dispatch();
    Tensor::from_dispatch(match dropout.and_then(WeightDropout::into_parts) {
        Some((seed, dropped)) => {
            Dispatch::flash_attention_with_dropout(packed, seed.into_dispatch(), heads(dropped))
        }
        None => Dispatch::flash_attention(packed, heads(0)),
    })
}
