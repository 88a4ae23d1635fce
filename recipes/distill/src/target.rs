//! What a teacher answers, in the form that losses take.
//!
//! Either a probability for each token of the vocabulary, or for the k likeliest ones and one more for all others together.
//! The others are kept as one class, and not left out with the rest scaled up: their probability is part of what the teacher
//! knows, and without it a student learns to be surer than the teacher is (the bias is shown in arXiv 2503.16870). By merging
//! classes a divergence only becomes smaller, and at k = vocab nothing is merged.

use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor};

/// Logarithm of a probability that is zero: its exponential is zero in every float type, and no product with it is NaN.
const LOG_ZERO: f64 = -1e4;

/// A teacher's distribution at every row.
#[derive(Clone, Debug)]
pub struct Target {
    /// Logarithms of probabilities `[rows, classes]`; with kept tokens, theirs and then that of all others.
    pub log_probs: Tensor<2>,
    /// The kept tokens `[rows, k]`, likeliest first; none if every token has a class.
    pub kept: Option<Tensor<2, Int>>,
}

impl Target {
    /// The distribution of `scores` at a temperature.
    ///
    /// # Shapes
    /// - `scores`: `[rows, vocab]`, without autodiff
    /// - `top_k`: tokens to keep, up to vocab; 0 keeps all in their own order
    pub fn new(scores: Tensor<2>, temperature: f64, top_k: usize) -> Self {
        let log_probs = log_softmax(scores.cast(DType::F32).div_scalar(temperature), 1);
        if top_k == 0 {
            return Self {
                log_probs,
                kept: None,
            };
        }
        let (likeliest, kept) = log_probs.clone().topk_with_indices(top_k, 1);
        let others = others(log_probs, &kept);
        Self {
            log_probs: Tensor::cat(vec![likeliest, others], 1),
            kept: Some(kept),
        }
    }

    /// Logarithms of a student's probabilities over the same classes.
    ///
    /// # Shapes
    /// - `scores`: `[rows, vocab]`
    /// - returns `[rows, classes]`
    pub fn student(&self, scores: Tensor<2>, temperature: f64) -> Tensor<2> {
        let log_probs = log_softmax(scores.cast(DType::F32).div_scalar(temperature), 1);
        match &self.kept {
            None => log_probs,
            Some(kept) => {
                let own = log_probs.clone().gather(1, kept.clone());
                Tensor::cat(vec![own, others(log_probs, kept)], 1)
            }
        }
    }
}

/// Logarithm of the probability of all tokens but the kept ones, `[rows, 1]`. Summed over them, and not taken as what is left to
/// one: that difference has no digits where little is left, and no gradient where nothing is.
fn others(log_probs: Tensor<2>, kept: &Tensor<2, Int>) -> Tensor<2> {
    let device = log_probs.device().inner();
    let hide = Tensor::full(kept.dims(), LOG_ZERO, &device);
    let hidden = Tensor::zeros(log_probs.dims(), &device).scatter(
        1,
        kept.clone(),
        hide,
        IndexingUpdateOp::Add,
    );
    let rest = log_probs + hidden;
    let largest = rest.clone().detach().max_dim(1);
    (rest - largest.clone()).exp().sum_dim(1).log() + largest
}
