//! ResNet-BK: the resolvent of a tridiagonal operator as token mixer, in the shared backbone.
//!
//! Each head computes a real potential from every token, puts it on the diagonal of a tridiagonal operator H, and
//! reads the resolvent (H - z)^-1 off at a complex energy z: in O(seq) time, with constant state.

mod mixer;
mod presets;

pub use kiln_bk::GradRule;
pub use mixer::{BkConfig, BkMixer, Chart, Control};
pub use presets::PRESETS;
