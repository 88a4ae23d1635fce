//! The BK operations: the diagonal of a tridiagonal resolvent as a differentiable sequence mixer.
//!
//! For every batch row and head let `H` be the tridiagonal operator over positions `i = 1..N` with diagonal `a_i` (the
//! *potential*) and neighbour couplings whose product is `beta >= 0` (the *hopping*), and let `z` be an *energy* with
//! `Im z > 0`. With `G = (H - z)^-1` this crate computes
//!
//! ```text
//! left        L_i  = 1 / (a_i - z - beta L_{i-1}),  L_0 = entering state     sees positions <= i: causal
//! right       R_i  = 1 / (a_i - z - beta R_{i+1}),  R_{N+1} = 0              sees positions >= i
//! diagonal    G_ii = 1 / (a_i - z - beta L_{i-1} - beta R_{i+1})             sees everything
//! ```
//!
//! [`bk_left`] returns every `L_i`, for models that predict the next token; [`bk_diagonal`] returns every `G_ii`, for
//! encoders. With a coupling `b` above the diagonal and `c` below it, `beta = b c`, the resolvent can be applied to vectors:
//!
//! ```text
//! causal      d_i = L_i (u_i - c d_{i-1}),  d_0 = entering state             sees positions <= i: causal
//! full        x_i = d_i - L_i b x_{i+1},    x_{N+1} = 0, so x = (H - z)^-1 u  sees everything
//! ```
//!
//! [`bk_solve_causal`] returns every `d_i`, [`bk_solve`] every `x_i`, for any number of columns of `u`. All are
//! differentiable in all their inputs, with exact reverse sweeps in O(N) (see [`adjoint`]). [`resolvent_attention`] makes
//! the last rows of the leading blocks' resolvents the weights of a causal attention, by way of gated linear attention
//! ([`kiln_gla`]).
//!
//! ```no_run
//! use burn::tensor::{Device, Tensor};
//! use kiln_bk::bk_left;
//!
//! # fn main() -> Result<(), kiln_bk::BkError> {
//! let device = Device::default().autodiff();
//! let potential = Tensor::<3>::zeros([8, 1024, 64], &device).require_grad(); // [batch, seq, heads]
//! let hopping = Tensor::<1>::ones([64], &device);
//! let energy = Tensor::cat(vec![Tensor::<2>::zeros([1, 64], &device), Tensor::ones([1, 64], &device)], 0);
//! let prompt = bk_left(potential.clone(), hopping.clone(), energy.clone(), None)?;
//! let next = Tensor::<3>::zeros([8, 1, 64], &device);
//! let step = bk_left(next, hopping, energy, Some(prompt.state))?; // one token, constant cost
//! let gradients = (prompt.features.sum() + step.features.sum()).backward();
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//! Inputs and outputs are `f32`. Complex numbers are stored with the real parts in the first half of the last axis and
//! the imaginary parts in the second, `[.., 2 * heads]`: one output tensor is one node of the autodiff graph, memory
//! access stays coalesced with heads innermost, and a linear projection can read the features as they are.
//!
//! # Range
//! For finite inputs with `Im z > 0` and `beta >= 0`: `Im L > 0` and `|L| <= 1 / Im z` up to rounding, and the same for
//! `R` and `G`, so nothing needs clamping. The reciprocal is formed as `conj(x) / (re^2 + im^2)`, therefore single
//! precision asks for `1e-18 < |a - z - beta L| < 1e18`; `Im L` itself stays representable while
//! `Im z / |a - z - beta L|^2 > 1e-38`. `|a| <= 1e4` with `Im z >= 1e-3` is far inside.
//!
//! # Cost per element (one position of one head)
//! ```text
//!                      operations             bytes moved at least
//! left      forward    10 + 1 division        read  4, write 8
//!           backward   22                     read 16, write 4
//! diagonal  forward    22 + 2 divisions       read  4, write 8
//!           backward   60 + 3 divisions       read 12, write 4
//! ```
//! The solve, for one column of `u` besides (the `L_i`, which all columns of a head share, come on top of it):
//! ```text
//! causal    forward    10                     read  4, write 8
//!           backward   22                     read 16, write 4
//! full      forward    18                     read  4, write 8
//!           backward   35                     read 16, write 4
//! ```
//! Nothing but the inputs and the output is kept for the backward pass. The diagonal needs scratch memory: on Flex 16 bytes
//! an element forward and 72 backward, of the sequences being worked on; on CubeCL 8 and 16, of all of them. The full solve
//! needs 8 on Flex, of the columns being worked on.
//!
//! # Where it runs
//! | backend | implementation |
//! |---|---|
//! | Flex | own vectorised kernels, parallel over batch rows and blocks of heads; the solve over batch rows and heads, vectorised over columns |
//! | Cube (CUDA, ROCm, Vulkan, WebGPU, Metal) | own kernels, parallel over batch rows, heads and, where those are few, chunks of the sequence (see `cube`, with such a backend compiled in) |
//!
//! On CubeCL these kernels move, in bytes an element:
//! ```text
//!                      whole sequences    in chunks
//! left      forward          12               16
//!           backward         20               36
//! diagonal  forward          32               40
//!           backward         84              140
//! causal    forward          12
//!           backward         32
//! full      forward          28
//!           backward         48
//! ```
//! and start 1 launch (left, forward) to about 20 (diagonal, backward, in chunks), however long the sequence is. On CUDA and
//! ROCm left takes one pass in 1 or 2 launches for more than 16 positions, so 12 bytes forward and 20 backward
//! (`cube::Strategy::LookBack`).
//!
//! Results repeat to the bit on one device, for nothing is added up atomically; but for left in one pass, where timing decides
//! which of two equal values, a rounding apart, enters a tile. Cutting a sequence in two and passing the state on gives the
//! same bits on Flex, and with `cube::Strategy::Sequential`; chunks and tiles begin from values that differ by a rounding.
//! Gradients of hopping and energy are sums over all positions: in double precision on Flex, and in short single-precision
//! sums of sums on CubeCL, whose devices often have no double precision.
//!
//! A backend that this crate was not compiled for answers with Burn's "Backend not supported for custom op" panic; turn
//! on the Cargo feature of the same name. Gradients are first order: the backward pass cannot be differentiated again.

pub mod adjoint;
mod attention;
mod autodiff;
#[cfg_attr(
    not(any(feature = "flex", feature = "_cube")),
    expect(
        unused_variables,
        reason = "without a backend, dispatch has nowhere to pass its arguments"
    )
)]
mod backend;
#[cfg_attr(
    not(feature = "_cube"),
    expect(
        unused_variables,
        reason = "without a backend, dispatch has nowhere to pass its arguments"
    )
)]
mod born;
mod complex;
#[cfg(feature = "_cube")]
pub mod cube;
#[cfg_attr(
    not(feature = "_cube"),
    expect(
        unused_variables,
        reason = "without a backend, dispatch has nowhere to pass its arguments"
    )
)]
mod energies;
mod error;
#[cfg(feature = "flex")]
mod flex;
mod gates;
mod ops;
mod piece;
pub mod reference;
mod rows;
mod rule;

pub use attention::{
    ResolventAttention, ResolventForm, ResolventInputs, ResolventState, resolvent_attention,
    resolvent_attention_by, resolvent_attention_output,
};
pub use backend::{BkAdjoint, BkBackend};
pub use born::{BornAdjoint, BornBackend, BornSaved, BornSettings};
pub use energies::{EnergiesAdjoint, EnergiesBackend, energies};
pub use error::BkError;
pub use ops::{
    BkLeft, BkSolveCausal, SolveState, bk_diagonal, bk_diagonal_with_rule, bk_left,
    bk_left_with_rule, bk_solve, bk_solve_causal, check_parameters,
};
pub use piece::{BkDiagonalPiece, bk_diagonal_piece};
pub use rows::{RowMeasure, row_weights};
pub use rule::{GradRule, HYP7_FLOOR};
