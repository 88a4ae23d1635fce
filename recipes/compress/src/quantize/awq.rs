//! Activation-aware quantization (arXiv 2306.00978): inputs that carry much get finer codes.
//!
//! Weights of input i are multiplied by s_i = (mean |x_i|)^a before rounding, and the input is divided by it:
//! x W = (x / s) (diag(s) W). The exponent a in [0, 1] is the one of 20 with the least output error.

use super::{Clip, Grid, Quantized, round_to_nearest};
use crate::{Gram, Matrix, MethodError};

/// Exponents tried, from 0 (plain rounding) upwards.
const EXPONENTS: usize = 20;

/// How AWQ rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AwqConfig {
    /// Codes.
    pub grid: Grid,
    /// Inputs that share a scale; 0 for all of a layer.
    pub group: usize,
    /// Range of a group's codes.
    pub clip: Clip,
}

/// Codes of diag(s) W, and s.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaled {
    /// diag(s) W as codes.
    pub quantized: Quantized,
    /// s: what each input is divided by, `[d_input]`.
    pub divisors: Vec<f32>,
    /// a.
    pub exponent: f64,
}

impl Scaled {
    /// The weights that codes and divisors stand for.
    pub fn dequantize(&self) -> Vec<f32> {
        let width = self.quantized.d_output;
        let mut values = self.quantized.dequantize();
        for (row, divisor) in values.chunks_exact_mut(width).zip(&self.divisors) {
            row.iter_mut().for_each(|value| *value /= divisor);
        }
        values
    }
}

/// Quantizes with the exponent that changes the layer's output least.
///
/// # Errors
/// No calibration, a grid or group that cannot be, weights that a scale takes beyond half precision.
pub fn awq(weights: &Matrix, gram: &Gram, config: AwqConfig) -> Result<Scaled, MethodError> {
    gram.check(weights)?;
    let mut best: Option<(f64, Scaled)> = None;
    for step in 0..EXPONENTS {
        let exponent = step as f64 / EXPONENTS as f64;
        let divisors = divisors(gram, exponent);
        let width = weights.d_output();
        let mut scaled = weights.values().to_vec();
        for (row, divisor) in scaled.chunks_exact_mut(width).zip(&divisors) {
            row.iter_mut().for_each(|value| *value *= divisor);
        }
        let scaled = Matrix::new(weights.d_input(), width, scaled)?;
        let candidate = Scaled {
            quantized: round_to_nearest(&scaled, config.grid, config.group, config.clip)?,
            divisors,
            exponent,
        };
        let error = gram.output_error(weights, &weights.like(candidate.dequantize()));
        if best.as_ref().is_none_or(|(least, _)| error < *least) {
            best = Some((error, candidate));
        }
    }
    // At least one exponent was tried.
    best.map(|(_, scaled)| scaled).ok_or(MethodError::NoTokens)
}

/// (mean |x_i|)^a, with the geometric mean of the largest and the smallest brought to one.
fn divisors(gram: &Gram, exponent: f64) -> Vec<f32> {
    let sizes: Vec<f64> = (0..gram.d_input())
        // A channel that is zero on the calibration text must not be divided by zero on another.
        .map(|input| gram.mean_size(input).max(1e-4).powf(exponent))
        .collect();
    let least = sizes.iter().copied().fold(f64::INFINITY, f64::min);
    let most = sizes.iter().copied().fold(0.0, f64::max);
    let middle = (least * most).sqrt();
    sizes.iter().map(|size| (size / middle) as f32).collect()
}
