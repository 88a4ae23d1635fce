//! Stages that train: a run of their own, which starts from the stage before in the form that it is stored in.

use std::path::{Path, absolute};

use kiln_run::recipe::Recipe;
use kiln_run::{FileError, RunFolder};
use kiln_train::{
    DistillConfig, InitConfig, OpenDevice, Run, ScheduleConfig, ScheduleKind, Stop, StoredModel,
    TrainRecipe, read_resolved,
};

use super::Pipeline;
use super::work::Made;
use crate::CompressError;
use crate::apply::{Calibrated, Job};
use crate::layers::layers;
use crate::recipe::Recover;
use crate::structured::Shaped;

/// Share of the steps that the learning rate rises over, and where it ends.
const WARM_UP: u64 = 20;
const FINAL_FRACTION: f64 = 0.1;
/// Checkpoints of a run, to go on from.
const CHECKPOINTS: u64 = 4;
/// Lines of its log.
const LINES: u64 = 50;
/// Tokens of its sample.
const SAMPLE: usize = 32;

/// Refuses packed weights that the stage does not train as such.
///
/// # Errors
/// [`CompressError::Trained`] naming the first.
pub(super) fn check_trainable(
    number: usize,
    model: &StoredModel,
    work: &Recover,
) -> Result<(), CompressError> {
    let rounded = work.quantize.as_ref().map(|config| config.selection());
    for layer in layers(model) {
        if model.tensors[&layer.tensor].is_packed()
            && !rounded.as_ref().is_some_and(|all| all.has(&layer.name))
        {
            return Err(CompressError::Trained {
                stage: number,
                layer: layer.name,
            });
        }
    }
    Ok(())
}

impl Pipeline<'_> {
    /// Trains the model of a run; none if that was interrupted.
    pub(super) fn recovered(
        &mut self,
        number: usize,
        before: &Run,
        stored: &StoredModel,
        work: &Recover,
    ) -> Result<Option<Made>, CompressError> {
        check_trainable(number, stored, work)?;
        let recipe = self.training(number, before, work)?;
        let after = self.trained(number, before, recipe)?;
        after
            .map(|after| self.alike(number, stored, after))
            .transpose()
    }

    /// A model whose tensors have the shapes that they had before the stage.
    pub(super) fn alike(
        &self,
        number: usize,
        stored: &StoredModel,
        after: Shaped,
    ) -> Result<Made, CompressError> {
        let job = Job {
            number,
            stage: &self.recipe.stage[number - 1],
            grams: &Calibrated::new(),
        };
        let layers = job.all_figures(stored, &after.tensors)?;
        Ok(Made::of(after, layers))
    }

    /// Trains the model of the stage before as a recipe says; none if that was interrupted.
    pub(super) fn trained(
        &mut self,
        number: usize,
        before: &Run,
        recipe: Recipe<TrainRecipe>,
    ) -> Result<Option<Shaped>, CompressError> {
        let (request, out) = (self.request, self.folder.training(number));
        let resume = is_of(&out, &before.config.weights);
        if !resume && out.exists() {
            std::fs::remove_dir_all(&out).map_err(FileError::io("remove", &out))?;
        }
        let outcome = kiln_train::train(kiln_train::Request {
            recipe,
            out: out.clone(),
            resume,
            device: OpenDevice {
                device: request.device.device.clone(),
                name: request.device.name.clone(),
            },
            beside: Vec::new(),
            teacher: None,
            data: request.data,
            source: request.source,
            versions: request.versions.clone(),
            view: request.view,
            interrupt: request.interrupt.clone(),
            energy: None,
        })?;
        if outcome.stop == Stop::Interrupted {
            return Ok(None);
        }
        let after = Run::open(&out, &request.device.device)?;
        Ok(Some(Shaped {
            config: after.config.model.clone(),
            tensors: after.stored()?,
        }))
    }

    /// The recipe of the training: the run's own, but for its length, its rate and where it starts.
    pub(super) fn training(
        &self,
        number: usize,
        before: &Run,
        work: &Recover,
    ) -> Result<Recipe<TrainRecipe>, CompressError> {
        let mut recipe = read_resolved(before.folder())?.recipe;
        let value = &mut recipe.value;
        value.description = format!("stage {number}: {work}");
        // Other batches than those that the run began with.
        value.seed = value.seed.wrapping_add(number as u64);
        value.data = before.data_recipe(None)?.data;
        value.init = Some(InitConfig {
            from: full(before.path())?,
            layers: None,
            fresh: Vec::new(),
            as_stored: true,
            weights: Some(before.config.weights.clone()),
        });
        value.distill = match work.distill {
            0.0 => None,
            weight => Some(DistillConfig {
                weight,
                temperature: work.temperature,
                weights: Some(self.run.config.weights.clone()),
                ..DistillConfig::new(full(self.run.path())?)
            }),
        };
        value.quantize.clone_from(&work.quantize);
        value.prune.clone_from(&work.prune);
        value.adapters.clone_from(&work.adapters);
        value.rewind = None;
        value.optimizer.learning_rate = work.learning_rate;
        value.schedule = ScheduleConfig {
            kind: ScheduleKind::Cosine,
            warmup_steps: work.steps / WARM_UP,
            final_fraction: FINAL_FRACTION,
            ..ScheduleConfig::default()
        };
        let train = &mut value.train;
        (train.steps, train.tokens, train.max_seconds) = (work.steps, 0, 0.0);
        if work.batch > 0 {
            train.batch = work.batch;
        }
        measured_by_the_stage(value, work.steps);
        Ok(recipe)
    }
}

/// Leaves to the stage what it does itself, in a training that ends with so many updates.
pub(super) fn measured_by_the_stage(recipe: &mut TrainRecipe, steps: u64) {
    let train = &mut recipe.train;
    // The last weights are taken: choosing among several by validation text would flatter the figures.
    train.eval_every = steps;
    train.checkpoint_every = steps.div_ceil(CHECKPOINTS);
    train.keep_checkpoints = 1;
    train.keep_at.clear();
    train.log_every = steps.div_ceil(LINES);
    (train.patience, train.target_accuracy) = (0, 0.0);
    (train.gradient_probe_every, train.final_sweep) = (0, false);
    recipe.sample.tokens = recipe.sample.tokens.min(SAMPLE);
}

/// Whether there is a training that started from these weights.
fn is_of(folder: &Path, weights: &str) -> bool {
    let started = || {
        let recipe = read_resolved(&RunFolder::open(folder).ok()?).ok()?.recipe;
        recipe.value.init?.weights
    };
    started().as_deref() == Some(weights)
}

/// A path that says the same wherever the compression is resumed from.
pub(super) fn full(path: &Path) -> Result<std::path::PathBuf, CompressError> {
    Ok(absolute(path).map_err(FileError::io("find", path))?)
}
