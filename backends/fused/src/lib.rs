//! Fused training operations: what a step spends its time in apart from its matrix products, each as one pass.
//!
//! Composed from plain tensor operations a training step allocates, fills and reads back some hundred intermediate
//! tensors, which costs more than its matrix products. Each function here is one node of the autodiff graph, keeps for
//! backward only its inputs, and recomputes the rest.
//!
//! ```text
//!                      equation                                       kept for backward
//! linear               y = x W + b                                    x, W
//! gelu                 y = x Phi(x)                                   x
//! swiglu               y = silu(gate) up                              gate, up
//! soft_bound           y = bound tanh(x / bound)                      x
//! cayley               w = (z - i) / (z + i), complex                 z
//! rms_norm             y = gamma x / sqrt(mean x^2 + e)               x, gamma
//! layer_norm           y = gamma (x - mean) / sqrt(var + e) + beta    x, gamma
//! rotate               pairs of queries and keys turned by position   cos, sin
//! attention            y_i = sum_{j seen} softmax_j(q_i k_j) v_j      packed q, k, v
//! causal_conv          y_t = sum_j w_j x_{t - width + 1 + j}, silu    x, w
//! select_rows          y_i = table_(n_i), embedding                   n
//! softplus             y = ln(1 + e^x) + floor                        x
//! add_residual         y = x + f, x is read by a norm too             nothing
//! add_weighted         z = x + w y, a weight for each column          y, w
//! scale_written        y = (1 - e^l) x, a factor for each row         x, l
//! dropout              y = x z / (1 - p), z from a seed             the seed
//! side_by_side         W = [A, B, C, D], for one product              nothing
//! convolved_heads      q, k, v = norm(silu(conv(x W)))                x W, the taps
//! gated_readout        y = silu(gate) norm(read + D v)                read, v, gate, the weights
//! cross_entropy        y = log sum_j exp(l_j) - l_target              logits, targets, y
//! linear_cross_entropy its sum for l = x W^T, without all of l       gradients of x, W
//! AdamW, square_sum    an optimizer step and the norm of a gradient, one pass over each parameter
//! ```
//!
//! # Where it runs
//! On Flex in `f32`, with the Cargo feature `flex`; on CubeCL backends (CUDA, ROCm, Vulkan, WebGPU, Metal) in `f32`, `f16` and
//! `bf16` with `f32` arithmetic, but for `linear` and `attention`. Everything else runs the equations in
//! [`reference`](mod@reference), plain tensor operations which Burn differentiates and may fuse by itself. The other way round,
//! `select_rows` is Burn's own on Flex, and has a gradient of its own on CubeCL backends; `softplus`, `add_residual`, `add_weighted`,
//! `scale_written`, `side_by_side`, `gated_readout` and `dropout` have kernels on CubeCL backends only, and `convolved_heads` runs on
//! those alone, with heads that the units of a plane have between them (`takes_convolved_heads`).
//!
//! # Precision
//! Inputs may be f32, bf16 or f16, weights are f32. The output is as x, but for `cross_entropy`, which is f32. In the smaller types
//! products of matrices have operands of that type, and all else, softmax and the means of norms included, is computed in f32;
//! gradients of weights are f32.
//!
//! # Promises of the Flex kernels
//! - A row of the output depends on that row of the input only, bit for bit; for causal attention and convolution, on it and the rows before.
//! - Results are the same on every run and for every number of threads: work is cut into pieces whose size follows from
//!   the shapes alone, and sums over pieces are added in order.
//! - Elementary functions are within 1e-6 of the exact value, relative to it (see the tests for the exact statements).
//!
//! Gradients are first order: a backward pass cannot be differentiated again.

mod attention;
mod autodiff;
#[cfg_attr(
    not(feature = "flex"),
    expect(
        unused_variables,
        reason = "without a backend, dispatch has nowhere to pass its arguments"
    )
)]
mod backend;
#[cfg(feature = "_cube")]
mod cube;
#[cfg_attr(
    not(feature = "_cube"),
    expect(
        unused_variables,
        reason = "without a backend, dispatch has nowhere to pass its arguments"
    )
)]
mod device;
#[cfg_attr(
    not(feature = "_cube"),
    expect(
        unused_variables,
        reason = "without a backend, dispatch has nowhere to pass its arguments"
    )
)]
mod dropout;
#[cfg(feature = "flex")]
mod flex;
mod gradient;
mod head;
#[cfg_attr(
    not(feature = "_cube"),
    expect(
        unused_variables,
        reason = "without a backend, dispatch has nowhere to pass its arguments"
    )
)]
mod heads;
mod linear;
mod mask;
mod ops;
mod optimizer;
mod parts;
#[cfg_attr(
    not(feature = "_cube"),
    expect(
        unused_variables,
        reason = "without a backend, dispatch has nowhere to pass its arguments"
    )
)]
mod readout;
pub mod reference;
mod rows;

pub use attention::{
    AttentionAdjoint, AttentionBackend, attention, attention_with_dropout, drops_in_kernel,
};
pub use backend::{FusedAdjoint, FusedBackend};
pub use device::{
    DeviceAdjoint, DeviceBackend, add_residual, add_weighted, scale_written, softplus,
};
pub use dropout::{DropoutBackend, dropout};
pub use gradient::{clip_factor, on_device_thread, runs_behind, square_sum, square_sums};
pub use head::{
    CHUNK_BYTES, HeadAdjoint, HeadBackend, HeadGradients, LinearLoss, LossOptions, LossTerms,
    chunk_rows, cross_entropy_sum, linear_cross_entropy,
};
pub use heads::{
    ConvolvedHeads, HeadSettings, HeadSizes, HeadsAdjoint, HeadsBackend, PackedGate,
    convolved_heads, linear_side_by_side, side_by_side, takes_convolved_heads,
};
pub use kiln_attention::WeightDropout;
pub use linear::{LinearAdjoint, LinearBackend};
pub use mask::AttentionMask;
pub use ops::{
    causal_conv, cayley, cross_entropy, gelu, layer_norm, linear, rms_norm, rotate, soft_bound,
    swiglu,
};
pub use optimizer::{AdamW, GradientScale, ScaledAdamW};
pub use parts::Aside;
pub use readout::{Gate, ReadoutAdjoint, ReadoutBackend, gated_readout, takes_gated_readout};
pub use rows::{RowsAdjoint, RowsBackend, embedding, select_rows};
