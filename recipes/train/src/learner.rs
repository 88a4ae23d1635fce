//! One update: forward, backward, accumulate, check, clip, step.

use std::time::Duration;

use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use kiln_fused::cross_entropy;
use kiln_loader::TokenBatch;
use kiln_zoo::LanguageModel;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::constraint::Constraint;
use crate::loss::DeviceBatch;
use crate::optimizer::{global_norm, scale};
use crate::scale::LossScale;
use crate::tutor::Tutor;

/// A model with its optimizer.
pub struct Learner {
    /// The model, on a device with autodiff.
    pub model: LanguageModel,
    /// Its optimizer.
    pub optimizer: ModuleOptimizer,
    /// What its weights keep to.
    pub constraint: Constraint,
    /// What the loss is multiplied by for the backward pass; none does not scale it.
    pub scale: Option<LossScale>,
}

/// What an update minimises.
pub enum Loss<'a> {
    /// Cross-entropy.
    CrossEntropy,
    /// Cross-entropy and the divergence from a teacher.
    Distill {
        /// The teacher.
        tutor: &'a mut Tutor,
        /// The divergence's share of the loss, in 0..=1.
        weight: f64,
    },
}

/// A part of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// A batch becomes tensors.
    Data,
    /// The model and the loss.
    Forward,
    /// Gradients.
    Backward,
    /// Norm, clipping and the optimizer.
    Optimizer,
}

/// The loss of a batch, summed over the targets that count.
struct BatchLoss {
    /// What is minimised.
    minimised: Tensor<1>,
    /// Cross-entropy in nats.
    nats: f64,
    /// Divergence from the teacher in nats; 0 without one.
    divergence: f64,
    /// Value of what is minimised.
    objective: f64,
}

impl Loss<'_> {
    fn of(
        &mut self,
        model: &LanguageModel,
        batch: &TokenBatch,
        on_device: DeviceBatch,
    ) -> Result<BatchLoss, TrainError> {
        let Self::Distill { tutor, weight } = self else {
            let nats = on_device.nats(model)?.sum();
            let value = f64::from(nats.clone().into_scalar::<f32>());
            return Ok(BatchLoss {
                minimised: nats,
                nats: value,
                divergence: 0.0,
                objective: value,
            });
        };
        let answers = tutor.answers(batch, &on_device)?;
        let (logits, features) = match &answers.trace {
            None => (on_device.logits(model)?, None),
            Some(teacher) => {
                let mut own = model.trace(on_device.inputs.clone())?;
                let features = tutor.features(model, &own, teacher);
                // A trace has one entry more than there are layers.
                let hidden = own.swap_remove(own.len() - 1);
                (on_device.logits_of(model, hidden), features)
            }
        };
        let nats = cross_entropy(logits.clone(), on_device.targets).sum();
        let divergence = tutor.divergence(answers.target, logits).sum();
        let answered =
            nats.clone().mul_scalar(1.0 - *weight) + divergence.clone().mul_scalar(*weight);
        let mut sums = vec![nats.detach(), divergence.detach()];
        let minimised = match features {
            None => answered,
            Some((features, 1.0)) => features.mul_scalar(batch.num_tokens() as f64),
            Some((features, share)) => {
                let features = features.mul_scalar(share * batch.num_tokens() as f64);
                features + answered.mul_scalar(1.0 - share)
            }
        };
        sums.push(minimised.clone().detach());
        let sums: Vec<f32> = Tensor::cat(sums, 0).into_data().iter::<f32>().collect();
        Ok(BatchLoss {
            minimised,
            nats: sums[0].into(),
            divergence: sums[1].into(),
            objective: sums[2].into(),
        })
    }

    /// Time that the teacher took since it was last asked.
    fn teacher_time(&mut self) -> Duration {
        match self {
            Self::CrossEntropy => Duration::ZERO,
            Self::Distill { tutor, .. } => tutor.take_time(),
        }
    }
}

/// What an update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Mean cross-entropy of the batch before the update, in nats a token.
    pub loss: f64,
    /// Mean divergence from the teacher, in nats a token as it goes into the loss; none without a teacher.
    pub divergence: Option<f64>,
    /// Mean of what the update makes smaller: cross-entropy, or the whole of what a teacher adds to it.
    pub objective: f64,
    /// Part of the update's time that the teacher took.
    pub teacher_time: Duration,
    /// Global norm of the gradient before clipping; NaN if the loss was not finite already.
    pub grad_norm: f64,
    /// Target tokens of the batch.
    pub tokens: u64,
    /// What was not finite, if the update was left out for it.
    pub skipped: Option<&'static str>,
    /// The loss scale at which the gradient was not finite, if the update was left out for that and the scale has been lowered.
    pub overflowed_at: Option<f64>,
}

impl Learner {
    /// A learner whose weights move freely.
    pub fn new(model: LanguageModel, optimizer: ModuleOptimizer) -> Self {
        Self {
            model,
            optimizer,
            constraint: Constraint::default(),
            scale: None,
        }
    }

    /// The model as it computes, on a device with autodiff.
    pub fn seen(&self) -> LanguageModel {
        self.constraint.seen(&self.model)
    }

    /// Updates the weights with the mean loss over all tokens of all `batches`, so that four batches of 8 sequences give
    /// the gradient of one of 32. An update whose loss or gradient is not finite is left out; in the latter case the loss scale
    /// is lowered.
    ///
    /// # Errors
    /// Those of the model, and of a teacher's answers.
    pub fn update(
        self,
        batches: &[TokenBatch],
        loss: &mut Loss<'_>,
        learning_rate: f64,
        clip_norm: f64,
        device: &Device,
    ) -> Result<(Self, Update), TrainError> {
        self.update_watched(batches, loss, learning_rate, clip_norm, device, &mut |_| ())
    }

    /// [`Learner::update`], where `watch` is told of every phase when all its work is given to the device: of the first three for
    /// each batch.
    ///
    /// # Errors
    /// As [`Learner::update`].
    pub fn update_watched(
        mut self,
        batches: &[TokenBatch],
        loss: &mut Loss<'_>,
        learning_rate: f64,
        clip_norm: f64,
        device: &Device,
        watch: &mut dyn FnMut(Phase),
    ) -> Result<(Self, Update), TrainError> {
        let tokens: usize = batches.iter().map(TokenBatch::num_tokens).sum();
        let loss_scale = self.scale.map_or(1.0, |scale| scale.factor());
        let mut accumulator = GradientsAccumulator::new();
        let (mut nats, mut divergence, mut objective) = (0.0, 0.0, 0.0);
        let seen = self.seen();
        for batch in batches {
            let on_device = DeviceBatch::new(batch, device);
            watch(Phase::Data);
            let sums = loss.of(&seen, batch, on_device)?;
            watch(Phase::Forward);
            nats += sums.nats;
            divergence += sums.divergence;
            objective += sums.objective;
            let share = sums.minimised.div_scalar(tokens as f64 / loss_scale);
            let grads = GradientsParams::from_grads(share.backward(), &seen);
            accumulator.accumulate(&seen, grads);
            watch(Phase::Backward);
        }
        let is_taught = matches!(loss, Loss::Distill { .. });
        let mut update = Update {
            loss: nats / tokens as f64,
            divergence: is_taught.then(|| divergence / tokens as f64),
            objective: objective / tokens as f64,
            teacher_time: loss.teacher_time(),
            grad_norm: f64::NAN,
            tokens: tokens as u64,
            skipped: None,
            overflowed_at: None,
        };
        if !(update.loss + divergence + objective).is_finite() {
            update.skipped = Some("the loss");
            return Ok((self, update));
        }
        let mut grads = accumulator.grads();
        self.constraint.mask(&mut grads);
        update.grad_norm = global_norm(&self.model, &grads) / loss_scale;
        if !update.grad_norm.is_finite() {
            update.skipped = Some("the gradient norm");
            let lowered = self.scale.as_mut().is_some_and(LossScale::overflowed);
            update.overflowed_at = lowered.then_some(loss_scale);
            return Ok((self, update));
        }
        let clip = match clip_norm > 0.0 && update.grad_norm > clip_norm {
            true => clip_norm / update.grad_norm,
            false => 1.0,
        };
        let factor = clip / loss_scale;
        if factor != 1.0 {
            scale(&self.model, &mut grads, factor);
        }
        if let Some(scale) = &mut self.scale {
            scale.kept();
        }
        let model = self.optimizer.step(learning_rate, self.model, grads);
        self.model = self.constraint.keep(model);
        watch(Phase::Optimizer);
        Ok((self, update))
    }
}
