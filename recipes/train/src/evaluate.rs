//! Held-out loss and accuracy, weighted by tokens.

use std::sync::Arc;

use burn::tensor::{Bool, Device, Int, Tensor};
use kiln_distill::{ResponseLoss, Target};
use kiln_fused::{CHUNK_BYTES, chunk_rows, cross_entropy};
use kiln_loader::{TokenBatch, Windows};
use kiln_text::TokenStore;
use kiln_zoo::LanguageModel;

use crate::TrainError;
use crate::loss::DeviceBatch;
use crate::recipe::Objective;
use crate::sweep::{Choice, walk};
use crate::tutor::Tutor;

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

/// A student's answers beside its teacher's, summed over the targets of some windows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TeacherScore {
    /// The teacher's own score.
    pub teacher: Score,
    /// Targets where both score the same token highest.
    pub same: u64,
    /// KL(teacher || student) in nats at temperature 1, summed.
    pub divergence: f64,
}

impl TeacherScore {
    /// Share of targets where both score the same token highest.
    pub fn agreement(&self) -> f64 {
        self.same as f64 / self.teacher.tokens as f64
    }

    /// Mean KL(teacher || student) in nats a token.
    pub fn mean_divergence(&self) -> f64 {
        self.divergence / self.teacher.tokens as f64
    }

    fn total(windows: &[Self]) -> Self {
        let mut total = Self::default();
        for window in windows {
            total.teacher.add(&window.teacher);
            total.same += window.same;
            total.divergence += window.divergence;
        }
        total
    }
}

/// What the scores of some targets say, which the host may not know yet.
struct Marks {
    /// `[targets]`
    nats: Tensor<1>,
    /// Whether a target is scored highest, `[targets]`.
    is_best: Tensor<1, Bool>,
}

impl Marks {
    /// From logits `[targets, vocab]`.
    fn new(targets: Tensor<1, Int>, logits: Tensor<2>) -> Self {
        let best = logits.clone().argmax(1).squeeze_dim(1); // [targets]
        Self {
            is_best: best.equal(targets.clone()),
            nats: cross_entropy(logits, targets),
        }
    }
}

/// Scores of the lanes of a batch from its targets that count, in their order.
fn lanes_from(batch: &TokenBatch, marks: Vec<Marks>) -> Vec<Score> {
    let mut lanes = vec![Score::default(); batch.batch];
    let mut counted = (0..batch.mask.len()).filter(|at| batch.mask[*at]);
    for marks in marks {
        let (nats, is_best) = (marks.nats.into_data(), marks.is_best.into_data());
        let of_targets = nats.iter::<f32>().zip(is_best.iter::<bool>());
        for ((nats, is_best), at) in of_targets.zip(&mut counted) {
            lanes[at / batch.seq].add(&Score {
                nats: nats.into(),
                tokens: 1,
                correct: is_best.into(),
            });
        }
    }
    lanes
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
        let rows = on_device.rows(model)?;
        let count = rows.dims()[0];
        // Not the scores of all rows at once: with a large vocabulary they are most of the memory.
        let row_bytes = self.vocab * model.precision().bytes();
        let chunk = chunk_rows(count, row_bytes, CHUNK_BYTES);
        let chunks = (0..count).step_by(chunk).map(|first| {
            let range = first..count.min(first + chunk);
            let logits = model.logits(rows.clone().slice([range.clone()]));
            Marks::new(on_device.targets.clone().slice([range]), logits)
        });
        // All are in the device's queue before the first is read back.
        let chunks: Vec<_> = chunks.collect();
        Ok(lanes_from(batch, chunks))
    }

    /// Scores of the lanes of a batch from the logits of the targets that count, `[counted, vocab]`. Sums in f64.
    pub fn lanes_of(batch: &TokenBatch, targets: Tensor<1, Int>, logits: Tensor<2>) -> Vec<Score> {
        lanes_from(batch, vec![Marks::new(targets, logits)])
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
        let choice = Choice::Crops { batches, seed };
        self.sweep(
            windows,
            batch,
            choice,
            |score: &Score| score.tokens > 0,
            |batch| self.lanes(model, batch),
        )
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
        let choice = Choice::Sequential { most };
        self.sweep(
            windows,
            batch,
            choice,
            |score: &Score| score.tokens > 0,
            |batch| self.lanes(model, batch),
        )
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
        self.walk(windows, batch, Choice::Sequential { most }, visit)
    }

    /// A student beside its teacher, both without autodiff, on the windows that [`Evaluator::crops`] or
    /// [`Evaluator::sequential`] score.
    pub(crate) fn beside(
        &self,
        student: &LanguageModel,
        tutor: &Tutor,
        windows: &Arc<dyn Windows>,
        batch: usize,
        choice: Choice,
    ) -> Result<TeacherScore, TrainError> {
        let counts = |score: &TeacherScore| score.teacher.tokens > 0;
        let scores = self.sweep(windows, batch, choice, counts, |batch| {
            self.lanes_beside(student, tutor, batch)
        })?;
        Ok(TeacherScore::total(&scores))
    }

    fn lanes_beside(
        &self,
        student: &LanguageModel,
        tutor: &Tutor,
        batch: &TokenBatch,
    ) -> Result<Vec<TeacherScore>, TrainError> {
        let (teacher, device) = tutor.model();
        let own = Evaluator { device, ..*self };
        let scores = own.lanes(teacher, batch)?;
        let mut lanes: Vec<_> = scores
            .into_iter()
            .map(|teacher| TeacherScore {
                teacher,
                ..TeacherScore::default()
            })
            .collect();
        if batch.num_tokens() == 0 {
            return Ok(lanes);
        }
        let on_device = DeviceBatch::new(batch, self.device);
        let teacher = tutor.logits(batch, &on_device)?;
        let student = on_device.logits(student)?;
        let same = student.clone().argmax(1).equal(teacher.clone().argmax(1));
        let student = Target::new(student, 1.0, 0).log_probs;
        let teacher = Target::new(teacher, 1.0, 0).log_probs;
        let divergence = ResponseLoss::ForwardKl.divergence(teacher, student);
        let (same, divergence) = (same.into_data(), divergence.into_data());
        let counted = (0..batch.mask.len()).filter(|at| batch.mask[*at]);
        for ((at, same), nats) in counted
            .zip(same.iter::<bool>())
            .zip(divergence.iter::<f32>())
        {
            let lane = &mut lanes[at / batch.seq];
            lane.same += u64::from(same);
            lane.divergence += f64::from(nats);
        }
        Ok(lanes)
    }

    /// What `lanes` finds in each window; those of which `counts` says no are left out.
    fn sweep<T: Clone>(
        &self,
        windows: &Arc<dyn Windows>,
        batch: usize,
        choice: Choice,
        counts: fn(&T) -> bool,
        lanes: impl Fn(&TokenBatch) -> Result<Vec<T>, TrainError>,
    ) -> Result<Vec<T>, TrainError> {
        let mut scores = Vec::new();
        self.walk(windows, batch, choice, &mut |batch, count| {
            let found = lanes(batch)?;
            // Neither do the empty ones at the end of a sweep count.
            scores.extend(found[..count].iter().filter(|lane| counts(lane)).cloned());
            Ok(())
        })?;
        Ok(scores)
    }

    fn walk(
        &self,
        windows: &Arc<dyn Windows>,
        batch: usize,
        choice: Choice,
        visit: &mut dyn FnMut(&TokenBatch, usize) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        walk(self.objective, self.vocab, windows, batch, choice, visit)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    /// Scores that come in pieces belong to the same lanes, whatever the pieces and wherever targets do not count.
    #[test]
    fn pieces_of_scores_are_the_scores() {
        let device = Device::flex();
        let (lanes, seq, vocab) = (3, 5, 7);
        let batch = TokenBatch {
            batch: lanes,
            seq,
            inputs: vec![0; lanes * seq],
            targets: (0..15).map(|at| at * 3 % vocab).collect(),
            mask: (0..15).map(|at| at % 4 != 2 && at / 5 != 1).collect(),
        };
        let on_device = DeviceBatch::new(&batch, &device);
        let [counted] = on_device.targets.dims();
        let normal = Distribution::Normal(0.0, 2.0);
        let logits = Tensor::<2>::random([counted, vocab as usize], normal, &device);
        let whole = Evaluator::lanes_of(&batch, on_device.targets.clone(), logits.clone());
        assert_eq!(
            whole.iter().map(|lane| lane.tokens).sum::<u64>(),
            counted as u64
        );
        assert_eq!(whole[1], Score::default());
        for size in [1, 3, 4] {
            let pieces = (0..counted).step_by(size).map(|first| {
                let range = first..counted.min(first + size);
                let targets = on_device.targets.clone().slice([range.clone()]);
                Marks::new(targets, logits.clone().slice([range]))
            });
            assert_eq!(lanes_from(&batch, pieces.collect()), whole, "{size}");
        }
    }
}
