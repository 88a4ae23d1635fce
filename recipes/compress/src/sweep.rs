//! The sweep that GPTQ and SparseGPT share: optimal brain surgery in a fixed order.
//!
//! Input by input, a rule says what the input's weights become; the error this makes in the layer's output is made up for by the
//! weights of the inputs after it (arXiv 2210.17323, section 3; arXiv 2301.00774, section 3):
//!
//! e = (w_k - w'_k) / U_kk;   w_j -= U_kj e for all j > k,   with H^-1 = U^T U.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, Par};

use crate::factor::InverseFactor;
use crate::matrix::view;

/// What a method does with the weights of one input.
pub(crate) trait Rule {
    /// Called before input `k`. `rows` are the weights of inputs k and after, as the errors so far left them; those of the block
    /// that `k` begins, or is in, are up to date.
    fn before(&mut self, k: usize, rows: &[f64], factor: &InverseFactor);

    /// Replaces the weights of input `k` by what they become.
    fn apply(&mut self, k: usize, row: &mut [f64]);
}

/// Sweeps over `weights`, row-major `[d_input, d_output]` in the factor's order. Errors reach inputs beyond a block of `block`
/// in one matrix product, which gives the same result sooner.
pub(crate) fn sweep(
    weights: &mut [f64],
    factor: &InverseFactor,
    block: usize,
    rule: &mut impl Rule,
) {
    let d_input = factor.d_input;
    let d_output = weights.len() / d_input;
    let mut errors = vec![0.0; block * d_output];
    for start in (0..d_input).step_by(block) {
        let end = (start + block).min(d_input);
        for k in start..end {
            rule.before(k, &weights[k * d_output..], factor);
            let (head, tail) = weights.split_at_mut((k + 1) * d_output);
            let row = &mut head[k * d_output..];
            let error = &mut errors[(k - start) * d_output..][..d_output];
            error.copy_from_slice(row);
            rule.apply(k, row);
            let diagonal = factor.diagonal(k);
            for (error, after) in error.iter_mut().zip(row.iter()) {
                *error = (*error - after) / diagonal;
            }
            let within = tail.chunks_exact_mut(d_output).take(end - k - 1);
            for (later, row) in within.enumerate() {
                let spread = factor.values[k * d_input + k + 1 + later];
                for (weight, error) in row.iter_mut().zip(error.iter()) {
                    *weight -= spread * error;
                }
            }
        }
        if end < d_input {
            let rows = end - start;
            let u =
                view(&factor.values, d_input, d_input).submatrix(start, end, rows, d_input - end);
            let errors = view(&errors[..rows * d_output], rows, d_output);
            let rest = &mut weights[end * d_output..];
            let rest = MatMut::from_row_major_slice_mut(rest, d_input - end, d_output);
            matmul(rest, Accum::Add, u.transpose(), errors, -1.0, Par::Seq);
        }
    }
}

/// The block that is as near to 128 as a multiple of `unit` gets, so that no unit lies in two blocks.
pub(crate) fn block_of(unit: usize) -> usize {
    unit * (128 / unit).max(1)
}
