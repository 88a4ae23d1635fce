//! What an update makes smaller: cross-entropy, alone or with the divergence from a teacher.

use std::time::Duration;

use burn::tensor::Tensor;
use kiln_fused::{LossOptions, cross_entropy_sum};
use kiln_loader::TokenBatch;
use kiln_zoo::LanguageModel;

use crate::TrainError;
use crate::loss::DeviceBatch;
use crate::tutor::Tutor;

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

/// The loss of a batch.
pub(crate) struct BatchLoss {
    /// What is minimised, summed over the targets that count and divided by [`LossOptions::divisor`].
    pub minimised: Tensor<1>,
    /// Sums which the host may not know yet: cross-entropy in nats, with a teacher the divergence in nats, and with either a teacher
    /// or [`LossTerms`] what is minimised. Otherwise the first is all of it.
    pub sums: Tensor<1>,
}

impl BatchLoss {
    /// Cross-entropy, from the model's residual stream after the last block, `[batch, seq, d_model]`.
    pub fn of_hidden(
        model: &LanguageModel,
        on_device: &DeviceBatch,
        hidden: Tensor<3>,
        options: LossOptions,
    ) -> Self {
        let found = on_device.loss_of(model, hidden, options);
        let nats = found.nats.inner().sum();
        let sums = match options.terms.is_plain() {
            true => nats,
            false => {
                let minimised = found.minimised.clone().inner();
                Tensor::cat(vec![nats, minimised.mul_scalar(options.divisor)], 0)
            }
        };
        Self {
            minimised: found.minimised,
            sums,
        }
    }
}

impl Loss<'_> {
    /// The share of a teacher's divergence; none without a teacher.
    pub(crate) fn taught(&self) -> Option<f64> {
        match self {
            Self::CrossEntropy => None,
            Self::Distill { weight, .. } => Some(*weight),
        }
    }

    /// Whether another device has a part in it.
    pub(crate) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Distill { tutor, .. } if tutor.is_elsewhere())
    }

    /// Whether its passes can be recorded: nothing of them comes from the host.
    pub(crate) fn may_record(&self) -> bool {
        match self {
            Self::CrossEntropy => true,
            Self::Distill { tutor, .. } => tutor.may_record(),
        }
    }

    /// The loss of a batch; while a device records, nothing waits for it, and a teacher's time is not taken.
    ///
    /// # Errors
    /// Those of the model, and of a teacher's answers.
    pub(crate) fn of(
        &mut self,
        model: &LanguageModel,
        batch: &TokenBatch,
        on_device: DeviceBatch,
        options: LossOptions,
        is_recorded: bool,
    ) -> Result<BatchLoss, TrainError> {
        let Self::Distill { tutor, weight } = self else {
            let hidden = model.hidden(on_device.inputs.clone())?;
            return Ok(BatchLoss::of_hidden(model, &on_device, hidden, options));
        };
        let answers = tutor.answers(batch, &on_device, is_recorded)?;
        let (logits, features) = match answers.lessons {
            None => (on_device.logits(model)?, None),
            Some(lessons) => {
                let mut own = model.trace(on_device.inputs.clone())?;
                let features = tutor.features(model, &own, lessons)?;
                // A trace has one entry more than there are layers.
                let hidden = own.swap_remove(own.len() - 1);
                (on_device.logits_of(model, hidden), features)
            }
        };
        let summed = LossOptions {
            divisor: 1.0,
            ..options
        };
        let labels = cross_entropy_sum(logits.clone(), on_device.targets, summed);
        let divergence = tutor.divergence(answers.target, logits).sum();
        let answered =
            labels.minimised.mul_scalar(1.0 - *weight) + divergence.clone().mul_scalar(*weight);
        let mut sums = vec![labels.nats.inner().sum(), divergence.inner()];
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
            minimised: minimised.div_scalar(options.divisor),
            sums: Tensor::cat(sums, 0),
        })
    }

    /// Time that the teacher took since it was last asked; none if that was not taken.
    pub(crate) fn teacher_time(&mut self) -> Option<Duration> {
        match self {
            Self::CrossEntropy => None,
            Self::Distill { tutor, .. } => tutor.take_time(),
        }
    }
}
