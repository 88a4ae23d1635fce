//! Pruning: weights set to zero.

mod sparsegpt;

pub use sparsegpt::{SparseGptConfig, sparsegpt};

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::{Gram, Matrix, MethodError};

/// Which weights may go.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// A share of them, wherever they are.
    Unstructured {
        /// Share that goes.
        share: f64,
    },
    /// All but `keep` of every `of` neighbouring inputs of an output.
    NofM {
        /// Weights that stay.
        keep: usize,
        /// Out of so many.
        of: usize,
    },
}

/// Among which weights an unstructured share is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Among {
    /// All of a layer.
    Layer,
    /// Those of one output: every output loses as many.
    Output,
}

impl Pattern {
    /// Checks the numbers, alone and against a layer's width.
    ///
    /// # Errors
    /// A share outside of (0, 1), more kept than there are, inputs that N:M does not divide.
    pub fn check(&self, d_input: usize) -> Result<(), MethodError> {
        let bad = |key, value: String, why| Err(MethodError::Setting { key, value, why });
        match *self {
            Self::Unstructured { share } if !(share > 0.0 && share < 1.0) => {
                bad("share", share.to_string(), "must lie in (0, 1)")
            }
            Self::NofM { keep, of } if keep == 0 || keep >= of => bad(
                "pattern",
                format!("{keep}:{of}"),
                "must keep at least one weight and fewer than all",
            ),
            Self::NofM { of, .. } if !d_input.is_multiple_of(of) => Err(MethodError::Shape {
                what: "number of a layer's inputs",
                value: d_input,
                why: format!(
                    "must be a multiple of {of}; exclude this layer, or prune unstructured"
                ),
            }),
            _ => Ok(()),
        }
    }
}

/// Removes the smallest weights, |w|, of the layer (Han et al., arXiv 1506.02626).
///
/// # Errors
/// A pattern that cannot be.
pub fn magnitude(weights: &Matrix, pattern: Pattern) -> Result<Matrix, MethodError> {
    pattern.check(weights.d_input())?;
    Ok(removed(weights, pattern, Among::Layer, |_| 1.0))
}

/// Removes, of each output, the weights of the smallest |w| |x| with |x| the length of the input's channel over the calibration
/// (Wanda, arXiv 2306.11695).
///
/// # Errors
/// No calibration, a pattern that cannot be.
pub fn wanda(weights: &Matrix, gram: &Gram, pattern: Pattern) -> Result<Matrix, MethodError> {
    pattern.check(weights.d_input())?;
    gram.check(weights)?;
    Ok(removed(weights, pattern, Among::Output, |input| {
        gram.norm(input)
    }))
}

fn removed(
    weights: &Matrix,
    pattern: Pattern,
    among: Among,
    factor: impl Fn(usize) -> f64,
) -> Matrix {
    let width = weights.d_output();
    let scores: Vec<f64> = weights
        .values()
        .iter()
        .enumerate()
        .map(|(at, weight)| f64::from(weight.abs()) * factor(at / width))
        .collect();
    let mut values = weights.values().to_vec();
    for at in losers(&scores, width, pattern, among) {
        values[at] = 0.0;
    }
    weights.like(values)
}

/// Places of the weights that go, given row-major scores `[inputs, d_output]`. Equal scores go from the first input on.
fn losers(scores: &[f64], d_output: usize, pattern: Pattern, among: Among) -> Vec<usize> {
    let d_input = scores.len() / d_output;
    let lowest = |mut places: Vec<usize>, count: usize| {
        let order =
            |a: &usize, b: &usize| -> Ordering { scores[*a].total_cmp(&scores[*b]).then(a.cmp(b)) };
        if count < places.len() {
            places.select_nth_unstable_by(count, order);
        }
        places.truncate(count);
        places
    };
    let of_output = |output: usize, inputs: std::ops::Range<usize>| -> Vec<usize> {
        inputs.map(|input| input * d_output + output).collect()
    };
    let part = |share: f64, of: usize| (share * of as f64).round() as usize;
    match (pattern, among) {
        (Pattern::Unstructured { share }, Among::Layer) => {
            lowest((0..scores.len()).collect(), part(share, scores.len()))
        }
        (Pattern::Unstructured { share }, Among::Output) => (0..d_output)
            .flat_map(|output| lowest(of_output(output, 0..d_input), part(share, d_input)))
            .collect(),
        (Pattern::NofM { keep, of }, _) => (0..d_output)
            .flat_map(|output| {
                (0..d_input)
                    .step_by(of)
                    .flat_map(move |first| lowest(of_output(output, first..first + of), of - keep))
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests;
