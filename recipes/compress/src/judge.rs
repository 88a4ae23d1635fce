//! How good a model is, by itself and beside the one that it was made of.

use std::sync::Arc;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor};
use kiln_compare::statistics::student_quantile;
use kiln_loader::{Split, Windows};
use kiln_train::{DeviceBatch, Evaluator, RunConfig, Score, Source};
use kiln_zoo::LanguageModel;
use serde::{Deserialize, Serialize};

use crate::CompressError;

/// Scores on the validation split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// Mean loss in nats a token.
    pub loss: f64,
    /// Targets it is the mean of.
    pub tokens: u64,
    /// Share of targets that the model scored highest.
    pub accuracy: f64,
    /// The loss in bits a byte; none for a task.
    pub bits_per_byte: Option<f64>,
    /// Half of the 95 % interval of the loss over windows, as a share of the loss; none with a single window.
    pub loss_margin: Option<f64>,
    /// Difference to the original's loss on the same targets, as a share of that: 0.01 is a loss 1 % larger.
    pub change: f64,
    /// Half of the 95 % interval of that difference, window by window.
    pub change_margin: Option<f64>,
    /// Mean Kullback-Leibler divergence of the model's distribution from the original's in nats a token, KL(original | model).
    pub divergence: f64,
    /// Share of targets for which both score the same token highest.
    pub agreement: f64,
}

/// Scores models beside the original.
pub(crate) struct Judge<'a> {
    pub config: &'a RunConfig,
    pub original: &'a LanguageModel,
    pub source: &'a Source,
    /// Windows of one forward pass, and most of all; 0 is all.
    pub sizes: [usize; 2],
    pub device: &'a Device,
}

impl Judge<'_> {
    /// The quality of a model, and its scores window by window.
    ///
    /// # Errors
    /// No validation split, and those of the models.
    pub fn quality(&self, model: &LanguageModel) -> Result<(Quality, Vec<Score>), CompressError> {
        let config = self.config;
        let evaluator = Evaluator {
            objective: config.objective,
            vocab: config.model.backbone.vocab_size,
            device: self.device,
        };
        let mut seen = Seen::default();
        evaluator.visit(&self.windows()?, self.sizes, &mut |batch, lanes| {
            let on_device = DeviceBatch::new(batch, self.device);
            let before = on_device.logits(self.original)?;
            let after = on_device.logits(model)?;
            let same = before.clone().argmax(1).equal(after.clone().argmax(1));
            let same = same.into_data().iter::<bool>().filter(|same| *same).count();
            seen.agreeing += same as u64;
            let targets = on_device.targets;
            let scores = |logits| Evaluator::lanes_of(batch, targets.clone(), logits);
            seen.before
                .extend(counted(&scores(before.clone())[..lanes]));
            seen.after.extend(counted(&scores(after.clone())[..lanes]));
            let (before, after) = (log_softmax(before, 1), log_softmax(after, 1)); // [counted, vocab]
            seen.divergence += divergence(before, after);
            Ok(())
        })?;
        let store = self.source.text().map(|text| &text.validation);
        let quality = seen.quality(|loss| store.map(|store| store.bits_per_byte(loss)));
        Ok((quality, seen.after))
    }

    fn windows(&self) -> Result<Arc<dyn Windows>, CompressError> {
        let windows = self.source.windows(Split::Validation, self.config.seq)?;
        windows.ok_or_else(|| CompressError::Setting {
            key: "from",
            value: format!("a run on `{}`", self.config.corpus),
            why: "that corpus has no validation split to measure on".into(),
        })
    }
}

/// Sum over targets of KL(before | after), both `[counted, vocab]` logarithms of probabilities.
pub(crate) fn divergence(before: Tensor<2>, after: Tensor<2>) -> f64 {
    let divergence = (before.clone().exp() * (before - after)).sum_dim(1); // [counted, 1]
    let values = divergence.into_data();
    values.iter::<f32>().map(f64::from).sum()
}

/// Windows that have targets.
fn counted(lanes: &[Score]) -> impl Iterator<Item = Score> + '_ {
    lanes.iter().copied().filter(|lane| lane.tokens > 0)
}

#[derive(Default)]
struct Seen {
    before: Vec<Score>,
    after: Vec<Score>,
    divergence: f64,
    agreeing: u64,
}

impl Seen {
    fn quality(&self, bits_per_byte: impl Fn(f64) -> Option<f64>) -> Quality {
        let (before, after) = (Score::total(&self.before), Score::total(&self.after));
        let loss = after.loss();
        let pairs = self.before.iter().zip(&self.after);
        let change = after.nats / before.nats - 1.0;
        let tokens = after.tokens as f64;
        Quality {
            loss,
            tokens: after.tokens,
            accuracy: after.accuracy(),
            bits_per_byte: bits_per_byte(loss),
            loss_margin: margin(
                self.after
                    .iter()
                    .map(|score| (score.nats, score.tokens as f64)),
                loss,
            )
            .map(|margin| margin / loss),
            change,
            change_margin: margin(pairs.map(|(a, b)| (b.nats, a.nats)), 1.0 + change),
            // Sums of rounded terms may end a little below zero.
            divergence: (self.divergence / tokens).max(0.0),
            agreement: self.agreeing as f64 / tokens,
        }
    }
}

/// Half of the 95 % interval of a ratio of sums, of parts (above, below) one a window: Student's, of the linearised ratio (Cochran,
/// Sampling Techniques, section 6.4). None of a single window.
fn margin(parts: impl Iterator<Item = (f64, f64)>, ratio: f64) -> Option<f64> {
    let parts: Vec<(f64, f64)> = parts.collect();
    let n = parts.len() as f64;
    if parts.len() < 2 {
        return None;
    }
    let below = parts.iter().map(|part| part.1).sum::<f64>() / n;
    let squares: f64 = parts.iter().map(|(a, b)| (a - ratio * b).powi(2)).sum();
    let error = (squares / (n - 1.0) / n).sqrt() / below;
    Some(student_quantile(n - 1.0) * error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(nats: f64, tokens: u64) -> Score {
        Score {
            nats,
            tokens,
            correct: 1,
        }
    }

    #[test]
    fn a_model_that_is_the_original_has_not_changed() {
        let scores = vec![score(10.0, 5), score(14.0, 5), score(6.0, 3)];
        let seen = Seen {
            before: scores.clone(),
            after: scores,
            divergence: -1e-9,
            agreeing: 13,
        };
        let quality = seen.quality(|loss| Some(2.0 * loss));
        assert_eq!((quality.change, quality.change_margin), (0.0, Some(0.0)));
        assert_eq!((quality.divergence, quality.agreement), (0.0, 1.0));
        assert_eq!(quality.bits_per_byte, Some(60.0 / 13.0));
        assert!(quality.loss_margin.unwrap() > 0.0);
    }

    /// Equal windows make the ratio's interval that of a mean: 2, 4 and 6 have a standard error of 2 / sqrt(3).
    #[test]
    fn the_margin_is_students() {
        let parts = [2.0, 4.0, 6.0].map(|value| (value, 1.0));
        let margin = margin(parts.into_iter(), 4.0).unwrap();
        let expected = student_quantile(2.0) * 2.0 / 3.0_f64.sqrt();
        assert!((margin - expected).abs() < 1e-12, "{margin} {expected}");
    }

    #[test]
    fn one_window_has_no_interval() {
        let seen = Seen {
            before: vec![score(10.0, 5)],
            after: vec![score(11.0, 5)],
            divergence: 0.5,
            agreeing: 4,
        };
        let quality = seen.quality(|_| None);
        assert_eq!((quality.loss_margin, quality.change_margin), (None, None));
        assert!((quality.change - 0.1).abs() < 1e-12);
        assert_eq!((quality.divergence, quality.agreement), (0.1, 0.8));
    }
}
