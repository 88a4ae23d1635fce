//! Named configurations.

use crate::BackboneConfig;

/// A named model: a backbone and the settings `C` of its mixers.
pub struct Preset<C> {
    /// Name that recipes use.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Builds the configuration; `vocab_size` is left 0 for the tokenizer to fill.
    pub config: fn() -> (BackboneConfig, C),
}
