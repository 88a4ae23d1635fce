//! What can keep a method from being applied to a layer.

use thiserror::Error;

/// A layer that a method cannot compress.
#[derive(Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum MethodError {
    /// Statistics of no inputs.
    #[error(
        "the calibration has no tokens for this layer; raise `calibration.windows`, or take a method without calibration"
    )]
    NoTokens,
    /// Inputs that are zero throughout, or all alike.
    #[error(
        "all {tokens} calibration inputs of this layer are zero; calibrate on text that the model was trained for"
    )]
    NoSignal {
        /// Inputs seen.
        tokens: u64,
    },
    /// NaN, an infinity, or a number that half precision does not reach.
    #[error(
        "{what} [{row}, {column}] is {value}, but must be finite and at most {most} in size; the weights come from a damaged or diverged run"
    )]
    OutOfRange {
        /// Weight or input.
        what: &'static str,
        /// Row of it.
        row: usize,
        /// Column of it.
        column: usize,
        /// The value.
        value: f32,
        /// The largest that works.
        most: f32,
    },
    /// Sizes that do not go together.
    #[error("{what} is {value}, but {why}")]
    Shape {
        /// What has the wrong size.
        what: &'static str,
        /// Its size.
        value: usize,
        /// The size that works, and what to do.
        why: String,
    },
    /// A setting outside its range.
    #[error("`{key}` is {value}, but {why}")]
    Setting {
        /// Key of the stage.
        key: &'static str,
        /// What was given.
        value: String,
        /// The bound.
        why: &'static str,
    },
    /// Cholesky failed with the largest damping.
    #[error(
        "the Hessian of the layer's inputs is not positive definite, even with {damping} of its mean diagonal added; calibrate on more, or more varied windows"
    )]
    NotPositiveDefinite {
        /// The last damping tried.
        damping: f64,
    },
    /// Singular values that did not converge.
    #[error(
        "the singular values of a matrix of {rows} x {cols} did not converge; its weights are out of proportion"
    )]
    NoConvergence {
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
    },
}
