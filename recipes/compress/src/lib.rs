//! Compression of a trained model: quantization, pruning and low rank, in one pipeline with one artifact.
//!
//! | module | job |
//! |---|---|
//! | [`recipe`] | what a compression recipe says |
//! | [`pipeline`] | from a run to a smaller one, stage by stage |
//! | [`calibrate`](mod@calibrate) | what the inputs of every layer look like |
//! | `fisher` | how the loss curves along the embedding |
//! | [`apply`] | one stage: the layers it works on, and what it makes of them |
//! | [`judge`] | how good a model is beside the original |
//! | [`figures`], [`page`] | what every stage cost and saved, as files and tables |
//! | [`vary`] | one compression with several values of some keys |
//! | [`matrix`], [`gram`], [`layers`] | weights on the host, statistics of inputs, which tensors are layers |
//! | [`quantize`] | round-to-nearest, MSE clipping, GPTQ, AWQ, smoothing |
//! | [`bits`] | bits for each layer within a budget |
//! | [`prune`] | magnitude, Wanda, SparseGPT; unstructured and N:M |
//! | `structured` | channels, heads and layers taken out of a model |
//! | [`low_rank`] | truncated singular value decompositions, and ranks within a budget |
//!
//! Methods are pure functions of weights and calibration. Nothing here prints.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod apply;
pub mod bits;
pub mod calibrate;
mod error;
mod factor;
pub mod figures;
mod fisher;
pub mod gram;
pub mod judge;
pub mod layers;
pub mod low_rank;
pub mod matrix;
mod method_error;
pub mod page;
pub mod pipeline;
pub mod prune;
pub mod quantize;
pub mod recipe;
mod structured;
mod sweep;
#[cfg(test)]
mod toy;
pub mod vary;

pub use apply::{Calibrated, Job, LayerFigures};
pub use calibrate::calibrate;
pub use error::CompressError;
pub use figures::{COMPRESS_VERSION, Compression, StageFigures};
pub use gram::Gram;
pub use judge::Quality;
pub use low_rank::{LowRank, Spectrum, allocate};
pub use matrix::Matrix;
pub use method_error::MethodError;
pub use pipeline::{Estimate, Outcome, Request, compress, estimate};
pub use recipe::CompressRecipe;
