//! What can be wrong with a model before it runs.

use thiserror::Error;

/// A model configuration that cannot be built, or an input the model cannot take.
#[derive(Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum ModelError {
    /// A size is zero or negative where the model needs at least one.
    #[error("`{name}` is {value}, but must be at least {least}")]
    TooSmall {
        /// Configuration key.
        name: &'static str,
        /// What was given.
        value: usize,
        /// The least that works.
        least: usize,
    },
    /// A split into heads that leaves a remainder.
    #[error(
        "`{part}` = {part_value} does not divide `{whole}` = {whole_value}; choose a divisor of {whole_value}"
    )]
    NotDivisible {
        /// Key of the divisor.
        part: &'static str,
        /// Value of the divisor.
        part_value: usize,
        /// Key of the dividend.
        whole: &'static str,
        /// Value of the dividend.
        whole_value: usize,
    },
    /// A real setting outside its range.
    #[error("`{name}` is {value}, but must lie in {range}")]
    OutOfRange {
        /// Configuration key.
        name: &'static str,
        /// What was given.
        value: f64,
        /// The allowed interval, in words.
        range: &'static str,
    },
    /// A sequence longer than learned positions reach.
    #[error(
        "position {position} is beyond `max_seq` = {max_seq}; this model has learned positions: use shorter input, or a larger `max_seq`"
    )]
    TooLong {
        /// First position that has no embedding.
        position: usize,
        /// Positions the model was built for.
        max_seq: usize,
    },
    /// `step` or `forward` with state was asked of a model that looks at both sides.
    #[error(
        "this model is bidirectional: it has no left-to-right state, so it cannot generate; use a causal preset"
    )]
    Bidirectional,
    /// Settings that contradict each other.
    #[error("{0}")]
    Conflict(String),
}
