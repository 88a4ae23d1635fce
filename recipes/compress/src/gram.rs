//! What calibration remembers of a layer's inputs.

use faer::linalg::matmul::matmul;
use faer::{Accum, Par};
use faer::{Mat, MatMut};

use crate::matrix::view;
use crate::{Matrix, MethodError};

/// Sums over the inputs x of a layer: X^T X, which is half the Hessian of its squared output error, and the sizes of its channels.
#[derive(Clone, Debug)]
pub struct Gram {
    d_input: usize,
    tokens: u64,
    /// Sum of x x^T, `[d_input, d_input]`.
    products: Vec<f64>,
    /// Sum of |x|, `[d_input]`.
    sizes: Vec<f64>,
    /// Largest |x|, `[d_input]`.
    peaks: Vec<f64>,
}

impl Gram {
    /// Of no inputs yet.
    pub fn new(d_input: usize) -> Self {
        Self {
            d_input,
            tokens: 0,
            products: vec![0.0; d_input * d_input],
            sizes: vec![0.0; d_input],
            peaks: vec![0.0; d_input],
        }
    }

    /// Adds inputs `[tokens, d_input]`, row by row.
    ///
    /// # Errors
    /// A number of values that makes no whole rows; a value that is not finite.
    pub fn add(&mut self, inputs: &[f32]) -> Result<(), MethodError> {
        let width = self.d_input;
        if !inputs.len().is_multiple_of(width) {
            return Err(MethodError::Shape {
                what: "number of calibration inputs",
                value: inputs.len(),
                why: format!("must be a multiple of the layer's {width} inputs"),
            });
        }
        if let Some(at) = inputs.iter().position(|value| !value.is_finite()) {
            return Err(MethodError::OutOfRange {
                what: "calibration input",
                row: at / width,
                column: at % width,
                value: inputs[at],
                most: f32::MAX,
            });
        }
        let rows = inputs.len() / width;
        let x: Vec<f64> = inputs.iter().map(|&value| value.into()).collect();
        for row in x.chunks_exact(width) {
            let channels = self.sizes.iter_mut().zip(&mut self.peaks);
            for ((size, peak), value) in channels.zip(row) {
                *size += value.abs();
                *peak = peak.max(value.abs());
            }
        }
        let x = view(&x, rows, width);
        let sum = MatMut::from_row_major_slice_mut(&mut self.products, width, width);
        matmul(sum, Accum::Add, x.transpose(), x, 1.0, Par::Seq);
        self.tokens += rows as u64;
        Ok(())
    }

    /// Adds what a device has summed up over rows x that so many tokens left: x x^T `[d_input, d_input]`, |x| and the largest |x|.
    ///
    /// # Errors
    /// A sum that is not finite.
    pub(crate) fn add_sums(
        &mut self,
        [products, sizes, peaks]: [&[f32]; 3],
        tokens: u64,
    ) -> Result<(), MethodError> {
        if let Some(at) = products.iter().position(|value| !value.is_finite()) {
            return Err(MethodError::OutOfRange {
                what: "calibration sum",
                row: at / self.d_input,
                column: at % self.d_input,
                value: products[at],
                most: f32::MAX,
            });
        }
        let add = |sums: &mut [f64], more: &[f32]| {
            for (sum, more) in sums.iter_mut().zip(more) {
                *sum += f64::from(*more);
            }
        };
        add(&mut self.products, products);
        add(&mut self.sizes, sizes);
        for (peak, more) in self.peaks.iter_mut().zip(peaks) {
            *peak = peak.max((*more).into());
        }
        self.tokens += tokens;
        Ok(())
    }

    /// Channels of an input.
    pub fn d_input(&self) -> usize {
        self.d_input
    }

    /// Inputs seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Sum of products of channels `i` and `j`.
    pub fn product(&self, i: usize, j: usize) -> f64 {
        self.products[i * self.d_input + j]
    }

    /// Euclidean length of a channel over all inputs.
    pub fn norm(&self, input: usize) -> f64 {
        self.product(input, input).sqrt()
    }

    /// Mean size of a channel.
    pub fn mean_size(&self, input: usize) -> f64 {
        self.sizes[input] / self.tokens as f64
    }

    /// Largest size of a channel.
    pub fn peak(&self, input: usize) -> f64 {
        self.peaks[input]
    }

    /// Of z = x A for the same inputs: Z^T Z = A^T X^T X A. The sizes of channels are those of normally distributed ones,
    /// sqrt(2 / pi) of their root mean square, as absolute values do not pass a product; the largest ones are bounds.
    pub fn through(&self, first: &Matrix) -> Self {
        let width = first.d_output();
        let a = first.to_f64();
        let a = view(&a, self.d_input, width);
        let h = view(&self.products, self.d_input, self.d_input);
        let products: Mat<f64> = a.transpose() * (h * a);
        let tokens = self.tokens as f64;
        let size = |k: usize| {
            let mean_square = products[(k, k)].max(0.0) / tokens;
            tokens * (mean_square * std::f64::consts::FRAC_2_PI).sqrt()
        };
        let peak = |k: usize| {
            let terms = self.peaks.iter().enumerate();
            terms
                .map(|(i, peak)| peak * f64::from(first.row(i)[k].abs()))
                .sum()
        };
        Self {
            d_input: width,
            tokens: self.tokens,
            peaks: (0..width).map(peak).collect(),
            sizes: (0..width).map(size).collect(),
            products: (0..width * width)
                .map(|at| products[(at / width, at % width)])
                .collect(),
        }
    }

    /// The same of inputs in another order, or taken more than once: channel k is that of the number at `channels[k]`, in a part; channels of
    /// different parts are never added up, so that they have no products.
    pub(crate) fn regrouped(&self, channels: &[(usize, usize)]) -> Self {
        let product = |a: &(usize, usize), b: &(usize, usize)| match a.1 == b.1 {
            true => self.product(a.0, b.0),
            false => 0.0,
        };
        let of = |all: &[f64]| channels.iter().map(|(input, _)| all[*input]).collect();
        Self {
            d_input: channels.len(),
            tokens: self.tokens,
            products: channels
                .iter()
                .flat_map(|a| channels.iter().map(move |b| product(a, b)))
                .collect(),
            sizes: of(&self.sizes),
            peaks: of(&self.peaks),
        }
    }

    /// Checks that there is something to go by, and that it fits a layer.
    ///
    /// # Errors
    /// [`MethodError::NoTokens`], [`MethodError::NoSignal`], or a layer of another width.
    pub fn check(&self, weights: &Matrix) -> Result<(), MethodError> {
        if self.d_input != weights.d_input() {
            return Err(MethodError::Shape {
                what: "width of the calibration inputs",
                value: self.d_input,
                why: format!("the layer has {} inputs", weights.d_input()),
            });
        }
        if self.tokens == 0 {
            return Err(MethodError::NoTokens);
        }
        match (0..self.d_input).any(|input| self.product(input, input) > 0.0) {
            true => Ok(()),
            false => Err(MethodError::NoSignal {
                tokens: self.tokens,
            }),
        }
    }

    /// Mean over the calibration inputs of |x W - x W'|^2, the squared error of a token's whole output.
    pub fn output_error(&self, before: &Matrix, after: &Matrix) -> f64 {
        let difference: Vec<f64> = before
            .values()
            .iter()
            .zip(after.values())
            .map(|(a, b)| f64::from(*a) - f64::from(*b))
            .collect();
        self.energy(&difference, before.d_output())
    }

    /// Mean over the calibration inputs of |x E|^2 for a row-major E `[d_input, d_output]`.
    pub(crate) fn energy(&self, matrix: &[f64], d_output: usize) -> f64 {
        let e = view(matrix, self.d_input, d_output);
        let h = view(&self.products, self.d_input, self.d_input);
        let he: Mat<f64> = h * e;
        let sum: f64 = (0..self.d_input)
            .map(|row| {
                let e = &matrix[row * d_output..][..d_output];
                e.iter()
                    .enumerate()
                    .map(|(column, value)| value * he[(row, column)])
                    .sum::<f64>()
            })
            .sum();
        // Rounding may leave a tiny negative sum where nothing differs.
        sum.max(0.0) / self.tokens as f64
    }
}
