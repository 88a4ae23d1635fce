//! Compression of a trained model: quantization, pruning and low rank.
//!
//! | module | job |
//! |---|---|
//! | [`matrix`] | a layer's weights on the host |
//! | [`gram`] | what calibration remembers of a layer's inputs |
//! | [`quantize`] | round-to-nearest, MSE clipping, GPTQ, AWQ |
//! | [`prune`] | magnitude, Wanda, SparseGPT; unstructured and N:M |
//! | [`recipe`] | what a compression recipe says |
//! | [`low_rank`] | truncated singular value decompositions, and ranks within a budget |
//!
//! Methods are pure functions of weights and calibration. Nothing here prints.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod apply;
mod error;
mod factor;
pub mod gram;
pub mod layers;
pub mod low_rank;
pub mod matrix;
mod method_error;
pub mod prune;
pub mod quantize;
pub mod recipe;
mod sweep;
#[cfg(test)]
mod toy;

pub use apply::{Calibrated, Job, LayerFigures};
pub use error::CompressError;
pub use gram::Gram;
pub use low_rank::{LowRank, Spectrum, allocate};
pub use matrix::Matrix;
pub use method_error::MethodError;
pub use recipe::CompressRecipe;
