//! One update: forward, backward, accumulate, check, clip, step.

use std::time::Duration;

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};
use kiln_fused::{GradientScale, clip_factor, cross_entropy};
use kiln_loader::TokenBatch;
use kiln_zoo::LanguageModel;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::constraint::Constraint;
use crate::loss::DeviceBatch;
use crate::optimizer::{TrainOptimizer, global_norm, scale, square_sum};
use crate::scale::LossScale;
use crate::tutor::Tutor;

/// A model with its optimizer.
pub struct Learner {
    /// The model, on a device with autodiff.
    pub model: LanguageModel,
    /// Its optimizer.
    pub optimizer: TrainOptimizer,
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
    /// Its numbers, which the host may not know yet: cross-entropy in nats and, with a teacher, the divergence in nats and the value
    /// of what is minimised. Without one, the first is all of it.
    sums: Tensor<1>,
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
            return Ok(BatchLoss {
                sums: nats.clone().inner(),
                minimised: nats,
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
        let mut sums = vec![nats.inner(), divergence.inner()];
        let minimised = match features {
            None => answered,
            Some((features, 1.0)) => features.mul_scalar(batch.num_tokens() as f64),
            Some((features, share)) => {
                let features = features.mul_scalar(share * batch.num_tokens() as f64);
                features + answered.mul_scalar(1.0 - share)
            }
        };
        sums.push(minimised.clone().inner());
        Ok(BatchLoss {
            minimised,
            sums: Tensor::cat(sums, 0),
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
    pub fn new(model: LanguageModel, optimizer: TrainOptimizer) -> Self {
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
    /// A device that runs behind the host is given the whole update before a number is read back, and leaves it out by itself.
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
        self,
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
        let seen = self.seen();
        let mut sums = Vec::new();
        for batch in batches {
            let on_device = DeviceBatch::new(batch, device);
            watch(Phase::Data);
            let batch_loss = loss.of(&seen, batch, on_device)?;
            watch(Phase::Forward);
            sums.push(batch_loss.sums);
            let share = batch_loss.minimised.div_scalar(tokens as f64 / loss_scale);
            let grads = GradientsParams::from_grads(share.backward(), &seen);
            accumulator.accumulate(&seen, grads);
            watch(Phase::Backward);
        }
        let measured = Measured {
            sums: Tensor::cat(sums, 0),
            tokens,
            is_taught: matches!(loss, Loss::Distill { .. }),
            teacher_time: loss.teacher_time(),
        };
        // Nothing else may hold the weights, which are updated in place.
        drop(seen);
        let step = Step {
            learning_rate,
            clip_norm,
            loss_scale,
        };
        let mut grads = accumulator.grads();
        self.constraint.mask(&mut grads);
        self.constraint.learn(&self.model, &mut grads);
        let done = match self.optimizer.scale_on(device) {
            Some(scale) => self.step_ahead(measured, step, grads, &scale),
            None => self.step_when_known(measured, step, grads),
        };
        watch(Phase::Optimizer);
        Ok(done)
    }

    /// The step of a device that runs behind: norm, clipping and the decision to leave the step out stay on it.
    fn step_ahead(
        mut self,
        measured: Measured,
        step: Step,
        grads: GradientsParams,
        scale: &GradientScale,
    ) -> (Self, Update) {
        let loss = measured.sums.clone().sum();
        let Some(squares) = square_sum(&self.model, &grads) else {
            return self.step_when_known(measured, step, grads);
        };
        let [norm, factor] = clip_factor(squares, loss, step.clip_norm, step.loss_scale);
        scale.set(Some(factor.clone()));
        self = self.moved(step, grads);
        scale.set(None);
        let told = Tensor::cat(vec![measured.sums.clone(), norm, factor], 0);
        let told: Vec<f32> = told.into_data().iter::<f32>().collect();
        let (sums, norm) = told.split_at(told.len() - 2);
        let mut update = measured.update(sums);
        let lost = !norm[1].is_finite();
        scale.note_lost(lost);
        if update.skipped.is_none() {
            update.grad_norm = f64::from(norm[0]);
            self.note(lost, &mut update, step);
        }
        (self, update)
    }

    /// The step of a device that is asked for loss and norm before it.
    fn step_when_known(
        mut self,
        measured: Measured,
        step: Step,
        mut grads: GradientsParams,
    ) -> (Self, Update) {
        let sums: Vec<f32> = measured.sums.clone().into_data().iter::<f32>().collect();
        let mut update = measured.update(&sums);
        if update.skipped.is_some() {
            return (self, update);
        }
        update.grad_norm = global_norm(&self.model, &grads) / step.loss_scale;
        let lost = !update.grad_norm.is_finite();
        self.note(lost, &mut update, step);
        if lost {
            return (self, update);
        }
        let clip = match step.clip_norm > 0.0 && update.grad_norm > step.clip_norm {
            true => step.clip_norm / update.grad_norm,
            false => 1.0,
        };
        let factor = clip / step.loss_scale;
        if factor != 1.0 {
            scale(&self.model, &mut grads, factor);
        }
        (self.moved(step, grads), update)
    }

    /// The learner with its weights moved, and taken back to what they keep to.
    fn moved(mut self, step: Step, grads: GradientsParams) -> Self {
        let model = self.optimizer.step(step.learning_rate, self.model, grads);
        self.model = self.constraint.keep(model);
        self
    }

    /// Tells the loss scale, and the update if it is left out, whether the gradient was finite.
    fn note(&mut self, lost: bool, update: &mut Update, step: Step) {
        if lost {
            update.skipped = Some("the gradient norm");
            let lowered = self.scale.as_mut().is_some_and(LossScale::overflowed);
            update.overflowed_at = lowered.then_some(step.loss_scale);
        } else if let Some(scale) = &mut self.scale {
            scale.kept();
        }
    }
}

/// How far a step goes.
#[derive(Clone, Copy)]
struct Step {
    learning_rate: f64,
    clip_norm: f64,
    /// What the loss was multiplied by.
    loss_scale: f64,
}

/// What forward passes leave beside gradients.
struct Measured {
    /// [`BatchLoss::sums`] of all batches.
    sums: Tensor<1>,
    tokens: usize,
    is_taught: bool,
    teacher_time: Duration,
}

impl Measured {
    /// An update before its step, from the values of the sums; left out, if they are not finite.
    fn update(&self, sums: &[f32]) -> Update {
        let (mut nats, mut divergence, mut objective) = (0.0, 0.0, 0.0);
        for batch in sums.chunks_exact(if self.is_taught { 3 } else { 1 }) {
            nats += f64::from(batch[0]);
            divergence += batch.get(1).map_or(0.0, |&sum| f64::from(sum));
            objective += f64::from(batch.get(2).copied().unwrap_or(batch[0]));
        }
        let tokens = self.tokens as f64;
        let is_finite = (nats / tokens + divergence + objective).is_finite();
        Update {
            loss: nats / tokens,
            divergence: self.is_taught.then(|| divergence / tokens),
            objective: objective / tokens,
            teacher_time: self.teacher_time,
            grad_norm: f64::NAN,
            tokens: self.tokens as u64,
            skipped: (!is_finite).then_some("the loss"),
            overflowed_at: None,
        }
    }
}
