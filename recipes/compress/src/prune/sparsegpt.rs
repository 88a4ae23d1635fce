//! SparseGPT (arXiv 2301.00774): weights go where their loss can be made up for, and the others make up for it.

use super::{Among, Pattern, losers};
use crate::factor::InverseFactor;
use crate::sweep::{Rule, block_of, sweep};
use crate::{Gram, Matrix, MethodError};

/// How SparseGPT prunes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SparseGptConfig {
    /// Which weights may go. An unstructured share is taken in every block of 128 inputs.
    pub pattern: Pattern,
    /// First damping, as a share of the Hessian's mean diagonal.
    pub damping: f64,
}

/// Prunes so that the layer's output on the calibration inputs changes little: in each block the weights of the smallest
/// (w / U_kk)^2 go, where U_kk is what the inputs after k leave unexplained of it. Weights that are zero already stay so.
///
/// Costs d_input^3 for the factor and d_input^2 d_output for the sweep.
///
/// # Errors
/// No calibration, a pattern that cannot be, a Hessian that stays indefinite.
pub fn sparsegpt(
    weights: &Matrix,
    gram: &Gram,
    config: SparseGptConfig,
) -> Result<Matrix, MethodError> {
    let (d_input, d_output) = (weights.d_input(), weights.d_output());
    config.pattern.check(d_input)?;
    gram.check(weights)?;
    let order: Vec<usize> = (0..d_input).collect();
    let factor = InverseFactor::new(gram, &order, config.damping)?;
    let mut rows = weights.to_f64();
    let block = match config.pattern {
        Pattern::Unstructured { .. } => block_of(1),
        Pattern::NofM { of, .. } => block_of(of),
    };
    let mut pruning = Pruning {
        pattern: config.pattern,
        block,
        weights,
        gone: vec![false; d_input * d_output],
    };
    sweep(&mut rows, &factor, block, &mut pruning);
    let values = rows.into_iter().map(|value| value as f32).collect();
    // Rounding to single precision cannot make an infinity of what was in range, but compensation could.
    Matrix::new(d_input, d_output, values)
}

struct Pruning<'a> {
    pattern: Pattern,
    block: usize,
    weights: &'a Matrix,
    gone: Vec<bool>,
}

impl Rule for Pruning<'_> {
    fn before(&mut self, k: usize, rows: &[f64], factor: &InverseFactor) {
        let unit = match self.pattern {
            Pattern::Unstructured { .. } => self.block,
            Pattern::NofM { of, .. } => of,
        };
        if !k.is_multiple_of(unit) {
            return;
        }
        let d_output = self.weights.d_output();
        let inputs = unit.min(rows.len() / d_output);
        let scores: Vec<f64> = rows[..inputs * d_output]
            .iter()
            .enumerate()
            .map(
                |(at, weight)| match self.weights.values()[k * d_output + at] {
                    // What an earlier stage removed goes first, and counts towards the share.
                    0.0 => -1.0,
                    _ => (weight / factor.diagonal(k + at / d_output)).powi(2),
                },
            )
            .collect();
        for at in losers(&scores, d_output, self.pattern, Among::Layer) {
            self.gone[k * d_output + at] = true;
        }
    }

    fn apply(&mut self, k: usize, row: &mut [f64]) {
        let gone = &self.gone[k * row.len()..];
        for ((weight, gone), before) in row.iter_mut().zip(gone).zip(self.weights.row(k)) {
            if *gone || *before == 0.0 {
                *weight = 0.0;
            }
        }
    }
}
