//! What a student learns from a teacher: the settings, the losses, answers of a teacher kept on disk, and text that it writes.
//!
//! Knows tensors of scores, and no model: whose scores they are is the business of `kiln-train`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cache;
mod config;
mod feature;
mod response;
mod target;
mod text;
mod weights;

pub use cache::{CacheError, CacheLayout, CacheReader, CacheWriter, Rows, WindowIndex};
pub use config::DistillConfig;
pub use feature::{FeatureConfig, FeatureKind, relation_error, relative_error};
pub use response::ResponseLoss;
pub use target::Target;
pub use text::{MixedWindows, WrittenConfig};
pub use weights::weight_divergence;
