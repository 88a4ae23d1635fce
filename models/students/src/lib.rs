//! Models that learn from others: presets that fit a teacher, and the surgery that gives a new model a trained one's weights.
//!
//! A student is an ordinary model of the backbone. What makes it one is where its weights come from ([`transplant`]) and, in
//! `recipes/train`, what it learns from.

mod presets;
mod surgery;

pub use presets::{PRESETS, Student, StudentMixer};
pub use surgery::{Graft, Part, SurgeryError, Transplanted, transplant};
