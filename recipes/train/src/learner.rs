//! One update: forward, backward, accumulate, check, clip, step.

use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::Device;
use kiln_loader::TokenBatch;
use kiln_zoo::LanguageModel;

use crate::TrainError;
use crate::loss::DeviceBatch;
use crate::optimizer::{global_norm, scale};

/// A model with its optimizer.
pub struct Learner {
    /// The model, on a device with autodiff.
    pub model: LanguageModel,
    /// Its optimizer.
    pub optimizer: ModuleOptimizer,
}

/// What an update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Mean loss of the batch before the update, in nats a token.
    pub loss: f64,
    /// Global norm of the gradient before clipping; NaN if the loss was not finite already.
    pub grad_norm: f64,
    /// Target tokens of the batch.
    pub tokens: u64,
    /// What was not finite, if the update was left out for it.
    pub skipped: Option<&'static str>,
}

impl Learner {
    /// Updates the weights with the mean loss over all tokens of all `batches`, so that four batches of 8 sequences give
    /// the gradient of one of 32. An update whose loss or gradient is not finite is left out.
    ///
    /// # Errors
    /// Those of the model.
    pub fn update(
        self,
        batches: &[TokenBatch],
        learning_rate: f64,
        clip_norm: f64,
        device: &Device,
    ) -> Result<(Self, Update), TrainError> {
        let tokens: usize = batches.iter().map(TokenBatch::num_tokens).sum();
        let mut accumulator = GradientsAccumulator::new();
        let mut loss = 0.0;
        for batch in batches {
            let nats = DeviceBatch::new(batch, device).nats(&self.model)?.sum();
            let share = nats.div_scalar(tokens as f64);
            loss += f64::from(share.clone().into_scalar::<f32>());
            let grads = GradientsParams::from_grads(share.backward(), &self.model);
            accumulator.accumulate(&self.model, grads);
        }
        let mut update = Update {
            loss,
            grad_norm: f64::NAN,
            tokens: tokens as u64,
            skipped: None,
        };
        if !loss.is_finite() {
            update.skipped = Some("the loss");
            return Ok((self, update));
        }
        let mut grads = accumulator.grads();
        update.grad_norm = global_norm(&self.model, &grads);
        if !update.grad_norm.is_finite() {
            update.skipped = Some("the gradient norm");
            return Ok((self, update));
        }
        if clip_norm > 0.0 && update.grad_norm > clip_norm {
            scale(&self.model, &mut grads, clip_norm / update.grad_norm);
        }
        let Self {
            model,
            mut optimizer,
        } = self;
        let model = optimizer.step(learning_rate, model, grads);
        Ok((Self { model, optimizer }, update))
    }
}
