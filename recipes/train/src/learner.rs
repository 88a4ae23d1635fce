//! One update: forward, backward, accumulate, check, clip, step.

use std::mem;
use std::time::Duration;

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Gradients, Tensor};
use kiln_backbone::with_step_seed;
use kiln_fused::{
    GradientScale, LossOptions, LossTerms, clip_factor, on_device_thread, runs_behind,
};
use kiln_loader::TokenBatch;
use kiln_zoo::LanguageModel;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::batch_loss::{BatchLoss, Loss};
use crate::constraint::Constraint;
use crate::loss::DeviceBatch;
use crate::optimizer::{TrainOptimizer, global_norm, scale, square_sum};
use crate::recompute::Stream;
use crate::recorded::{Found, Given, Inputs, RecordedPasses, seed_on};
use crate::replicas::Share;
use crate::scale::LossScale;

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
    /// What is minimised beside cross-entropy.
    pub terms: LossTerms,
    /// Whether backward computes the blocks again instead of keeping their activations; not with a teacher, whose losses look at the
    /// whole model at once, nor with dropout.
    pub recompute: bool,
    /// What dropout's masks of the next update follow from on a device that runs behind; none draws them from the generator of the
    /// device, and then nothing is recorded.
    pub seed: Option<u64>,
    /// The passes of an update as one graph of the device, where they are recorded.
    pub recorded: RecordedPasses,
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

/// What an update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Mean cross-entropy of the batch before the update, in nats a token.
    pub loss: f64,
    /// Mean divergence from the teacher, in nats a token as it goes into the loss; none without a teacher.
    pub divergence: Option<f64>,
    /// Mean of what the update makes smaller: cross-entropy, with all that [`LossTerms`] and a teacher add to it.
    pub objective: f64,
    /// Part of the update's time that the teacher took; none without a teacher, and where its pass is one graph with the student's.
    pub teacher_time: Option<Duration>,
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
            terms: LossTerms::default(),
            recompute: false,
            seed: None,
            recorded: RecordedPasses::default(),
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
        let rates = Rates {
            learning_rate,
            clip_norm,
            pruned: None,
        };
        self.update_shared(batches, loss, rates, device, None)
    }

    /// [`Learner::update`] with a share of the batches of several replicas, all of which make the update of the whole; with none,
    /// the batches are the whole.
    ///
    /// # Errors
    /// As [`Learner::update`], and the failure of another replica.
    pub(crate) fn update_shared(
        self,
        batches: &[TokenBatch],
        loss: &mut Loss<'_>,
        rates: Rates,
        device: &Device,
        share: Option<Share<'_>>,
    ) -> Result<(Self, Update), TrainError> {
        // Who waits for another device, as replicas do for each other, is not held up on the thread of one.
        if share.is_none() && !loss.is_elsewhere() {
            return on_device_thread(device, move || {
                self.update_all(batches, loss, rates, device, None, None)
            });
        }
        self.update_all(batches, loss, rates, device, share, None)
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
        let rates = Rates {
            learning_rate,
            clip_norm,
            pruned: None,
        };
        self.update_all(batches, loss, rates, device, None, Some(watch))
    }

    fn update_all(
        mut self,
        batches: &[TokenBatch],
        loss: &mut Loss<'_>,
        rates: Rates,
        device: &Device,
        share: Option<Share<'_>>,
        watch: Option<&mut dyn FnMut(Phase)>,
    ) -> Result<(Self, Update), TrainError> {
        let counted = || batches.iter().map(TokenBatch::num_tokens).sum();
        let tokens = share.map_or_else(counted, |share| share.tokens);
        let loss_scale = self.scale.map_or(1.0, |scale| scale.factor());
        let options = LossOptions {
            terms: self.terms,
            // Without targets there is no mean, which is found out below.
            divisor: tokens.max(1) as f64 / loss_scale,
            ..LossOptions::default()
        };
        let mut recorded = mem::take(&mut self.recorded);
        let given = Given {
            batches,
            seed: self.seed.filter(|_| runs_behind(device)),
            options,
            taught: loss.taught(),
        };
        // What is watched is given phase by phase, and weights that are taken back to zero lie elsewhere after every step.
        let may_record = watch.is_none()
            && share.is_none()
            && loss.may_record()
            && self.constraint.is_in_place();
        let repeated = match may_record {
            true => recorded.find(&self.model, given, device, &mut |inputs| {
                self.passes(given, Some(inputs), loss, device, &mut |_| ())
            })?,
            false => None,
        };
        self.recorded = recorded;
        let mut unwatched = |_| ();
        let watch = watch.unwrap_or(&mut unwatched);
        let (mut grads, mut sums) = match repeated {
            Some(found) => found,
            None => self.passes(given, None, loss, device, watch)?,
        };
        if let Some(share) = share {
            (grads, sums) = share.add_up(&self.seen(), grads, sums)?;
        }
        let measured = Measured {
            sums,
            tokens,
            is_taught: given.taught.is_some(),
            has_terms: !self.terms.is_plain(),
            teacher_time: loss.teacher_time(),
        };
        let step = Step { rates, loss_scale };
        self.constraint.mask(&mut grads);
        self.constraint.learn(&self.model, &mut grads);
        let done = match self.optimizer.scale_on(device) {
            Some(scale) => self.step_ahead(measured, step, grads, &scale),
            None => self.step_when_known(measured, step, grads),
        };
        let (learner, update) = done;
        let done = learner.pruned(rates.pruned);
        watch(Phase::Optimizer);
        Ok((done, update))
    }

    /// Forward and backward passes of all batches: gradients, and [`BatchLoss::sums`] one after the other. `inputs` are what they read on
    /// the device, if it is there.
    fn passes(
        &self,
        given: Given<'_>,
        inputs: Option<&Inputs>,
        loss: &mut Loss<'_>,
        device: &Device,
        watch: &mut dyn FnMut(Phase),
    ) -> Result<Found, TrainError> {
        let on_device = inputs.map(|inputs| &inputs.batches[..]);
        let seed = match inputs {
            Some(inputs) => inputs.seed.clone(),
            None => given.seed.map(|seed| seed_on(device, seed)),
        };
        let mut passes = || self.pass_through(given, on_device, loss, device, watch);
        match seed {
            Some(seed) => with_step_seed(seed, passes),
            None => passes(),
        }
    }

    fn pass_through(
        &self,
        given: Given<'_>,
        inputs: Option<&[DeviceBatch]>,
        loss: &mut Loss<'_>,
        device: &Device,
        watch: &mut dyn FnMut(Phase),
    ) -> Result<Found, TrainError> {
        let mut accumulator = GradientsAccumulator::new();
        let seen = self.seen();
        let options = given.options;
        let mut sums = Vec::new();
        for (number, batch) in given.batches.iter().enumerate() {
            // Only a share of a batch can be without targets.
            if batch.num_tokens() == 0 {
                // Those of a plain batch; replicas have no teacher.
                let count = 1 + usize::from(!self.terms.is_plain());
                sums.push(Tensor::zeros([count], &device.clone().inner()));
                continue;
            }
            let on_device = match inputs {
                Some(inputs) => inputs[number].clone(),
                None => DeviceBatch::new(batch, device),
            };
            watch(Phase::Data);
            let mut found = |grads| {
                let grads = GradientsParams::from_grads(grads, &seen);
                accumulator.accumulate(&seen, grads);
            };
            sums.push(match self.recompute {
                true if matches!(loss, Loss::CrossEntropy) => {
                    let found = &mut found;
                    self.blockwise(&seen, &on_device, options, watch, found)?
                }
                _ => {
                    let is_recorded = inputs.is_some();
                    let batch_loss = loss.of(&seen, batch, on_device, options, is_recorded)?;
                    watch(Phase::Forward);
                    found(batch_loss.minimised.backward());
                    batch_loss.sums
                }
            });
            watch(Phase::Backward);
        }
        Ok((accumulator.grads(), Tensor::cat(sums, 0)))
    }

    /// Gradients of a batch's cross-entropy, a block at a time, and the batch's sums.
    fn blockwise(
        &self,
        seen: &LanguageModel,
        on_device: &DeviceBatch,
        options: LossOptions,
        watch: &mut dyn FnMut(Phase),
        found: &mut dyn FnMut(Gradients),
    ) -> Result<Tensor<1>, TrainError> {
        let mut stream = Stream::new(seen, on_device.inputs.clone())?;
        let last = stream.pop();
        let loss = BatchLoss::of_hidden(seen, on_device, last.clone(), options);
        watch(Phase::Forward);
        let mut grads = loss.minimised.backward();
        let gradient = last.grad_remove(&mut grads);
        found(grads);
        let gradient = gradient.expect("the loss is a function of the last block's output");
        stream.backward(&|| self.seen(), gradient, found)?;
        Ok(loss.sums)
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
        let [norm, factor] = clip_factor(squares, loss, step.rates.clip_norm, step.loss_scale);
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
        let clip = match step.rates.clip_norm > 0.0 && update.grad_norm > step.rates.clip_norm {
            true => step.rates.clip_norm / update.grad_norm,
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
        let model = self
            .optimizer
            .step(step.rates.learning_rate, self.model, grads);
        self.model = self.constraint.keep(model);
        self
    }

    /// The learner with so large a share of zeros in the layers that are pruned in training; none leaves them as they are.
    pub(crate) fn pruned(mut self, share: Option<f64>) -> Self {
        if let Some(share) = share {
            self.constraint.prune(&self.model, share);
            self.model = self.constraint.keep(self.model);
        }
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

/// What the recipe says of a step.
#[derive(Clone, Copy)]
pub(crate) struct Rates {
    pub learning_rate: f64,
    pub clip_norm: f64,
    /// Share of zeros after it, if weights go.
    pub pruned: Option<f64>,
}

/// How far a step goes.
#[derive(Clone, Copy)]
struct Step {
    rates: Rates,
    /// What the loss was multiplied by.
    loss_scale: f64,
}

/// What forward passes leave beside gradients.
struct Measured {
    /// [`BatchLoss::sums`] of all batches.
    sums: Tensor<1>,
    tokens: usize,
    is_taught: bool,
    has_terms: bool,
    teacher_time: Option<Duration>,
}

impl Measured {
    /// An update before its step, from the values of the sums; left out, if they are not finite.
    fn update(&self, sums: &[f32]) -> Update {
        let (mut nats, mut divergence, mut objective) = (0.0, 0.0, 0.0);
        let of_batch = match (self.is_taught, self.has_terms) {
            (true, _) => 3,
            (false, true) => 2,
            (false, false) => 1,
        };
        for batch in sums.chunks_exact(of_batch) {
            nats += f64::from(batch[0]);
            if self.is_taught {
                divergence += f64::from(batch[1]);
            }
            objective += f64::from(batch[of_batch - 1]);
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
