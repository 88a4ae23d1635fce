//! Every model Kiln knows, as one closed choice: a backbone and a pattern of mixers.
//!
//! Adding a mixer touches its own crate, the three enums of [`mixer`](crate::AnyMixer), a preset and a docs page.

mod mixer;
mod model;

pub use kiln_backbone::{
    BackboneConfig, Direction, MlpKind, ModelError, NormKind, Positions, Precision,
};
pub use kiln_baselines::{ConvConfig, GlaConfig, MinGruConfig};
pub use kiln_resnet_bk::{BkConfig, Chart, Control, GradRule};
pub use kiln_resolvent::{ResolventConfig, ResolventForm};
pub use kiln_students::{Graft, Part, SurgeryError, Transplanted, transplant};
pub use kiln_transformer::AttentionConfig;
pub use mixer::{AnyMixer, AnyState, MixerKind};
pub use model::{
    LanguageModel, ModelConfig, ModelState, PresetInfo, potential_weights, presets, with_grad_rule,
};
