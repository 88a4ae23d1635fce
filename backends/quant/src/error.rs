//! What can be wrong with a packed or sparse matrix.

use std::ops::RangeInclusive;

use crate::encoding::Encoding;

/// Something that cannot be packed, or words that are no packed matrix.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantError {
    /// A matrix without entries.
    #[error("a packed matrix has at least one input and one output, not {d_input} x {d_output}")]
    Empty {
        /// Rows.
        d_input: usize,
        /// Columns.
        d_output: usize,
    },
    /// Groups that leave a remainder.
    #[error(
        "groups of {group} inputs do not divide {d_input} inputs; choose a divisor that is a multiple of 32, or {d_input} for one group"
    )]
    Group {
        /// Inputs of a group.
        group: usize,
        /// Inputs of the matrix.
        d_input: usize,
    },
    /// Groups whose codes would end inside of a word.
    #[error(
        "groups of {group} inputs are not a multiple of 32; choose 32, 64 or 128, or {d_input} for one group"
    )]
    Unaligned {
        /// Inputs of a group.
        group: usize,
        /// Inputs of the matrix.
        d_input: usize,
    },
    /// Groups of complex numbers that two does not divide.
    #[error(
        "a group of {group} of {d_input} stored inputs has no halves for real and imaginary parts; choose one that two divides"
    )]
    Halves {
        /// Stored inputs of a group.
        group: usize,
        /// Stored inputs of the matrix.
        d_input: usize,
    },
    /// Zero points for an encoding that has none.
    #[error("{encoding:?} has no zero points; leave `asymmetric` out, or use an integer encoding")]
    NoZeroPoints {
        /// The encoding.
        encoding: Encoding,
    },
    /// Zero points that are there and should not be, or the other way round.
    #[error(
        "the format says asymmetric = {asymmetric}, but zero points are {}",
        if *asymmetric { "absent" } else { "present" }
    )]
    ZeroPoints {
        /// What the format says.
        asymmetric: bool,
    },
    /// A list of another length than the shape asks for.
    #[error("{what}: {found}, but the shape asks for {expected}")]
    Length {
        /// What there are too many or too few of.
        what: &'static str,
        /// How many were given.
        found: usize,
        /// How many it takes.
        expected: usize,
    },
    /// A level that the encoding has no code for.
    #[error(
        "the level of input {input}, output {output} is {level}, but {encoding:?} has levels {} to {}{}",
        range.start(),
        range.end(),
        if *encoding == Encoding::Sign { " without 0" } else { "" }
    )]
    Level {
        /// Row.
        input: usize,
        /// Column.
        output: usize,
        /// The level.
        level: i16,
        /// The encoding.
        encoding: Encoding,
        /// Levels that it has.
        range: RangeInclusive<i16>,
    },
    /// A zero point that is no level.
    #[error(
        "the zero point of group {group}, output {output} is {zero}, but must be at most {most}"
    )]
    ZeroPoint {
        /// Group of inputs.
        group: usize,
        /// Column.
        output: usize,
        /// The zero point.
        zero: u8,
        /// The largest level.
        most: u8,
    },
    /// A scale that is no positive number of its type, or zero.
    #[error(
        "the scale of group {group}, output {output} is {scale}, which {kind} cannot hold as a finite number that is not negative and, unless it is 0, does not round to 0"
    )]
    Scale {
        /// Group of inputs.
        group: usize,
        /// Column.
        output: usize,
        /// The scale.
        scale: f32,
        /// Type of the scales.
        kind: &'static str,
    },
    /// A value that is no number, or too large for its type.
    #[error(
        "the value of input {input}, output {output} is {value}, which {kind} cannot hold as a finite number"
    )]
    Value {
        /// Row.
        input: usize,
        /// Column.
        output: usize,
        /// The value.
        value: f32,
        /// Type of the values.
        kind: &'static str,
    },
    /// More values in a group of four inputs than 2:4 allows.
    #[error(
        "inputs {input} to {} of output {output} have {found} values that are not zero, but 2:4 allows two",
        input + 3
    )]
    TooDense {
        /// First of the four rows.
        input: usize,
        /// Column.
        output: usize,
        /// Values that are not zero.
        found: usize,
    },
    /// 2:4 of a number of inputs that four does not divide.
    #[error("2:4 takes groups of four inputs, which do not divide {d_input}; store it as a mask")]
    NotFours {
        /// Rows.
        d_input: usize,
    },
    /// Weights that are not multiplied as integers.
    #[error(
        "these weights make no integer product, as {why}; it takes int8, or signs for inputs that become signs, without zero points and one scale an output, of at most 131072 inputs"
    )]
    NoIntegers {
        /// What stands against it.
        why: &'static str,
    },
    /// A step of inputs that is no positive number.
    #[error("the step of the inputs is {step}, but must be positive and finite")]
    Step {
        /// The step.
        step: f32,
    },
    /// Words that break a rule of the layout.
    #[error("these words are no such matrix: {0}")]
    Corrupt(&'static str),
}
