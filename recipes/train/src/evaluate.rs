//! Held-out loss and accuracy, weighted by tokens.

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor};
use kiln_fused::cross_entropy;
use kiln_loader::{Loader, LoaderConfig, Order, TokenBatch, Windows};
use kiln_text::TokenStore;
use kiln_zoo::LanguageModel;

use crate::TrainError;
use crate::loss::DeviceBatch;
use crate::recipe::Objective;

/// Sums over the targets of some windows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Negative log-likelihood in nats, summed.
    pub nats: f64,
    /// Targets it is summed over.
    pub tokens: u64,
    /// Targets that the model scored highest of all tokens.
    pub correct: u64,
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

    /// Share of targets that the model scored highest.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.tokens as f64
    }

    /// Bits per byte of source text, at the store's mean of tokens a byte.
    pub fn bits_per_byte(&self, store: &TokenStore) -> f64 {
        store.bits_per_byte(self.loss())
    }

    fn add(&mut self, other: &Self) {
        self.nats += other.nats;
        self.tokens += other.tokens;
        self.correct += other.correct;
    }

    /// The score of all windows together.
    pub fn total(windows: &[Self]) -> Self {
        let mut total = Self::default();
        windows.iter().for_each(|window| total.add(window));
        total
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
    /// Scores of a model without autodiff (see `Module::valid`) on the lanes of one batch. Sums in f64.
    ///
    /// # Errors
    /// Those of the model.
    pub fn lanes(
        &self,
        model: &LanguageModel,
        batch: &TokenBatch,
    ) -> Result<Vec<Score>, TrainError> {
        if batch.num_tokens() == 0 {
            return Ok(vec![Score::default(); batch.batch]);
        }
        let on_device = DeviceBatch::new(batch, self.device);
        let logits = on_device.logits(model)?;
        Ok(Self::lanes_of(batch, on_device.targets, logits))
    }

    /// Scores of the lanes of a batch from the logits of the targets that count, `[counted, vocab]`. Sums in f64.
    pub fn lanes_of(batch: &TokenBatch, targets: Tensor<1, Int>, logits: Tensor<2>) -> Vec<Score> {
        let mut lanes = vec![Score::default(); batch.batch];
        let best = logits.clone().argmax(1).squeeze_dim(1); // [counted]
        let is_best = best.equal(targets.clone()).into_data();
        let nats = cross_entropy(logits, targets).into_data();
        let counted = (0..batch.mask.len()).filter(|at| batch.mask[*at]);
        for ((at, nats), is_best) in counted.zip(nats.iter::<f32>()).zip(is_best.iter::<bool>()) {
            lanes[at / batch.seq].add(&Score {
                nats: nats.into(),
                tokens: 1,
                correct: is_best.into(),
            });
        }
        lanes
    }

    /// Scores of random windows, the same ones for the same `seed`, so that scores over a run differ by the model alone.
    ///
    /// # Errors
    /// Those of the model.
    pub fn crops(
        &self,
        model: &LanguageModel,
        windows: &Arc<dyn Windows>,
        [batch, batches]: [usize; 2],
        seed: u64,
    ) -> Result<Vec<Score>, TrainError> {
        let most = batch.saturating_mul(batches);
        self.sweep(model, windows, Order::Crops, [batch, most], seed)
    }

    /// Scores of windows that have every target of a split once; of the first `most` if that is not 0.
    ///
    /// Windows do not see each other, so early tokens of a window have little context; the result does not depend on `batch`.
    ///
    /// # Errors
    /// As [`Evaluator::crops`].
    pub fn sequential(
        &self,
        model: &LanguageModel,
        windows: &Arc<dyn Windows>,
        [batch, most]: [usize; 2],
    ) -> Result<Vec<Score>, TrainError> {
        let most = if most == 0 { usize::MAX } else { most };
        self.sweep(model, windows, Order::Sequential, [batch, most], 0)
    }

    /// Hands on the batches of [`Evaluator::sequential`], with the objective applied and how many of their lanes count.
    ///
    /// # Errors
    /// Batches that cannot be made, and what `visit` says.
    pub fn visit(
        &self,
        windows: &Arc<dyn Windows>,
        [batch, most]: [usize; 2],
        visit: &mut dyn FnMut(&TokenBatch, usize) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let most = if most == 0 { usize::MAX } else { most };
        self.walk(windows, Order::Sequential, [batch, most], 0, visit)
    }

    fn sweep(
        &self,
        model: &LanguageModel,
        windows: &Arc<dyn Windows>,
        order: Order,
        sizes: [usize; 2],
        seed: u64,
    ) -> Result<Vec<Score>, TrainError> {
        let mut scores = Vec::new();
        self.walk(windows, order, sizes, seed, &mut |batch, lanes| {
            let lanes = &self.lanes(model, batch)?[..lanes];
            // Neither do the empty ones at the end of a sweep count.
            scores.extend(lanes.iter().filter(|lane| lane.tokens > 0));
            Ok(())
        })?;
        Ok(scores)
    }

    fn walk(
        &self,
        windows: &Arc<dyn Windows>,
        order: Order,
        [batch, most]: [usize; 2],
        seed: u64,
        visit: &mut dyn FnMut(&TokenBatch, usize) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let config = LoaderConfig { batch, order, seed };
        let mut loader = Loader::new(Arc::clone(windows), config)?;
        let mut seen = 0;
        while seen < most {
            let Some(mut next) = loader.next_batch() else {
                break;
            };
            // Lanes beyond the last window do not count, so that the result does not depend on the batch.
            let lanes = (most - seen).min(batch);
            next.mask[lanes * next.seq..].fill(false);
            let filled = |lane: &usize| next.mask[lane * next.seq..][..next.seq].contains(&true);
            let filled = (0..lanes).filter(filled).count();
            let next = self.objective.apply(next, self.vocab, seed, seen as u64);
            visit(&next, lanes)?;
            seen += filled;
        }
        Ok(())
    }
}
