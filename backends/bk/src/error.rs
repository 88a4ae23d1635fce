//! What can be wrong with the arguments of an operation.

use burn::tensor::DType;

/// An argument that the BK operations refuse.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BkError {
    /// A shape that does not match the potential's.
    #[error("{op}: {name} must have shape {axes} = {expected:?}, not {found:?}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The argument.
        name: &'static str,
        /// Its axes in words.
        axes: &'static str,
        /// The shape that the potential asks for.
        expected: Vec<usize>,
        /// The shape that was given.
        found: Vec<usize>,
    },
    /// A potential without elements.
    #[error("{op}: potential [batch, seq, heads] has an empty axis: {found:?}")]
    Empty {
        /// The operation.
        op: &'static str,
        /// The shape that was given.
        found: Vec<usize>,
    },
    /// An element type other than `f32`.
    #[error("{op}: {name} must be F32, not {found:?}; cast it first")]
    DType {
        /// The operation.
        op: &'static str,
        /// The argument.
        name: &'static str,
        /// The element type that was given.
        found: DType,
    },
    /// A parameter outside its domain.
    #[error("{name} of head {head} is {value}, but must be {bound}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// The head it belongs to.
        head: usize,
        /// Its value.
        value: f32,
        /// The domain.
        bound: &'static str,
    },
    /// A bound on potentials that is none.
    #[error(
        "{op}: the bound on potentials is {value}, but must be positive and finite; leave it out for none"
    )]
    Bound {
        /// The operation.
        op: &'static str,
        /// The bound.
        value: f64,
    },
    /// Parameters that the device could not hand back.
    #[error("could not read {name} back from the device: {reason}")]
    Readback {
        /// The parameter.
        name: &'static str,
        /// What the device said.
        reason: String,
    },
    /// What the linear attention underneath [`resolvent_attention`](crate::resolvent_attention()) refuses.
    #[error("resolvent_attention: {0}")]
    Attention(#[from] kiln_gla::GlaError),
}
