//! Baselines that a mixer must beat: what a short convolution alone achieves (arXiv 1612.08083, 2212.14052), gated linear
//! attention (arXiv 2312.06635, 2405.21060), a minimal gated unit (arXiv 2410.01201), and mixing without parameters (arXiv 2105.03824).

mod conv;
mod fnet;
mod gla;
mod min_gru;
mod presets;

pub use conv::{ConvConfig, ConvMixer};
pub use fnet::FnetMixer;
pub use gla::{GlaConfig, GlaMixer, GlaState};
pub use min_gru::{MinGruConfig, MinGruMixer, MinGruState};
pub use presets::{CONV_PRESETS, FNET_PRESETS, GLA_PRESETS, MIN_GRU_PRESETS};
