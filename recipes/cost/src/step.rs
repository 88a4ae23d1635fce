//! Where the time of a training step goes: warm-up, throughput, and phase by phase.
//!
//! Four passes, one after the other. Warm-up ends where steps take the same time. The throughput pass makes its steps as training
//! does and waits for the device at its end only. The profile pass waits after every phase, which takes away what the device and
//! the program could have done at once: its step is the longer one. The recording pass makes its steps as training does again, with
//! an event of the device before and after every kernel.

mod ceilings;
mod family;
mod figures;
mod operations;
mod rates;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use kiln_loader::TokenBatch;
use kiln_profile::{Recording, record};
use kiln_run::hardware::Provenance;
use kiln_train::{
    Learner, Loss, LossScale, OpenDevice, Phase, RecordedPasses, Resolved, TrainError, TrainRecipe,
};
use kiln_zoo::Precision;

use crate::measure::random_batch;
use crate::meters::MemoryMeter;
use crate::trouble::{Trouble, words_of};
use crate::{CostError, Lesson};

pub use family::{Family, short_name};
pub use figures::{PhaseCost, Pool, Profile, STEP_VERSION, StepCost, Throughput, WarmUp};
pub use operations::{Ceilings, FamilyCost, KernelCost, Operations, Times};
pub use table::tables;

/// Steps are steady when so many in a row differ by no more than [`STEADY_SPREAD`] of the shortest.
const STEADY_STEPS: usize = 3;

/// Less than what a kernel that is still tuned or compiled takes, and more than a quiet machine's jitter.
const STEADY_SPREAD: f64 = 0.05;

/// Warm-up ends after so many steps, steady or not.
const MOST_WARM_UP: usize = 20;

/// Steps of the profile pass, at most.
const MOST_PROFILED: usize = 10;

/// Steps of the recording pass, at most.
const MOST_RECORDED: usize = 5;

/// Different batches, taken in turn.
const BATCHES: u64 = 4;

/// The phases of a step in their order.
const PHASES: [Phase; 4] = [
    Phase::Data,
    Phase::Forward,
    Phase::Backward,
    Phase::Optimizer,
];

/// What is timed, and where.
pub struct StepBench<'a> {
    /// The recipe, resolved.
    pub resolved: &'a Resolved,
    /// The device.
    pub device: &'a OpenDevice,
    /// Steps of the throughput pass.
    pub steps: usize,
    /// Where and with what it is done.
    pub provenance: Provenance,
}

/// Refuses recipes whose step is more than the model's own.
///
/// # Errors
/// [`CostError::Teacher`].
pub fn check(recipe: &TrainRecipe) -> Result<(), CostError> {
    match &recipe.distill {
        None => Ok(()),
        Some(distill) => Err(CostError::Teacher(distill.teacher.clone())),
    }
}

/// Times the training step of a recipe on random tokens with a learning rate of 0: the same work, and the loss stays finite.
/// `[init]` is left aside, as no time depends on the weights.
///
/// # Errors
/// A recipe with a teacher, a model that cannot be built, a precision that the device does not have;
/// [`CostError::Step`] with what the model or the backend said, such as that memory ran out.
pub fn bench_step(bench: StepBench) -> Result<StepCost, CostError> {
    let resolved = bench.resolved;
    let recipe = &resolved.recipe.value;
    check(recipe)?;
    if bench.steps == 0 {
        return Err(CostError::Setting {
            name: "steps",
            value: "0".into(),
            why: "at least one is needed".into(),
        });
    }
    let device = &bench.device.device;
    kiln_train::check_precision(device, recipe.precision).map_err(TrainError::from)?;
    let measured = catch_unwind(AssertUnwindSafe(|| Stepper::new(&bench)?.measure(bench)));
    let measured = measured.unwrap_or_else(|payload| Err(Trouble::Panic(words_of(&*payload))));
    measured.map_err(|trouble| CostError::Step(trouble.to_string()))
}

/// A model in training.
struct Stepper {
    learner: Option<Learner>,
    device: Device,
    lesson: Lesson,
    /// Micro-batches of the steps, in turn.
    batches: Vec<Vec<TokenBatch>>,
    made: usize,
    parameters: u64,
    flops_per_token: u64,
}

impl Stepper {
    fn new(bench: &StepBench) -> Result<Self, Trouble> {
        let resolved = bench.resolved;
        let recipe = &resolved.recipe.value;
        let lesson = Lesson::of(resolved);
        let device = bench.device.device.clone();
        let model = resolved
            .model
            .init(recipe.seed, &device.clone().autodiff())?;
        let model = model.with_precision(recipe.precision);
        let vocab = resolved.model.backbone.vocab_size;
        let micro = |number: u64| {
            let batch = random_batch([lesson.batch, lesson.seq], vocab, number);
            let first_lane = number * lesson.batch as u64;
            let objective = lesson.objective;
            objective.apply(batch, vocab, recipe.seed, first_lane)
        };
        let accumulate = lesson.accumulate as u64;
        let step = |step: u64| {
            let numbers = (0..accumulate).map(move |at| step * accumulate + at);
            numbers.map(&micro).collect()
        };
        let batches = (0..BATCHES).map(step).collect();
        let optimizer = lesson.optimizer.init(&model);
        Ok(Self {
            batches,
            made: 0,
            parameters: model.num_params() as u64,
            flops_per_token: resolved.model.flops_per_token(&model, lesson.seq),
            learner: Some(Learner {
                scale: LossScale::of(recipe.precision),
                terms: lesson.terms,
                recompute: lesson.recompute,
                recorded: RecordedPasses::new(lesson.recorded),
                ..Learner::new(model, optimizer)
            }),
            device,
            lesson,
        })
    }

    fn measure(mut self, bench: StepBench) -> Result<StepCost, Trouble> {
        let memory_device = self.device.clone();
        let memory = MemoryMeter::start(&memory_device);
        let warm_up = self.warm_up()?;
        let throughput = self.throughput(bench.steps)?;
        let peak_memory_bytes = memory.peak();
        // The rest is of launches. A graph's memory is its own, and they would need theirs beside it.
        if let Some(learner) = &mut self.learner {
            learner.recorded = RecordedPasses::default();
        }
        let profile = self.profile(bench.steps.min(MOST_PROFILED))?;
        let operations = self.operations(bench.steps.min(MOST_RECORDED))?;
        let pools = self.device.memory_pool_report().unwrap_or_default();
        let pools = pools.into_iter().map(|pool| Pool {
            page_size: pool.page_size,
            pages: pool.pages,
            pages_peak: pool.pages_peak,
            largest: pool.largest_alloc,
        });
        let pools = pools.filter(|pool| pool.pages_peak > 0).collect();
        let recipe = &bench.resolved.recipe;
        let Lesson {
            batch,
            seq,
            accumulate,
            ..
        } = self.lesson;
        let flops_per_step = self.flops_per_step();
        let parameters = self.parameters;
        let operations = self.with_ceilings(operations, recipe.value.precision);
        Ok(StepCost {
            version: STEP_VERSION,
            name: recipe.name.clone(),
            backend: bench.device.name.clone(),
            provenance: bench.provenance,
            precision: recipe.value.precision,
            parameters,
            vocab: bench.resolved.model.backbone.vocab_size,
            batch,
            seq,
            accumulate,
            flops_per_step,
            warm_up,
            throughput,
            profile,
            operations,
            peak_memory_bytes,
            pools,
        })
    }

    /// Forward passes go over all positions, whether their targets count or not.
    fn flops_per_step(&self) -> f64 {
        let Lesson {
            batch,
            seq,
            accumulate,
            ..
        } = self.lesson;
        3.0 * self.flops_per_token as f64 * (batch * seq * accumulate) as f64
    }

    fn sync(&self) -> Result<(), Trouble> {
        let synced = self.device.sync();
        synced.map_err(|error| Trouble::Device(error.to_string()))
    }

    /// One step, as training makes it or with a `watch` that is told when a phase is through; returns its target tokens.
    fn step(&mut self, watch: Option<&mut dyn FnMut(Phase)>) -> Result<u64, Trouble> {
        let mut learner = self.learner.take().ok_or(Trouble::Ended)?;
        learner.seed = Some(self.made as u64);
        let batches = &self.batches[self.made % self.batches.len()];
        self.made += 1;
        let clip_norm = self.lesson.optimizer.clip_norm;
        let device = self.device.clone().autodiff();
        let loss = &mut Loss::CrossEntropy;
        let (learner, update) = match watch {
            Some(watch) => learner.update_watched(batches, loss, 0.0, clip_norm, &device, watch)?,
            None => learner.update(batches, loss, 0.0, clip_norm, &device)?,
        };
        self.learner = Some(learner);
        match update.skipped {
            Some(what) if update.overflowed_at.is_none() => Err(Trouble::NotFinite(what)),
            _ => Ok(update.tokens),
        }
    }

    fn warm_up(&mut self) -> Result<WarmUp, Trouble> {
        let mut times: Vec<f64> = Vec::new();
        loop {
            let start = Instant::now();
            self.step(None)?;
            self.sync()?;
            times.push(start.elapsed().as_secs_f64());
            let steady = is_steady(&times);
            if steady || times.len() == MOST_WARM_UP {
                return Ok(WarmUp {
                    first_seconds: times[0],
                    steps: times.len(),
                    seconds: times.iter().sum(),
                    steady,
                });
            }
        }
    }

    fn throughput(&mut self, steps: usize) -> Result<Throughput, Trouble> {
        let start = Instant::now();
        let mut tokens = 0;
        for _ in 0..steps {
            tokens += self.step(None)?;
        }
        self.sync()?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Throughput {
            steps,
            seconds_per_step: seconds / steps as f64,
            tokens_per_second: tokens as f64 / seconds,
            flops_per_second: self.flops_per_step() * steps as f64 / seconds,
        })
    }

    fn profile(&mut self, steps: usize) -> Result<Profile, Trouble> {
        let mut sums = [0.0; PHASES.len()];
        let device = self.device.clone();
        let mut failed = Ok(());
        let mut last = Instant::now();
        let start = last;
        for _ in 0..steps {
            self.step(Some(&mut |phase| {
                if let Err(error) = device.sync() {
                    failed = Err(Trouble::Device(error.to_string()));
                }
                let now = Instant::now();
                if let Some(place) = PHASES.iter().position(|of| *of == phase) {
                    sums[place] += (now - last).as_secs_f64();
                }
                last = now;
            }))?;
        }
        let seconds = (last - start).as_secs_f64();
        failed?;
        let share = |(phase, seconds)| PhaseCost {
            phase,
            seconds: seconds / steps as f64,
        };
        Ok(Profile {
            steps,
            seconds_per_step: seconds / steps as f64,
            phases: PHASES.into_iter().zip(sums).map(share).collect(),
        })
    }
}

impl Stepper {
    /// Steps as in [`Stepper::throughput`], recorded; none on a device that CubeCL does not launch on.
    fn operations(&mut self, steps: usize) -> Result<Option<Operations>, Trouble> {
        let (_, recorded) = record(&self.device, || ());
        if recorded.is_none() {
            return Ok(None);
        }
        // The first step finds the device's events, or its queries, not made yet.
        self.record(1)?;
        let recording = self.record(steps)?;
        Ok(recording.map(|recording| Operations::of(&recording, steps)))
    }

    fn record(&mut self, steps: usize) -> Result<Option<Recording>, Trouble> {
        let device = self.device.clone();
        let (done, recording) = record(&device, || {
            for _ in 0..steps {
                self.step(None)?;
            }
            self.sync()
        });
        done.map(|()| recording)
    }

    /// The rates that the device reaches beside those of a step. The model is dropped for them.
    fn with_ceilings(
        self,
        operations: Option<Operations>,
        precision: Precision,
    ) -> Option<Operations> {
        let device = self.device.clone();
        drop(self);
        device.memory_cleanup();
        let mut operations = operations?;
        if operations.times.is_some() {
            // The step has been measured: what is missing without them is two rates.
            let found = catch_unwind(|| ceilings::measure(&device, precision.dtype()));
            operations.ceilings = found.unwrap_or(None);
        }
        Some(operations)
    }
}

/// Whether the last steps took the same time. The first never counts.
fn is_steady(times: &[f64]) -> bool {
    let Some(last) = times.len().checked_sub(STEADY_STEPS) else {
        return false;
    };
    let last = &times[last.max(1)..];
    let shortest = last.iter().copied().fold(f64::INFINITY, f64::min);
    let longest = last.iter().copied().fold(0.0, f64::max);
    last.len() == STEADY_STEPS && longest <= (1.0 + STEADY_SPREAD) * shortest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_are_three_alike_without_the_first() {
        assert!(!is_steady(&[]));
        assert!(!is_steady(&[1.0, 1.0, 1.0]));
        assert!(is_steady(&[1.0, 1.0, 1.0, 1.0]));
        assert!(is_steady(&[90.0, 1.0, 1.04, 1.02]));
        assert!(!is_steady(&[90.0, 1.0, 1.06, 1.02]));
        assert!(!is_steady(&[1.0, 1.0, 1.0, 2.0]));
    }
}
