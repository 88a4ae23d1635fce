//! The measurement: a training step, then generation row by row.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData};
use kiln_loader::TokenBatch;
use kiln_run::format;
use kiln_run::hardware::Provenance;
use kiln_train::{Learner, Loss, LossScale, OpenDevice, RecordedPasses};
use kiln_zoo::{LanguageModel, ModelState, Positions};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::clock::{Budget, repeat};
use crate::meters::{EnergyMeter, MemoryMeter, memory_left};
use crate::subject::count;
use crate::trouble::{Trouble, words_of};
use crate::{
    COST_VERSION, Cost, CostError, Energy, Outcome, Pace, Row, RowCost, Settings, Spread, Subject,
    TrainingCost,
};

/// Steps of decoding from one prompt before it is taken anew, so that the length stays the row's.
const DECODED: usize = 16;

/// Measured parts of a row: prefill, decoding, scoring.
const PARTS: usize = 3;

/// What a model is measured on, and how.
pub struct Bench<'a> {
    /// The device.
    pub device: &'a OpenDevice,
    /// Lengths, batches and time.
    pub settings: &'a Settings,
    /// Where and with what it is done.
    pub provenance: Provenance,
}

/// Measures a model. `watch` sees what there is after the training step and after every row.
///
/// Whatever goes wrong in the training step or in a row is recorded there, and the rest goes on.
///
/// # Errors
/// [`CostError::Setting`] for settings that nothing can be measured with, and a model that cannot be built.
pub fn measure(
    subject: &Subject,
    bench: Bench,
    watch: &mut dyn FnMut(&Cost),
) -> Result<Cost, CostError> {
    let settings = bench.settings;
    settings.validate()?;
    let rows = settings.batches.len() * settings.lengths.len();
    let mut budget = Budget::new(settings.seconds, 1 + PARTS * rows);
    let worker = Worker {
        subject,
        device: &bench.device.device,
        energy: EnergyMeter::open(&bench.device.device),
    };
    let training_device = worker.device.clone().autodiff();
    let model = subject.config.init(subject.seed, &training_device)?;
    let model = model.with_precision(subject.model.precision());
    let (mut parameters, mut weight_bytes) = count(&model);
    let training = match subject.compressed {
        false => outcome(|| worker.training(model, &training_device, budget.share())),
        true => {
            let (held, bytes) = count(&subject.model);
            (parameters.trainable, parameters.all, weight_bytes) = (0, held.all, bytes);
            budget.skip(1);
            Outcome::LeftOut {
                reason: "the weights of a compressed run are not trained".into(),
            }
        }
    };
    let mut cost = Cost {
        version: COST_VERSION,
        name: subject.name.clone(),
        weights: subject.weights,
        backend: bench.device.name.clone(),
        precision: subject.model.precision(),
        provenance: bench.provenance,
        settings: settings.clone(),
        parameters,
        weight_bytes,
        files: subject.files,
        training,
        rows: Vec::with_capacity(rows),
    };
    watch(&cost);
    for &batch in &settings.batches {
        for &length in &settings.lengths {
            let outcome = worker.row([batch, length], &mut budget);
            cost.rows.push(Row {
                batch,
                length,
                outcome,
            });
            watch(&cost);
        }
    }
    Ok(cost)
}

/// A model on its device.
pub(crate) struct Worker<'a> {
    pub subject: &'a Subject,
    pub device: &'a Device,
    pub energy: EnergyMeter,
}

impl Worker<'_> {
    /// Updates with learning rate 0: the same work, and the loss stays finite.
    fn training(
        &self,
        model: LanguageModel,
        device: &Device,
        share: f64,
    ) -> Result<TrainingCost, Trouble> {
        let lesson = &self.subject.lesson;
        let vocab = self.subject.config.backbone.vocab_size;
        let batches: Vec<TokenBatch> = (0..lesson.accumulate as u64)
            .map(|number| {
                let batch = random_batch([lesson.batch, lesson.seq], vocab, number);
                let first_lane = number * lesson.batch as u64;
                lesson
                    .objective
                    .apply(batch, vocab, self.subject.seed, first_lane)
            })
            .collect();
        let tokens = batches.iter().map(TokenBatch::num_tokens).sum();
        let memory = MemoryMeter::start(self.device);
        let optimizer = lesson.optimizer.init(&model);
        let scale = LossScale::of(model.precision());
        let mut learner = Some(Learner {
            scale,
            terms: lesson.terms,
            recompute: lesson.recompute,
            seed: Some(self.subject.seed),
            recorded: RecordedPasses::new(lesson.recorded),
            ..Learner::new(model, optimizer)
        });
        let step = self.pace(share, tokens, || {
            let this = learner.take().ok_or(Trouble::Ended)?;
            let clip_norm = lesson.optimizer.clip_norm;
            let (next, update) =
                this.update(&batches, &mut Loss::CrossEntropy, 0.0, clip_norm, device)?;
            learner = Some(next);
            match update.skipped {
                Some(what) if update.overflowed_at.is_none() => Err(Trouble::NotFinite(what)),
                _ => Ok(()),
            }
        })?;
        Ok(TrainingCost {
            batch: lesson.batch,
            seq: lesson.seq,
            accumulate: lesson.accumulate,
            step,
            peak_memory_bytes: memory.peak(),
        })
    }

    fn row(&self, [batch, length]: [usize; 2], budget: &mut Budget) -> Outcome<RowCost> {
        if let Some(reason) = self.why_not([batch, length], budget) {
            budget.skip(PARTS);
            return Outcome::LeftOut { reason };
        }
        let mut shares = || budget.share();
        outcome(|| {
            let memory = MemoryMeter::start(self.device);
            let mut found = match self.subject.model.is_causal() {
                true => self.generation([batch, length], &mut shares)?,
                false => self.scoring([batch, length], PARTS as f64 * shares())?,
            };
            found.peak_memory_bytes = memory.peak();
            Ok(found)
        })
    }

    /// Why a row is not tried.
    fn why_not(&self, [batch, length]: [usize; 2], budget: &Budget) -> Option<String> {
        let backbone = &self.subject.config.backbone;
        if backbone.positions == Positions::Learned && length > backbone.max_seq {
            return Some(format!(
                "the model has learned positions up to {}",
                backbone.max_seq
            ));
        }
        if budget.is_used_up() {
            return Some("the time was used up; raise --seconds".into());
        }
        // A process that takes more than there is would be ended by the system, with all rows.
        let widest = backbone.vocab_size + 8 * backbone.d_model + 2 * backbone.d_hidden;
        let values = (batch * length * widest * size_of::<f32>()) as u64;
        let needed = values + batch as u64 * self.subject.model.state_bytes(length);
        let left = memory_left(self.device)?;
        (needed > left).then(|| {
            format!(
                "it needs at least {}, and {} of memory are left",
                format::bytes(needed),
                format::bytes(left)
            )
        })
    }

    /// Prefill, decoding and scoring of a causal model.
    fn generation(
        &self,
        [batch, length]: [usize; 2],
        share: &mut dyn FnMut() -> f64,
    ) -> Result<RowCost, Trouble> {
        let model = &self.subject.model;
        let prompt = self.prompt([batch, length]);
        let mut last = None;
        let prefill = self.pace(share(), batch * length, || {
            // Two states of a long prompt at once would count as its peak of memory.
            drop(last.take());
            let start = model.initial_state(batch, self.device)?;
            last = Some(model.forward_with_state(prompt.clone(), start)?.1);
            Ok(())
        })?;
        let state = last.ok_or(Trouble::Ended)?;
        let counted = model.counted_state_bytes(&state);
        let decode = self.decode(batch, &state, share())?;
        drop(state);
        let scored = self.scoring([batch, length], share())?;
        Ok(RowCost {
            prefill: Some(prefill),
            decode,
            state_bytes: Some(model.state_bytes(length)),
            counted_state_bytes: Some(counted / batch as u64),
            ..scored
        })
    }

    /// Tokens that fit behind a prompt, at most so many.
    pub fn places(&self, prompt: &ModelState, most: usize) -> usize {
        let backbone = &self.subject.config.backbone;
        match backbone.positions {
            Positions::Learned => most.min(backbone.max_seq - prompt.position),
            Positions::None => most,
        }
    }

    /// One step after another from a prompt's state; none where learned positions end with the prompt.
    pub fn decode(
        &self,
        batch: usize,
        prompt: &ModelState,
        share: f64,
    ) -> Result<Option<Pace>, Trouble> {
        let places = self.places(prompt, DECODED);
        if places == 0 {
            return Ok(None);
        }
        let end = prompt.position + places;
        let token: Tensor<1, Int> = self.prompt([batch, 1]).squeeze_dim(1); // [batch]
        let mut state = None;
        let pace = self.pace(share, batch, || {
            let reached = state
                .take()
                .filter(|state: &ModelState| state.position < end);
            let now = reached.unwrap_or_else(|| prompt.clone());
            state = Some(self.subject.model.step(token.clone(), now)?.1);
            Ok(())
        })?;
        Ok(Some(pace))
    }

    /// The whole sequence without state.
    fn scoring(&self, [batch, length]: [usize; 2], share: f64) -> Result<RowCost, Trouble> {
        let prompt = self.prompt([batch, length]);
        let forward = self.pace(share, batch * length, || {
            self.subject.model.forward(prompt.clone())?;
            Ok(())
        })?;
        Ok(RowCost {
            prefill: None,
            decode: None,
            forward,
            state_bytes: None,
            counted_state_bytes: None,
            peak_memory_bytes: None,
        })
    }

    /// Times `work` on `tokens` tokens. The device is done with all before a clock is read.
    fn pace(
        &self,
        share: f64,
        tokens: usize,
        mut work: impl FnMut() -> Result<(), Trouble>,
    ) -> Result<Pace, Trouble> {
        let sync = || {
            self.device
                .sync()
                .map_err(|error| Trouble::Device(error.to_string()))
        };
        let mut before = None;
        let timed = || -> Result<f64, Trouble> {
            sync()?;
            let start = Instant::now();
            work()?;
            sync()?;
            Ok(start.elapsed().as_secs_f64())
        };
        let times = repeat(share, timed, || before = self.energy.joules())?;
        let after = self.energy.joules();
        let seconds = Spread::of(&times).ok_or(Trouble::Ended)?;
        let energy = Energy::between([before, after], times.iter().sum(), tokens * times.len());
        Ok(Pace {
            seconds,
            tokens_per_second: tokens as f64 / seconds.median,
            energy,
        })
    }

    /// Tokens `[batch, length]`, drawn evenly.
    pub fn prompt(&self, shape: [usize; 2]) -> Tensor<2, Int> {
        let batch = random_batch(shape, self.subject.config.backbone.vocab_size, 0);
        let ids: Vec<i32> = batch.inputs.iter().map(|&id| id as i32).collect();
        Tensor::from_data(TensorData::new(ids, shape), self.device)
    }
}

/// Runs a piece of the measurement; errors and panics of a backend, such as memory that ran out, are its outcome.
pub(crate) fn outcome<T>(work: impl FnOnce() -> Result<T, Trouble>) -> Outcome<T> {
    let result = catch_unwind(AssertUnwindSafe(work));
    match result.unwrap_or_else(|payload| Err(Trouble::Panic(words_of(payload.as_ref())))) {
        Ok(figures) => Outcome::Measured(figures),
        Err(trouble) => Outcome::Failed {
            reason: trouble.to_string(),
        },
    }
}

/// Tokens drawn evenly; no time depends on which they are.
pub(crate) fn random_batch([batch, seq]: [usize; 2], vocab: usize, seed: u64) -> TokenBatch {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut ids = || {
        (0..batch * seq)
            .map(|_| rng.random_range(0..vocab as u32))
            .collect()
    };
    TokenBatch {
        batch,
        seq,
        inputs: ids(),
        targets: ids(),
        mask: vec![true; batch * seq],
    }
}
