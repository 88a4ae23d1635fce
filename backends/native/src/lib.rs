//! Elementary functions of `f32` in CubeCL kernels, as fast as the device has them.
//!
//! NVIDIA's processors have `2^x`, `1 / x` and `1 / sqrt(x)` as single instructions with errors of one or two units in the last place. The
//! kernel language has no word for them: its `exp` is a call into a library, some eight instructions, its division and its root are
//! rounded to the last bit, some ten each. A pass over memory that computes a few of them for every number is then bound by
//! instructions. Here they are called by name where kernels are compiled by LLVM for NVIDIA, found when a kernel is expanded; on every
//! other device the functions are the kernel language's own.
//!
//! | function | instruction | error there |
//! |---|---|---|
//! | `exp2` | `ex2.approx.ftz.f32` | 2 units in the last place, zero for what would be denormal |
//! | `exp` | the same, of `x log2(e)` | `6e-8 (2 + abs(x))` of the value |
//! | `reciprocal` | `rcp.approx.ftz.f32` | 1 unit in the last place; denormals are taken for zero |
//! | `inverse_sqrt` | `rsqrt.approx.ftz.f32` | 2 units in the last place; denormals are taken for zero |
//!
//! Of these are made `sigmoid`, `tanh`, `softplus`, `ln_one_plus` and `one_minus_exp`, which keep their digits near zero.

#[cfg(feature = "_cube")]
#[expect(
    missing_docs,
    reason = "the kernel language makes a module of a public function"
)]
mod composed;
#[cfg(feature = "_cube")]
#[expect(
    missing_docs,
    reason = "the kernel language makes a module of a public function"
)]
mod functions;

#[cfg(feature = "_cube")]
pub use composed::{ln_one_plus, one_minus_exp, sigmoid, softplus, tanh};
#[cfg(feature = "_cube")]
pub use functions::{exp, exp2, inverse_sqrt, reciprocal};
