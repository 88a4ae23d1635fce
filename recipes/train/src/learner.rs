//! One update: forward, backward, accumulate, check, clip, step.

use std::time::Duration;

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};
use kiln_fused::{GradientScale, clip_factor, cross_entropy};
use kiln_loader::TokenBatch;
use kiln_zoo::LanguageModel;

use crate::TrainError;
use crate::loss::DeviceBatch;
use crate::optimizer::{TrainOptimizer, global_norm, scale, square_sum};
use crate::tutor::Tutor;

/// A model with its optimizer.
pub struct Learner {
    /// The model, on a device with autodiff.
    pub model: LanguageModel,
    /// Its optimizer.
    pub optimizer: TrainOptimizer,
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
        device: &Device,
    ) -> Result<BatchLoss, TrainError> {
        let on_device = DeviceBatch::new(batch, device);
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
}

impl Learner {
    /// Updates the weights with the mean loss over all tokens of all `batches`, so that four batches of 8 sequences give
    /// the gradient of one of 32. An update whose loss or gradient is not finite is left out.
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
        let tokens: usize = batches.iter().map(TokenBatch::num_tokens).sum();
        let mut accumulator = GradientsAccumulator::new();
        let mut sums = Vec::new();
        for batch in batches {
            let batch_loss = loss.of(&self.model, batch, device)?;
            sums.push(batch_loss.sums);
            let share = batch_loss.minimised.div_scalar(tokens as f64);
            let grads = GradientsParams::from_grads(share.backward(), &self.model);
            accumulator.accumulate(&self.model, grads);
        }
        let measured = Measured {
            sums: Tensor::cat(sums, 0),
            tokens,
            is_taught: matches!(loss, Loss::Distill { .. }),
            teacher_time: loss.teacher_time(),
        };
        let step = Step {
            learning_rate,
            clip_norm,
        };
        let grads = accumulator.grads();
        match self.optimizer.scale_on(device) {
            Some(scale) => Ok(self.step_ahead(measured, step, grads, &scale)),
            None => Ok(self.step_when_known(measured, step, grads)),
        }
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
        let [norm, factor] = clip_factor(squares, loss, step.clip_norm, 1.0);
        scale.set(Some(factor.clone()));
        self.model = self.optimizer.step(step.learning_rate, self.model, grads);
        scale.set(None);
        let told = Tensor::cat(vec![measured.sums.clone(), norm, factor], 0);
        let told: Vec<f32> = told.into_data().iter::<f32>().collect();
        let (sums, norm) = told.split_at(told.len() - 2);
        let mut update = measured.update(sums);
        let lost = !norm[1].is_finite();
        scale.note_lost(lost);
        if update.skipped.is_none() {
            update.grad_norm = f64::from(norm[0]);
            update.skipped = lost.then_some("the gradient norm");
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
        update.grad_norm = global_norm(&self.model, &grads);
        if !update.grad_norm.is_finite() {
            update.skipped = Some("the gradient norm");
            return (self, update);
        }
        if step.clip_norm > 0.0 && update.grad_norm > step.clip_norm {
            let factor = step.clip_norm / update.grad_norm;
            scale(&self.model, &mut grads, factor);
        }
        self.model = self.optimizer.step(step.learning_rate, self.model, grads);
        (self, update)
    }
}

/// How far a step goes.
#[derive(Clone, Copy)]
struct Step {
    learning_rate: f64,
    clip_norm: f64,
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
        }
    }
}
