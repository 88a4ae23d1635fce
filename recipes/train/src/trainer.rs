//! The training loop: updates, evaluation, checkpoints, the end.

use std::time::Instant;

use burn::module::Module;
use kiln_loader::{Prefetcher, Split, TokenBatch};
use kiln_run::{Interrupt, Progress, format, hardware};

use crate::TrainError;
use crate::batch_loss::Loss;
use crate::evaluate::Score;
use crate::learner::{Learner, Rates, Update};
use crate::log::{Log, skip_mark};
use crate::objective::mix;
use crate::outcome::{HeldOut, Outcome, Stop};
use crate::probe::probe;
use crate::replicas::{Team, reserved};
use crate::setup::{Setup, stream};
use crate::state::{self, Position};
use crate::sweep::Choice;
use crate::tutor::Tutor;

/// Batches the background thread may be ahead.
const PREFETCH: usize = 4;

/// The loop of a run.
pub(crate) struct Loop<'a> {
    setup: &'a Setup,
    /// The replicas beside this one, if there are more devices.
    team: Option<Team>,
    tutor: Option<Tutor>,
    position: Position,
    log: Log,
    interrupt: Interrupt,
    started: Instant,
    /// Whether an evaluation had `train.target_accuracy`.
    reached: bool,
}

impl<'a> Loop<'a> {
    pub fn new(
        setup: &'a Setup,
        team: Option<Team>,
        tutor: Option<Tutor>,
        position: Position,
        log: Log,
        interrupt: Interrupt,
    ) -> Self {
        Self {
            setup,
            team,
            tutor,
            position,
            log,
            interrupt,
            started: Instant::now(),
            reached: false,
        }
    }

    /// Trains until something ends it.
    pub fn run(mut self, mut learner: Learner) -> Result<Outcome, TrainError> {
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
            let seed = mix(&[recipe.seed, stream::DROPOUT, step]);
            let reseed = || match &self.team {
                None => setup.device.seed(seed),
                Some(team) => team.reseed(seed),
            };
            let due = train.gradient_probe_every > 0
                && (step + 1).is_multiple_of(train.gradient_probe_every);
            let probed = match micro.first().filter(|_| due) {
                Some(batch) => {
                    let (seen, terms) = (learner.seen(), learner.terms);
                    Some(probe(&seen, batch, terms, &training, &reseed)?)
                }
                None => None,
            };
            reseed();
            learner.seed = Some(seed);
            let decay = recipe.schedule.fraction(step, steps, self.share_of_time());
            let rate = recipe.optimizer.learning_rate * decay;
            let rates = Rates {
                learning_rate: rate,
                clip_norm: recipe.optimizer.clip_norm,
                pruned: recipe
                    .prune
                    .as_ref()
                    .and_then(|prune| prune.due(step + 1, steps)),
            };
            let share = self.share(steps);
            let mut loss = match &mut self.tutor {
                Some(tutor) if tutor.is_asked() => Loss::Distill {
                    weight: tutor.config().weight_at(share),
                    tutor,
                },
                _ => Loss::CrossEntropy,
            };
            let began = Instant::now();
            let update;
            (learner, update) = match &self.team {
                None => learner.update_shared(&micro, &mut loss, rates, &training, None)?,
                Some(team) => {
                    let noted = (step + 1).is_multiple_of(train.log_every);
                    team.update(learner, &micro, rates, &training, (seed, noted))?
                }
            };
            if let Some(news) = learner.recorded.take_news() {
                self.log.message(&format!("step {step}: {news}"));
            }
            self.position.step = step + 1;
            self.position.tokens += update.tokens;
            self.position.loss_scale = learner.scale;
            self.position.elapsed_s = before + self.started.elapsed().as_secs_f64();
            skipped_in_a_row = self.count_skip(&update, skipped_in_a_row)?;
            if (step + 1).is_multiple_of(train.log_every) {
                let memory = match &self.team {
                    None => vec![reserved(&setup.device)],
                    Some(team) => team.memory(),
                };
                self.log.device_memory(&memory);
            }
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
            let due = at.is_multiple_of(train.checkpoint_every)
                || train.keep_at.contains(&at)
                || stop.is_some();
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
        // While weights still become zero, no model is what the recipe asks for.
        let prune = setup.recipe().prune.as_ref();
        let counts =
            prune.is_none_or(|prune| prune.is_done(self.position.step, setup.resolved.steps));
        let better = loss.is_finite() && self.position.best.is_none_or(|best| loss < best);
        let best = counts && better;
        if best {
            self.position.best = Some(loss);
            self.position.evals_since_best = 0;
        } else if counts {
            self.position.evals_since_best += 1;
        }
        let held_out = HeldOut {
            score,
            bits_per_byte: setup.data.bits_per_byte(Split::Validation, loss),
            word_perplexity: None,
            teacher: match &self.tutor {
                None => None,
                Some(tutor) => {
                    let choice = Choice::Crops {
                        batches: train.eval_batches,
                        seed,
                    };
                    let windows = &setup.data.validation;
                    let evaluator = setup.evaluator();
                    Some(evaluator.beside(&model, tutor, windows, train.batch, choice)?)
                }
            },
        };
        self.log.evaluation(&self.position, &held_out, best)?;
        Ok(best)
    }

    fn save(&mut self, learner: &Learner) -> Result<u64, TrainError> {
        let setup = self.setup;
        let began = Instant::now();
        if let Some(team) = &self.team {
            team.check_equal(learner, self.position.step)?;
        }
        let written = state::save_checkpoint(
            &setup.checkpoints,
            &learner.model,
            &learner.optimizer,
            &self.position,
        )?;
        let train = &setup.recipe().train;
        setup
            .checkpoints
            .prune(train.keep_checkpoints, &train.keep_at)?;
        let took = format::duration(began.elapsed().as_secs_f64());
        self.log.event(
            &self.position,
            &format!("checkpoint of {} in {took}", format::bytes(written.bytes())),
        )?;
        Ok(self.position.step)
    }
}
