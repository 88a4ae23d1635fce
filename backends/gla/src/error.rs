//! What can be wrong with the arguments of an operation, and the checks for it.

use burn::tensor::DType;

/// An argument that [`gated_linear_attention`](crate::gated_linear_attention) or [`linear_recurrence`](crate::linear_recurrence)
/// refuses.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GlaError {
    /// A shape that does not match those of the other arguments.
    #[error("{operation}: {name} must have shape {axes} = {expected:?}, not {found:?}")]
    Shape {
        /// The operation.
        operation: &'static str,
        /// The argument.
        name: &'static str,
        /// Its axes in words.
        axes: &'static str,
        /// The shape that they ask for.
        expected: Vec<usize>,
        /// The shape that was given.
        found: Vec<usize>,
    },
    /// An argument without elements.
    #[error("{operation}: {name} {axes} has an empty axis: {found:?}")]
    Empty {
        /// The operation.
        operation: &'static str,
        /// The argument.
        name: &'static str,
        /// Its axes in words.
        axes: &'static str,
        /// The shape that was given.
        found: Vec<usize>,
    },
    /// An element type that the argument cannot have.
    #[error("{operation}: {name} must be {expected}, not {found:?}; cast it first")]
    DType {
        /// The operation.
        operation: &'static str,
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

/// # Errors
/// [`GlaError::Shape`] if they differ.
pub(crate) fn check_shape(
    operation: &'static str,
    [name, axes]: [&'static str; 2],
    expected: &[usize],
    found: &[usize],
) -> Result<(), GlaError> {
    if expected == found {
        return Ok(());
    }
    Err(GlaError::Shape {
        operation,
        name,
        axes,
        expected: expected.to_vec(),
        found: found.to_vec(),
    })
}

/// # Errors
/// [`GlaError::Empty`] if an axis has no element.
pub(crate) fn check_filled(
    operation: &'static str,
    [name, axes]: [&'static str; 2],
    found: &[usize],
) -> Result<(), GlaError> {
    if !found.contains(&0) {
        return Ok(());
    }
    Err(GlaError::Empty {
        operation,
        name,
        axes,
        found: found.to_vec(),
    })
}

/// # Errors
/// [`GlaError::DType`] if it is another.
pub(crate) fn check_type(
    operation: &'static str,
    [name, expected]: [&'static str; 2],
    [wanted, found]: [DType; 2],
) -> Result<(), GlaError> {
    if wanted == found {
        return Ok(());
    }
    Err(GlaError::DType {
        operation,
        name,
        expected,
        found,
    })
}
