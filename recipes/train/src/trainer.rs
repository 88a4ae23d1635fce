//! The training loop: updates, evaluation, checkpoints, the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::Module;
use kiln_loader::{Prefetcher, Split, TokenBatch};
use kiln_run::hardware;
use kiln_run::recipe::Recipe;
use kiln_run::{Interrupt, Mode, Progress, RunFolder, View, format};
use kiln_text::DataEnv;

use crate::data::{Data, Source};
use crate::device::check_precision;
use crate::evaluate::{Choice, Score};
use crate::init;
use crate::learner::{Learner, Loss, Update};
use crate::log::{Log, skip_mark};
use crate::objective::mix;
use crate::outcome::{HeldOut, Outcome, Stop};
use crate::probe::probe;
use crate::recipe::{Resolved, TrainRecipe};
use crate::run::read_resolved;
use crate::setup::{Setup, first_model, stream};
use crate::state::{self, Position};
use crate::tutor::Tutor;
use crate::{OpenDevice, TrainError};

/// Batches the background thread may be ahead.
const PREFETCH: usize = 4;

/// A run to be made.
pub struct Request<'a> {
    /// What to train.
    pub recipe: Recipe<TrainRecipe>,
    /// Run folder.
    pub out: PathBuf,
    /// Whether to go on from the newest checkpoint in `out`.
    pub resume: bool,
    /// Where to compute.
    pub device: OpenDevice,
    /// Where data comes from.
    pub data: &'a DataEnv,
    /// Folder of the source, for its commit.
    pub source: &'a Path,
    /// Versions of what the binary was built with, by name.
    pub versions: BTreeMap<String, String>,
    /// Face of the progress view.
    pub view: Mode,
    /// Asks for a clean stop.
    pub interrupt: Interrupt,
}

/// Trains a model as a recipe says, into a run folder.
///
/// # Errors
/// Any of [`TrainError`]; what was checkpointed before stays usable.
pub fn train(request: Request<'_>) -> Result<Outcome, TrainError> {
    request.recipe.value.validate()?;
    check_precision(&request.device.device, request.recipe.value.precision)?;
    // Before the data is prepared, which can take minutes.
    let started = match request.resume {
        true => written_recipe(&request.out)?,
        false => {
            RunFolder::check_free(&request.out)?;
            None
        }
    };
    let mut recipe = request.recipe;
    init::note_weights(&mut recipe.value, started.as_ref())?;
    let mut view = View::new(0, request.view);
    if let Some(shortcoming) = request.device.shortcoming() {
        view.message(&format!("note: {shortcoming}"));
    }
    let source = Source::open(&recipe.value, request.data, &mut view)?;
    let resolved = Resolved::new(recipe, source.vocab_size()?)?;
    let data = Data::new(source, resolved.seq)?;
    let mut tutor = Tutor::open(&resolved, &data.source, &request.device.device)?;
    // What the recipe's runs do not fit is found before there is a folder.
    let first = match request.resume {
        true => None,
        false => Some(first_model(
            &resolved,
            &data.source,
            &request.device.device,
        )?),
    };
    let folder = match request.resume {
        true => RunFolder::resume(&request.out)?,
        false => RunFolder::create(&request.out)?,
    };
    let setup = Setup {
        checkpoints: folder.checkpoints(),
        resolved,
        data,
        folder,
        device: request.device.device,
        device_name: request.device.name,
    };
    setup.describe(request.resume, request.source, request.versions)?;
    let (learner, position) = setup.start(first, &mut view)?;
    if let Some(tutor) = &mut tutor {
        let (windows, source) = (&setup.data.train, &setup.data.source);
        let caches = &request.data.cache_dir;
        if !tutor.prepare(windows, source, caches, &mut view, &request.interrupt)? {
            view.message("stopped as asked; go on with --resume");
            return Ok(Outcome {
                folder: setup.folder.path().into(),
                step: position.step,
                stop: Stop::Interrupted,
                result: None,
            });
        }
    }
    let log = Log::open(&setup, request.resume.then_some(position.step), view)?;
    Loop {
        setup: &setup,
        tutor,
        position,
        log,
        interrupt: request.interrupt,
        started: Instant::now(),
        reached: false,
    }
    .run(learner)
}

/// The recipe that a run was started with; none if it was killed before it wrote it.
fn written_recipe(out: &Path) -> Result<Option<TrainRecipe>, TrainError> {
    match RunFolder::open(out) {
        Ok(folder) => Ok(Some(read_resolved(&folder)?.recipe.value)),
        Err(_) => Ok(None),
    }
}

struct Loop<'a> {
    setup: &'a Setup,
    tutor: Option<Tutor>,
    position: Position,
    log: Log,
    interrupt: Interrupt,
    started: Instant,
    /// Whether an evaluation had `train.target_accuracy`.
    reached: bool,
}

impl Loop<'_> {
    fn run(mut self, mut learner: Learner) -> Result<Outcome, TrainError> {
        let setup = self.setup;
        let (recipe, steps) = (setup.recipe(), setup.resolved.steps);
        let (train, training) = (&recipe.train, setup.device.clone().autodiff());
        let mut loader = setup.loader()?;
        loader.restore(self.position.loader)?;
        let mut batches = Prefetcher::new(loader, PREFETCH);
        let before = self.position.elapsed_s;
        let mut skipped_in_a_row = 0;
        let mut saved = self.position.step;
        let mut stop = self.why_stop(steps);
        while stop.is_none() {
            let step = self.position.step;
            let micro = self.next_batches(&mut batches, step)?;
            // Dropout of a step follows from the seed and the step, so a resumed run draws the same.
            let reseed = || {
                let seed = mix(&[recipe.seed, stream::DROPOUT, step]);
                setup.device.seed(seed);
            };
            let due = train.gradient_probe_every > 0
                && (step + 1).is_multiple_of(train.gradient_probe_every);
            let probed = match micro.first().filter(|_| due) {
                Some(batch) => Some(probe(&learner.seen(), batch, &training, &reseed)?),
                None => None,
            };
            reseed();
            let decay = recipe.schedule.fraction(step, steps, self.share_of_time());
            let rate = recipe.optimizer.learning_rate * decay;
            let clip = recipe.optimizer.clip_norm;
            let share = self.share(steps);
            let mut loss = match &mut self.tutor {
                None => Loss::CrossEntropy,
                Some(tutor) => Loss::Distill {
                    weight: tutor.config().weight_at(share),
                    tutor,
                },
            };
            let began = Instant::now();
            let update;
            (learner, update) = learner.update(&micro, &mut loss, rate, clip, &training)?;
            self.position.step = step + 1;
            self.position.tokens += update.tokens;
            self.position.loss_scale = learner.scale;
            self.position.elapsed_s = before + self.started.elapsed().as_secs_f64();
            skipped_in_a_row = self.count_skip(&update, skipped_in_a_row)?;
            self.log.step(
                &self.position,
                &update,
                rate,
                began.elapsed(),
                self.progress(steps),
            )?;
            if let Some(probed) = &probed {
                self.log.probe(&self.position, probed)?;
            }
            let at = self.position.step;
            stop = self.why_stop(steps);
            // The last weights are the most decayed ones: they are scored however the run ends, unless someone waits.
            let last = stop.is_some_and(|stop| stop != Stop::Interrupted);
            if (last || at.is_multiple_of(train.eval_every)) && self.evaluate(&learner)? {
                saved = self.save(&learner)?;
                let best = self.position.best.unwrap_or(f64::MAX);
                setup.checkpoints.set_best(at, best)?;
            }
            stop = stop.or_else(|| self.why_stop(steps));
            let due = at.is_multiple_of(train.checkpoint_every) || stop.is_some();
            if due && saved != at {
                saved = self.save(&learner)?;
            }
        }
        let stop = stop.unwrap_or(Stop::Finished);
        let result = match stop {
            Stop::Interrupted => {
                self.log.message("stopped as asked; go on with --resume");
                None
            }
            _ => Some(crate::finish::finish(
                setup,
                self.tutor.as_ref(),
                &learner,
                &self.position,
                &mut self.log,
            )?),
        };
        self.log.close();
        Ok(Outcome {
            folder: setup.folder.path().into(),
            step: self.position.step,
            stop,
            result,
        })
    }

    /// The batches of one step, masked if the objective asks for it; the loader's position moves with them.
    fn next_batches(
        &mut self,
        batches: &mut Prefetcher,
        step: u64,
    ) -> Result<Vec<TokenBatch>, TrainError> {
        let recipe = self.setup.recipe();
        let vocab = self.setup.resolved.model.backbone.vocab_size;
        (0..recipe.train.accumulate)
            .map(|micro| {
                let (batch, after) = batches.next_batch()?.ok_or_else(|| {
                    TrainError::setting(
                        "train.order",
                        "sequential",
                        "training needs an order without end: crops, shuffled or fixed",
                    )
                })?;
                self.position.loader = after;
                let seed = mix(&[recipe.seed, stream::MASK, step, micro as u64]);
                Ok(recipe.objective.apply(batch, vocab, seed, 0))
            })
            .collect()
    }

    fn count_skip(&mut self, update: &Update, in_a_row: u32) -> Result<u32, TrainError> {
        let Some(what) = update.skipped else {
            return Ok(0);
        };
        self.position.skipped += 1;
        let step = self.position.step;
        if let Some(scale) = update.overflowed_at {
            let text = format!(
                "step {step} left out: the gradient overflowed f16 at a loss scale of {scale}, which is halved"
            );
            self.log.message(&text);
            self.log.event(&self.position, &text)?;
            return Ok(in_a_row);
        }
        let times = in_a_row + 1;
        let text = format!("{}{what} was not finite", skip_mark(step));
        self.log.message(&text);
        self.log.event(&self.position, &text)?;
        let allowed = self.setup.recipe().train.max_skipped;
        match times > allowed {
            true => Err(TrainError::NonFinite {
                step,
                what,
                times,
                allowed,
            }),
            false => Ok(times),
        }
    }

    /// Share of the run done: by steps, or by time if that is further.
    fn share(&self, steps: u64) -> f64 {
        self.share_of_time()
            .max(self.position.step as f64 / steps as f64)
    }

    /// Share of `train.max_seconds` that has passed; 0 without a limit.
    fn share_of_time(&self) -> f64 {
        match self.setup.recipe().train.max_seconds {
            0.0 => 0.0,
            limit => self.position.elapsed_s / limit,
        }
    }

    fn progress(&self, steps: u64) -> Progress {
        let done = self.share(steps);
        let elapsed = self.position.elapsed_s;
        Progress {
            step: self.position.step,
            total: steps,
            elapsed_s: elapsed,
            eta_s: (done > 0.01).then(|| elapsed * (1.0 - done) / done),
            memory_bytes: hardware::memory().resident,
            ..Default::default()
        }
    }

    fn why_stop(&self, steps: u64) -> Option<Stop> {
        let train = &self.setup.recipe().train;
        if self.interrupt.requested() {
            Some(Stop::Interrupted)
        } else if self.position.step >= steps {
            Some(Stop::Finished)
        } else if train.max_seconds > 0.0 && self.position.elapsed_s >= train.max_seconds {
            Some(Stop::OutOfTime)
        } else if self.reached {
            Some(Stop::Reached)
        } else if train.patience > 0 && self.position.evals_since_best >= train.patience {
            Some(Stop::NoProgress)
        } else {
            None
        }
    }

    /// Scores random windows of the validation split; true if this is the best yet.
    fn evaluate(&mut self, learner: &Learner) -> Result<bool, TrainError> {
        let setup = self.setup;
        let train = &setup.recipe().train;
        let seed = setup.evaluation_seed();
        let batches = [train.batch, train.eval_batches];
        let model = learner.seen().valid();
        let windows = setup
            .evaluator()
            .crops(&model, &setup.data.validation, batches, seed)?;
        let score = Score::total(&windows);
        let loss = score.loss();
        self.reached = train.target_accuracy > 0.0 && score.accuracy() >= train.target_accuracy;
        let best = loss.is_finite() && self.position.best.is_none_or(|best| loss < best);
        if best {
            self.position.best = Some(loss);
            self.position.evals_since_best = 0;
        } else {
            self.position.evals_since_best += 1;
        }
        let held_out = HeldOut {
            score,
            bits_per_byte: setup.data.bits_per_byte(Split::Validation, loss),
            teacher: match &self.tutor {
                None => None,
                Some(tutor) => {
                    let choice = Choice::Crops {
                        batches: train.eval_batches,
                        seed,
                    };
                    let models = [&model, tutor.model()];
                    let windows = &setup.data.validation;
                    let evaluator = setup.evaluator();
                    Some(evaluator.beside(models, windows, train.batch, choice)?)
                }
            },
        };
        self.log.evaluation(&self.position, &held_out, best)?;
        Ok(best)
    }

    fn save(&mut self, learner: &Learner) -> Result<u64, TrainError> {
        let setup = self.setup;
        let began = Instant::now();
        let written = state::save_checkpoint(
            &setup.checkpoints,
            &learner.model,
            &learner.optimizer,
            &self.position,
        )?;
        setup
            .checkpoints
            .prune(setup.recipe().train.keep_checkpoints, &[])?;
        let took = format::duration(began.elapsed().as_secs_f64());
        self.log.event(
            &self.position,
            &format!("checkpoint of {} in {took}", format::bytes(written.bytes())),
        )?;
        Ok(self.position.step)
    }
}
