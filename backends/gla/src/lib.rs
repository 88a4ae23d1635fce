//! Gated linear attention: linear attention with a scalar forget gate for every head and position.
//!
//! For every batch row and head, with queries `q_i` and keys `k_i` of `d_key` numbers, values `v_i` of `d_value` numbers and
//! gates `g_i <= 0`, this crate computes
//!
//! ```text
//! S_i = exp(g_i) S_{i-1} + k_i v_i^T,     y_i = S_i^T q_i          S_0 = entering state, [d_key, d_value]
//! ```
//!
//! It is the scalar-gate form of gated linear attention (arXiv 2312.06635), the state space dual of Mamba-2 (arXiv
//! 2405.21060) and, with constant gates, retention (arXiv 2307.08621). [`gated_linear_attention`] is differentiable in all
//! its inputs and from both outputs, with exact gradients (see [`chunked`]). [`linear_recurrence`] is its elementwise kin, a memory
//! of one number a channel.
//!
//! ```no_run
//! use burn::tensor::{Device, Tensor};
//! use kiln_gla::gated_linear_attention;
//!
//! # fn main() -> Result<(), kiln_gla::GlaError> {
//! let device = Device::default().autodiff();
//! let keys = Tensor::<4>::ones([8, 1024, 4, 32], &device).require_grad(); // [batch, seq, heads, d_key]
//! let values = Tensor::<4>::ones([8, 1024, 4, 64], &device); // [batch, seq, heads, d_value]
//! let gates = Tensor::<3>::ones([8, 1024, 4], &device) * -0.1; // [batch, seq, heads]
//! let prompt = gated_linear_attention(keys.clone(), keys, values.clone(), gates.clone(), None)?;
//! let gradients = prompt.output.sum().backward();
//! # Ok(())
//! # }
//! ```
//!
//! # Precision
//! Gates, their sums and the states are stored as `f32`. q, k and v are `f32`, or `bf16` for matrix products with `bf16`
//! operands, which CubeCL backends add up in single precision; the output and the gradients of q, k and v then are `bf16`.
//! Flex computes in `f32` and rounds the results. On CUDA products of `f32` are made in TF32, 11 bits of operands, by the
//! kernels here as by Burn: the chunk-wise form is then good to about 1e-3 of the largest value, final states and the sum of
//! two pieces included; the recurrence has no products and stays single precision.
//!
//! # Cost
//! For a position of a head, with chunks of C positions, in multiplications and additions:
//! ```text
//! forward    2 C (d_key + d_value) + 4 d_key d_value
//! backward   6 C d_key + 4 C d_value + 10 d_key d_value
//! ```
//! The backward pass keeps the inputs and the states between chunks, `d_key d_value / C` numbers a position. On a GPU what
//! takes the time is memory: forward the inputs twice, the output and three times the states, backward about twice that.
//!
//! # Where it runs
//! | backend | implementation |
//! |---|---|
//! | Flex | own kernel, parallel over batch rows and heads |
//! | Cube with matrix units (CUDA), d_key and d_value 32, 64 or 128 | own kernels: chunks of 64 positions, products on the matrix units |
//! | Cube (ROCm, Vulkan, WebGPU, Metal, other widths) | [`chunked`]: the runtime's matrix products, batched over chunks, heads and batch rows |
//!
//! A backend that this crate was not compiled for answers with Burn's "Backend not supported for custom op" panic; turn
//! on the Cargo feature of the same name. Gradients are first order: the backward pass cannot be differentiated again.

mod autodiff;
#[cfg_attr(
    not(any(feature = "flex", feature = "_cube")),
    expect(
        unused_variables,
        reason = "without a backend, dispatch has nowhere to pass its arguments"
    )
)]
mod backend;
pub mod chunked;
#[cfg(feature = "_cube")]
mod cube;
mod decay;
mod error;
#[cfg(feature = "flex")]
mod flex;
mod ops;
mod plain;
pub mod recurrence;
pub mod reference;
mod strategy;

pub use backend::{GlaAdjoint, GlaBackend, Saved};
pub use error::GlaError;
pub use ops::{
    GatedAttention, gated_linear_attention, gated_linear_attention_by,
    gated_linear_attention_forgotten, writes_forgotten,
};
pub use plain::{Forward, Inputs};
pub use recurrence::linear_recurrence;
pub use strategy::Strategy;
