//! Held-out loss, weighted by tokens.

use std::sync::Arc;

use burn::tensor::Device;
use kiln_text::{Loader, LoaderConfig, Order, TokenBatch, TokenStore};
use kiln_zoo::LanguageModel;

use crate::TrainError;
use crate::loss::{DeviceBatch, token_nats};
use crate::recipe::Objective;

/// Sum of losses over tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Negative log-likelihood in nats, summed.
    pub nats: f64,
    /// Tokens it is summed over.
    pub tokens: u64,
}

impl Score {
    /// Mean loss in nats a token.
    pub fn loss(&self) -> f64 {
        self.nats / self.tokens as f64
    }

    /// e to the loss.
    pub fn perplexity(&self) -> f64 {
        self.loss().exp()
    }

    /// Bits per byte of source text, at the store's mean of tokens a byte.
    pub fn bits_per_byte(&self, store: &TokenStore) -> f64 {
        store.bits_per_byte(self.loss())
    }

    fn add(&mut self, other: Score) {
        self.nats += other.nats;
        self.tokens += other.tokens;
    }
}

/// Scores a model on batches.
pub struct Evaluator<'a> {
    /// What is predicted.
    pub objective: Objective,
    /// Tokens the model knows.
    pub vocab: usize,
    /// Where to compute.
    pub device: &'a Device,
}

impl Evaluator<'_> {
    /// The loss of a model without autodiff (see `Module::valid`) on one batch. Sums in f64.
    ///
    /// # Errors
    /// Those of the model.
    pub fn batch(&self, model: &LanguageModel, batch: &TokenBatch) -> Result<Score, TrainError> {
        let on_device = DeviceBatch::new(batch, self.device);
        let logits = model.forward(on_device.inputs)?;
        let nats = token_nats(logits, on_device.targets, on_device.mask).into_data();
        Ok(Score {
            nats: nats.iter::<f32>().map(f64::from).sum(),
            tokens: batch.num_tokens() as u64,
        })
    }

    /// Random crops, the same ones for the same `seed`, so that scores over a run differ by the model alone.
    ///
    /// # Errors
    /// A split shorter than a crop; those of the model.
    pub fn crops(
        &self,
        model: &LanguageModel,
        store: &Arc<TokenStore>,
        [batch, seq, batches]: [usize; 3],
        seed: u64,
    ) -> Result<Score, TrainError> {
        let windows = batch.saturating_mul(batches);
        self.sweep(model, store, Order::Crops, [batch, seq, windows], seed)
    }

    /// Every token of a split once, in windows of `seq`; at most `windows` windows if that is not 0.
    ///
    /// Windows do not see each other, so early tokens of a window have little context; the result does not depend on `batch`.
    ///
    /// # Errors
    /// As [`Evaluator::crops`].
    pub fn sequential(
        &self,
        model: &LanguageModel,
        store: &Arc<TokenStore>,
        [batch, seq, windows]: [usize; 3],
    ) -> Result<Score, TrainError> {
        let windows = if windows == 0 { usize::MAX } else { windows };
        self.sweep(model, store, Order::Sequential, [batch, seq, windows], 0)
    }

    fn sweep(
        &self,
        model: &LanguageModel,
        store: &Arc<TokenStore>,
        order: Order,
        [batch, seq, windows]: [usize; 3],
        seed: u64,
    ) -> Result<Score, TrainError> {
        let config = LoaderConfig {
            batch,
            seq,
            order,
            seed,
        };
        let mut loader = Loader::new(Arc::clone(store), config)?;
        let mut score = Score::default();
        for first in (0..windows).step_by(batch) {
            let Some(mut next) = loader.next_batch() else {
                break;
            };
            // Lanes beyond the last window do not count, so that the result does not depend on the batch.
            let counted = (windows - first).min(batch) * seq;
            next.mask[counted..].fill(false);
            let next = self.objective.apply(next, self.vocab, seed, first as u64);
            score.add(self.batch(model, &next)?);
        }
        Ok(score)
    }
}
