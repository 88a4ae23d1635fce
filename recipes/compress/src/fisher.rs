//! How the loss curves along the vectors of an embedding, and how that is found out.
//!
//! A tied embedding is two layers in one: tokens enter with its rows, and as the head its rows are what the last hidden vectors meet. The
//! inputs of the head say nothing of the first use. The gradient of a row is the sum of what both do to the loss, each by as much as it
//! does. With g_v the gradient of row v for targets drawn from the model itself,
//!
//! F = sum over v of E[g_v g_v^T]
//!
//! is the Fisher information of a row's channels, added up over the tokens: errors e of the rows, all of one distribution, raise the
//! divergence by e^T F e / 2 in the mean. It stands where other layers have X^T X, as in Optimal Brain Surgeon (Hassibi and Stork 1993)
//! with a block that all rows share. An embedding that is no head has one too.

use burn::module::{Module, Param};
use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Device, Int, Tensor, TensorData};
use kiln_backbone::{Embedding, Rows};
use kiln_train::{DeviceBatch, TrainError};
use kiln_zoo::LanguageModel;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::calibrate::Batches;
use crate::layers::EMBEDDING;
use crate::{CompressError, Gram};

/// F of a model's embedding `[vocab, d_model]`, over windows and targets that are drawn with `seed`.
///
/// Targets of different tokens are drawn independently, so that the mean of the square of their sum is the sum of their squares: one
/// backward pass a batch is enough.
///
/// # Cost
/// A forward and a backward pass of the model a batch, and vocab d_model^2 multiplications and additions.
///
/// # Errors
/// Those of the model and of the calibration.
pub(crate) fn of_embedding(
    model: &LanguageModel,
    mut batches: Batches<'_>,
    seed: u64,
    device: &Device,
) -> Result<Gram, CompressError> {
    let training = device.clone().autodiff();
    // A model that validates on a device with autodiff: nothing is dropped, and only the embedding takes a gradient.
    let mut model = model.clone().fork(&training);
    let table = model.embedding().dense();
    let table = Param::from_data(table.into_data(), &training);
    *model.embedding_mut() = Embedding::Rows(Rows::Dense(table.clone()));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let [_, d_model] = table.val().dims();
    let mut gram = Gram::new(d_model);
    while let Some(batch) = batches.next()? {
        let batch = DeviceBatch::new(&batch, &training);
        let scores = batch.logits(&model).map_err(TrainError::from)?; // [counted, vocab]
        let [counted, _] = scores.dims();
        let targets = drawn(scores.clone().inner(), &mut rng);
        let targets = Tensor::from_inner(targets).reshape([counted, 1]);
        let loss = log_softmax(scores, 1).gather(1, targets).sum();
        if let Some(grad) = table.val().grad(&loss.backward()) {
            let sums = [
                grad.clone().transpose().matmul(grad.clone()),
                grad.clone().abs().sum_dim(0),
                grad.abs().max_dim(0),
            ];
            let sums = sums.map(|sum| sum.into_data().iter::<f32>().collect::<Vec<_>>());
            let added = gram.add_sums(sums.each_ref().map(Vec::as_slice), counted as u64);
            added.map_err(|source| CompressError::Calibration {
                layer: EMBEDDING.into(),
                source,
            })?;
        }
    }
    batches.check_variety()?;
    Ok(gram)
}

/// A token for each row of scores `[rows, vocab]`, drawn from its softmax.
fn drawn(scores: Tensor<2>, rng: &mut ChaCha8Rng) -> Tensor<1, Int> {
    let ([rows, vocab], device) = (scores.dims(), scores.device());
    let levels: Vec<f32> = (0..rows).map(|_| rng.random()).collect();
    let levels = Tensor::<2>::from_data(TensorData::new(levels, [rows, 1]), &device);
    let passed = softmax(scores, 1).cumsum(1).lower_equal(levels); // [rows, vocab]
    let tokens = passed.int().sum_dim(1).clamp_max(vocab as i64 - 1);
    tokens.reshape([rows])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens come as often as their probabilities say, and those of none never.
    #[test]
    fn targets_are_drawn_from_the_model() {
        let device = Device::flex();
        let probabilities = [0.5_f32, 0.0, 0.125, 0.375];
        let scores = probabilities.map(|p| p.max(1e-30).ln());
        let rows = 4096;
        let scores = Tensor::<1>::from_floats(scores, &device).reshape([1, 4]);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let found = drawn(scores.repeat_dim(0, rows), &mut rng).into_data();
        let mut counts = [0_usize; 4];
        found
            .iter::<i64>()
            .for_each(|token| counts[token as usize] += 1);
        for (count, p) in counts.into_iter().zip(probabilities) {
            let (p, share) = (f64::from(p), count as f64 / rows as f64);
            let spread = (p * (1.0 - p) / rows as f64).sqrt();
            assert!((share - p).abs() <= 5.0 * spread, "{counts:?}");
        }
    }
}
