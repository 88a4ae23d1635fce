//! Weights that go before the first update, by what the loss moves by without them: `[prune]` with `method = "snip"`.
//!
//! ```text
//! |g w|        g the gradient of the mean loss on some batches of the training data (Lee et al., arXiv 1810.02340)
//! ```

use burn::optim::{GradientsAccumulator, GradientsParams};
use kiln_fused::LossOptions;
use kiln_loader::{Loader, LoaderConfig, TokenBatch};

use crate::TrainError;
use crate::batch_loss::Loss;
use crate::learner::Learner;
use crate::loss::DeviceBatch;
use crate::objective::mix;
use crate::setup::{Setup, stream};

impl Setup {
    /// The learner without the weights that `[prune]` takes before the first update, if it takes some.
    ///
    /// # Errors
    /// Those of the model; a gradient that is not finite, and a layer that would be left without weights.
    pub(crate) fn thinned(&self, mut learner: Learner) -> Result<Learner, TrainError> {
        let measured = self.recipe().prune.as_ref();
        let measured = measured.and_then(|prune| Some((prune.measured_on()?, prune.sparsity)));
        let Some((count, share)) = measured else {
            return Ok(learner);
        };
        let batches = self.measuring(count)?;
        let tokens: usize = batches.iter().map(TokenBatch::num_tokens).sum();
        let training = self.device.clone().autodiff();
        let options = LossOptions {
            terms: learner.terms,
            // Products are compared with each other, so a scale that keeps small ones from vanishing is welcome.
            divisor: tokens.max(1) as f64 / learner.scale.map_or(1.0, |scale| scale.factor()),
            ..LossOptions::default()
        };
        self.device
            .seed(mix(&[self.recipe().seed, stream::MEASURE]));
        let seen = learner.seen();
        let mut accumulator = GradientsAccumulator::new();
        for batch in &batches {
            let on_device = DeviceBatch::new(batch, &training);
            let loss = Loss::CrossEntropy.of(&seen, batch, on_device, options, false)?;
            let grads = GradientsParams::from_grads(loss.minimised.backward(), &seen);
            accumulator.accumulate(&seen, grads);
        }
        let grads = accumulator.grads();
        learner
            .constraint
            .prune_by_effect(&seen, &grads, share, &self.device)?;
        learner.model = learner.constraint.keep(learner.model);
        Ok(learner)
    }

    /// Batches of the training data that are not those of the run's first updates.
    fn measuring(&self, count: usize) -> Result<Vec<TokenBatch>, TrainError> {
        let recipe = self.recipe();
        let config = LoaderConfig {
            batch: recipe.train.batch,
            order: recipe.train.order,
            seed: mix(&[recipe.seed, stream::MEASURE]),
        };
        let mut loader = Loader::new(self.data.train.clone(), config)?;
        let vocab = self.resolved.model.backbone.vocab_size;
        let masked = |(number, batch): (usize, TokenBatch)| {
            let seed = mix(&[recipe.seed, stream::MEASURE, number as u64]);
            recipe.objective.apply(batch, vocab, seed, 0)
        };
        let batches = std::iter::from_fn(|| loader.next_batch());
        Ok(batches.take(count).enumerate().map(masked).collect())
    }
}
