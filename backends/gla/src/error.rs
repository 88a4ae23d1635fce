//! What can be wrong with the arguments of the operation.

use burn::tensor::DType;

/// An argument that [`gated_linear_attention`](crate::gated_linear_attention) refuses.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GlaError {
    /// A shape that does not match those of q and v.
    #[error("gated_linear_attention: {name} must have shape {axes} = {expected:?}, not {found:?}")]
    Shape {
        /// The argument.
        name: &'static str,
        /// Its axes in words.
        axes: &'static str,
        /// The shape that q and v ask for.
        expected: Vec<usize>,
        /// The shape that was given.
        found: Vec<usize>,
    },
    /// An argument without elements.
    #[error("gated_linear_attention: {name} {axes} has an empty axis: {found:?}")]
    Empty {
        /// The argument.
        name: &'static str,
        /// Its axes in words.
        axes: &'static str,
        /// The shape that was given.
        found: Vec<usize>,
    },
    /// An element type that the argument cannot have.
    #[error("gated_linear_attention: {name} must be {expected}, not {found:?}; cast it first")]
    DType {
        /// The argument.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
        /// The element type that was given.
        found: DType,
    },
    /// A chunk length outside of its range.
    #[error("gated_linear_attention: the chunk is {found} positions, but must be in 1..={most}")]
    Chunk {
        /// The length that was given.
        found: usize,
        /// The longest chunk.
        most: usize,
    },
}
