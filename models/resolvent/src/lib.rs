//! Resolvent attention: rows of a tridiagonal resolvent as causal weights over keys and values, in the shared backbone.
//!
//! Each head computes a real potential from every token, puts it on the diagonal of a tridiagonal operator H, and mixes
//! values by the row that ends at the present token of (H - z)^-1: linear attention whose forget gates come from the
//! resolvent, in O(seq) time with constant state.

mod config;
mod mixer;
mod presets;

pub use config::{Boundary, ResolventConfig};
pub use kiln_bk::ResolventForm;
pub use mixer::{ResolventMixer, ResolventMixerState};
pub use presets::PRESETS;
