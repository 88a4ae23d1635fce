//! Baselines that a mixer must beat: what a short convolution alone achieves (arXiv 1612.08083, 2212.14052).

mod conv;
mod presets;

pub use conv::{ConvConfig, ConvMixer};
pub use presets::PRESETS;
