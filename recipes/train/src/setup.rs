//! What stays the same during a run: recipe, data, folder and device; and where a run starts from.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use kiln_loader::{Loader, LoaderConfig};
use kiln_run::hardware::{Hardware, Provenance};
use kiln_run::{Checkpoint, CheckpointStore, RunFolder, View};

use crate::TrainError;
use crate::data::{Data, Source};
use crate::evaluate::Evaluator;
use crate::init::{self, Start};
use crate::learner::Learner;
use crate::objective::mix;
use crate::projection;
use crate::recipe::{Resolved, TrainRecipe};
use crate::recorded::RecordedPasses;
use crate::scale::LossScale;
use crate::state::{self, Position};

/// Streams of random numbers that follow from one seed.
pub(crate) mod stream {
    pub const WEIGHTS: u64 = 1;
    pub const BATCHES: u64 = 2;
    pub const DROPOUT: u64 = 3;
    pub const EVALUATION: u64 = 4;
    pub const MASK: u64 = 5;
    pub const ADAPTERS: u64 = 6;
    pub const PROJECTIONS: u64 = 7;
    pub const MEASURE: u64 = 8;
}

/// The model that a run starts with, on `device` with autodiff.
///
/// # Errors
/// Those of building it, and of weights to start from.
pub(crate) fn first_model(
    resolved: &Resolved,
    source: &Source,
    device: &Device,
) -> Result<Start, TrainError> {
    let seed = mix(&[resolved.recipe.value.seed, stream::WEIGHTS]);
    let device = device.clone().autodiff();
    let mut start = init::start(resolved, Some(source), seed, &device)?;
    projection::add(resolved, &mut start.model, &device)?;
    Ok(start)
}

/// Seed of the windows that evaluations are of.
pub(crate) fn evaluation_seed(recipe: &TrainRecipe) -> u64 {
    mix(&[recipe.seed, stream::EVALUATION])
}

/// Everything that stays the same during a run.
pub(crate) struct Setup {
    pub resolved: Resolved,
    pub data: Data,
    pub folder: RunFolder,
    pub checkpoints: CheckpointStore,
    pub device: Device,
    pub device_name: String,
}

impl Setup {
    pub(crate) fn recipe(&self) -> &TrainRecipe {
        &self.resolved.recipe.value
    }

    /// Writes the resolved recipe and where the run comes from, before the first step.
    pub(crate) fn describe(
        &self,
        resume: bool,
        source: &Path,
        versions: BTreeMap<String, String>,
    ) -> Result<(), TrainError> {
        // A process killed before it wrote the recipe left nothing to compare with.
        if resume && self.folder.recipe().is_file() {
            crate::run::check_same_recipe(&self.folder, &self.resolved)?;
        }
        self.resolved.written_out()?.write(&self.folder.recipe())?;
        if !resume || !self.folder.provenance().is_file() {
            let hardware = Hardware::detect(Some(self.device_name.clone()));
            Provenance::gather(source, hardware, versions, self.recipe().seed)
                .write(&self.folder.provenance())?;
        }
        Ok(())
    }

    /// A learner of the model that a new run starts with, or the newest checkpoint's, and that.
    pub(crate) fn start(
        &self,
        new: Option<Start>,
        view: &mut View,
    ) -> Result<(Learner, Position, Option<Checkpoint>), TrainError> {
        if let Some(start) = new {
            let (learner, position) = self.fresh(start, view)?;
            return Ok((learner, position, None));
        }
        let training = self.device.clone().autodiff();
        let recovered = self.checkpoints.recover()?;
        for (step, error) in &recovered.damaged {
            view.message(&format!(
                "checkpoint of step {step} is damaged and was set aside: {error}"
            ));
        }
        let Some(checkpoint) = recovered.checkpoint else {
            if !recovered.damaged.is_empty() {
                return Err(TrainError::NothingToResume {
                    path: self.folder.path().into(),
                });
            }
            view.message("no checkpoint was written yet: starting from step 0");
            let start = first_model(&self.resolved, &self.data.source, &self.device)?;
            let (learner, position) = self.fresh(start, view)?;
            return Ok((learner, position, None));
        };
        let (learner, mut position) = self.restored(&checkpoint, &training)?;
        self.reconcile_best(&mut position)?;
        view.message(&format!("resuming after step {}", position.step));
        Ok((learner, position, Some(checkpoint)))
    }

    /// The same learner once more, on another device.
    pub(crate) fn replica(
        &self,
        checkpoint: Option<&Checkpoint>,
        device: &Device,
    ) -> Result<Learner, TrainError> {
        match checkpoint {
            Some(checkpoint) => Ok(self.restored(checkpoint, &device.clone().autodiff())?.0),
            None => {
                let start = first_model(&self.resolved, &self.data.source, device)?;
                match &self.recipe().rewind {
                    Some(config) => Ok(self.rewound(config, start)?.0),
                    None => Ok(self.learner(start)),
                }
            }
        }
    }

    /// The learner of a checkpoint.
    fn restored(
        &self,
        checkpoint: &Checkpoint,
        training: &Device,
    ) -> Result<(Learner, Position), TrainError> {
        // Groups of parameters follow from the model's shape, which may be that of a compressed run.
        let mut shape = init::shape(&self.resolved, training)?;
        projection::add(&self.resolved, &mut shape.model, training)?;
        let optimizer = self.recipe().optimizer.init(&shape.model);
        let restored = state::load_checkpoint(checkpoint, shape.model, optimizer)?;
        let learner = Learner {
            model: restored.model,
            optimizer: restored.optimizer,
            constraint: shape.constraint,
            scale: restored.position.loss_scale,
            terms: self.recipe().train.loss_terms(),
            recompute: self.recipe().train.recompute,
            seed: None,
            recorded: RecordedPasses::new(self.recipe().train.graph),
        };
        // What was zero is the smallest.
        let mut learner = learner.pruned(self.zeros_after(restored.position.step));
        let prune = self.recipe().prune.as_ref();
        if prune.is_some_and(|prune| prune.measured_on().is_some()) {
            learner.constraint.keep_zeros(&learner.model);
        }
        Ok((learner, restored.position))
    }

    /// A learner before its first step.
    fn fresh(&self, start: Start, view: &mut View) -> Result<(Learner, Position), TrainError> {
        if let Some(origin) = &start.origin {
            view.message(&format!("starting from {origin}"));
        }
        if let Some(config) = &self.recipe().rewind {
            view.message(&format!(
                "going back to step {} of {}",
                config.step,
                config.from.display()
            ));
            return self.rewound(config, start);
        }
        let position = Position {
            step: 0,
            tokens: 0,
            loader: self.loader()?.state(),
            best: None,
            evals_since_best: 0,
            skipped: 0,
            loss_scale: LossScale::of(self.recipe().precision),
            last_lost: false,
            elapsed_s: 0.0,
        };
        Ok((self.thinned(self.learner(start))?, position))
    }

    /// The share of zeros that `[prune]` has reached after so many steps.
    fn zeros_after(&self, step: u64) -> Option<f64> {
        let prune = self.recipe().prune.as_ref()?;
        prune.reached(step, self.resolved.steps)
    }

    fn learner(&self, start: Start) -> Learner {
        let learner = Learner {
            optimizer: self.recipe().optimizer.init(&start.model),
            model: start.model,
            constraint: start.constraint,
            scale: LossScale::of(self.recipe().precision),
            terms: self.recipe().train.loss_terms(),
            recompute: self.recipe().train.recompute,
            seed: None,
            recorded: RecordedPasses::new(self.recipe().train.graph),
        };
        learner.pruned(self.zeros_after(0))
    }

    /// Makes `best.json` and the restored position agree. A process killed between a checkpoint and its naming as the
    /// best leaves the older name; a best whose folder is gone must not win comparisons with nothing to show for it.
    fn reconcile_best(&self, position: &mut Position) -> Result<(), TrainError> {
        let named = self.checkpoints.best()?;
        match (position.best, named) {
            (Some(value), Some(best)) if best.value <= value => position.best = Some(best.value),
            // It was found by the evaluation just before this checkpoint.
            (Some(value), _) if position.evals_since_best == 0 => {
                self.checkpoints.set_best(position.step, value)?;
            }
            (_, best) => {
                position.best = best.map(|best| best.value);
                position.evals_since_best = 0;
            }
        }
        Ok(())
    }

    pub(crate) fn loader(&self) -> Result<Loader, TrainError> {
        let recipe = self.recipe();
        let config = LoaderConfig {
            batch: recipe.train.batch,
            order: recipe.train.order,
            seed: mix(&[recipe.seed, stream::BATCHES]),
        };
        Ok(Loader::new(Arc::clone(&self.data.train), config)?)
    }

    pub(crate) fn evaluation_seed(&self) -> u64 {
        evaluation_seed(self.recipe())
    }

    pub(crate) fn evaluator(&self) -> Evaluator<'_> {
        Evaluator {
            objective: self.recipe().objective,
            vocab: self.resolved.model.backbone.vocab_size,
            device: &self.device,
        }
    }
}
