//! A layer's weights on the host.

use faer::MatRef;

use crate::MethodError;

/// The largest weight that a scale in half precision reaches.
const LARGEST: f32 = 65_504.0;

/// Weights `[d_input, d_output]` in row-major order, as a linear layer holds them: y = x W.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    d_input: usize,
    d_output: usize,
    values: Vec<f32>,
}

impl Matrix {
    /// The matrix of these values.
    ///
    /// # Errors
    /// A size of zero, another number of values, a value that is not finite or beyond half precision.
    pub fn new(d_input: usize, d_output: usize, values: Vec<f32>) -> Result<Self, MethodError> {
        if d_input == 0 || d_output == 0 || values.len() != d_input * d_output {
            return Err(MethodError::Shape {
                what: "number of weights",
                value: values.len(),
                why: format!("{d_input} x {d_output} was asked for"),
            });
        }
        let fits = |value: &f32| (-LARGEST..=LARGEST).contains(value);
        match values.iter().position(|value| !fits(value)) {
            None => Ok(Self {
                d_input,
                d_output,
                values,
            }),
            Some(at) => Err(MethodError::OutOfRange {
                what: "weight",
                row: at / d_output,
                column: at % d_output,
                value: values[at],
                most: LARGEST,
            }),
        }
    }

    /// Rows: inputs of the layer.
    pub fn d_input(&self) -> usize {
        self.d_input
    }

    /// Columns: outputs of the layer.
    pub fn d_output(&self) -> usize {
        self.d_output
    }

    /// All weights, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The weights themselves.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// Weights of one input.
    pub fn row(&self, input: usize) -> &[f32] {
        &self.values[input * self.d_output..][..self.d_output]
    }

    /// Another matrix of the same shape, whose values this crate computed from finite ones.
    pub(crate) fn like(&self, values: Vec<f32>) -> Self {
        debug_assert_eq!(values.len(), self.values.len());
        Self { values, ..*self }
    }

    /// In double precision.
    pub(crate) fn to_f64(&self) -> Vec<f64> {
        self.values.iter().map(|&value| value.into()).collect()
    }

    /// Share of weights that are exactly zero.
    pub fn sparsity(&self) -> f64 {
        let zeros = self.values.iter().filter(|value| **value == 0.0).count();
        zeros as f64 / self.values.len() as f64
    }
}

/// A row-major slice as faer sees it.
pub(crate) fn view(values: &[f64], rows: usize, cols: usize) -> MatRef<'_, f64> {
    MatRef::from_row_major_slice(values, rows, cols)
}
