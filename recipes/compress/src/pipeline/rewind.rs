//! Stages that go back: what is left of the weights returns to the original's checkpoint, and the original's training goes on from there
//! without the others (Frankle et al., arXiv 1912.05671; Renda et al., arXiv 2003.02389).

use kiln_run::recipe::Recipe;
use kiln_train::{InitConfig, RewindConfig, Run, Stored, StoredModel, TrainRecipe, read_resolved};

use super::Pipeline;
use super::recover::{full, measured_by_the_stage};
use super::work::Made;
use crate::CompressError;
use crate::layers::form;
use crate::recipe::Rewind;

/// Refuses a model whose tensors are not those of the original, pruned or not.
///
/// # Errors
/// [`CompressError::Order`] naming the first.
pub(super) fn check_rewindable(
    number: usize,
    original: &StoredModel,
    model: &StoredModel,
) -> Result<(), CompressError> {
    let refused = |tensor: &str, found| CompressError::Order {
        stage: number,
        layer: tensor.strip_suffix(".weight").unwrap_or(tensor).into(),
        found,
        work: "going back with",
        why: "find no such weights in the original's training; only pruned and dense ones of its shape were there",
    };
    for (tensor, stored) in &model.tensors {
        let known = original.tensors.get(tensor).map(Stored::shape);
        match stored {
            Stored::Float { .. } | Stored::Sparse(_) if known == Some(stored.shape()) => {}
            Stored::Float { .. } | Stored::Sparse(_) => {
                return Err(refused(tensor, "of another shape"));
            }
            other => return Err(refused(tensor, form(other))),
        }
    }
    let gone = original
        .tensors
        .keys()
        .find(|tensor| !model.tensors.contains_key(*tensor));
    match gone {
        Some(tensor) => Err(refused(tensor, "gone")),
        None => Ok(()),
    }
}

impl Pipeline<'_> {
    /// Trains the original once more from one of its checkpoints, with the zeros of a run; none if that was interrupted.
    pub(super) fn rewound(
        &mut self,
        number: usize,
        before: &Run,
        stored: &StoredModel,
        work: Rewind,
    ) -> Result<Option<Made>, CompressError> {
        check_rewindable(number, &self.run.stored()?, stored)?;
        let recipe = self.once_more(number, before, work)?;
        let after = self.trained(number, before, recipe)?;
        after
            .map(|after| self.alike(number, stored, after))
            .transpose()
    }

    /// The original's own recipe, so that rate and data go on as they did.
    fn once_more(
        &self,
        number: usize,
        before: &Run,
        work: Rewind,
    ) -> Result<Recipe<TrainRecipe>, CompressError> {
        let resolved = read_resolved(self.run.folder())?;
        let steps = resolved.steps;
        let mut recipe = resolved.recipe;
        let value = &mut recipe.value;
        value.description = format!("stage {number}: back to step {}", work.step);
        value.data = before.data_recipe(None)?.data;
        value.init = Some(InitConfig {
            from: full(before.path())?,
            layers: None,
            fresh: Vec::new(),
            as_stored: true,
            weights: Some(before.config.weights.clone()),
        });
        value.rewind = Some(RewindConfig {
            from: full(self.run.folder().path())?,
            step: work.step,
        });
        value.train.max_seconds = 0.0;
        measured_by_the_stage(value, steps);
        Ok(recipe)
    }
}
