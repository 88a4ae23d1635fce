//! `[rewind]`: a run that begins where another one was after some of its updates, with zeros that were found later (Frankle et al., arXiv
//! 1912.05671; Renda et al., arXiv 2003.02389).
//!
//! Weights, the optimizer's moments, the rate and the place in the data are those of the other run's checkpoint. With `[init]` and
//! `as_stored = true` what is zero in the run that it names stays zero: a lottery ticket.

use std::path::PathBuf;

use kiln_run::RunFolder;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::init::Start;
use crate::learner::Learner;
use crate::recipe::TrainRecipe;
use crate::recorded::RecordedPasses;
use crate::setup::Setup;
use crate::state::{self, Position};

/// Where a run begins, if not at its first update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewindConfig {
    /// Folder of the run to go back to, absolute or relative to where the command is given.
    pub from: PathBuf,
    /// Updates that it had made; a checkpoint that it kept (`train.keep_at`).
    pub step: u64,
}

impl RewindConfig {
    /// Checks it with the rest of the recipe.
    ///
    /// # Errors
    /// [`TrainError::Setting`]: nothing left to train, no model whose zeros are kept, and sections that change the form of the model.
    pub(crate) fn check(&self, recipe: &TrainRecipe) -> Result<(), TrainError> {
        let refused = |why: &str| Err(TrainError::setting("rewind.step", self.step, why));
        match recipe {
            _ if self.step == 0 => refused(
                "no run keeps a checkpoint before its first update: the same recipe and seed begin there without [rewind], or take step 1 or later",
            ),
            TrainRecipe { init: None, .. } => refused(
                "no weights are said to be zero: name the pruned run in [init] with `as_stored = true`, or leave [rewind] out",
            ),
            TrainRecipe {
                init: Some(init), ..
            } if !init.as_stored => refused(
                "[init] copies weights that would be overwritten: set `init.as_stored = true`, so that its zeros stay",
            ),
            TrainRecipe {
                quantize: Some(_), ..
            }
            | TrainRecipe { prune: Some(_), .. }
            | TrainRecipe {
                adapters: Some(_), ..
            } => refused(
                "[quantize], [prune] and [adapters] begin at the first update: leave them out of this run, and do that in one after it",
            ),
            _ => Ok(()),
        }
    }
}

impl Setup {
    /// A learner as `[rewind]` has it, with what the start keeps to.
    ///
    /// # Errors
    /// A run that is not there, a checkpoint that it did not keep or that is damaged, and one of another model.
    pub(crate) fn rewound(
        &self,
        config: &RewindConfig,
        start: Start,
    ) -> Result<(Learner, Position), TrainError> {
        let missing = |why: String| TrainError::setting("rewind.from", config.from.display(), why);
        let folder = RunFolder::open(&config.from).map_err(|error| missing(error.to_string()))?;
        let store = folder.checkpoints();
        let kept = store.list()?;
        if !kept.contains(&config.step) {
            let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
            return Err(TrainError::setting(
                "rewind.step",
                config.step,
                format!(
                    "{} has checkpoints of the steps {} only: take one of them, or train it again with --set train.keep_at=[{}]",
                    config.from.display(),
                    kept.join(", "),
                    config.step
                ),
            ));
        }
        let checkpoint = store.load(config.step)?;
        let optimizer = self.recipe().optimizer.init(&start.model);
        let restored = state::load_checkpoint(&checkpoint, start.model, optimizer)?;
        let learner = Learner {
            // What is zero in the ticket was none at this step.
            model: start.constraint.keep(restored.model),
            optimizer: restored.optimizer,
            constraint: start.constraint,
            scale: restored.position.loss_scale,
            terms: self.recipe().train.loss_terms(),
            recompute: self.recipe().train.recompute,
            seed: None,
            recorded: RecordedPasses::new(self.recipe().train.graph),
        };
        let position = Position {
            // Of a model that was not this one.
            best: None,
            evals_since_best: 0,
            elapsed_s: 0.0,
            ..restored.position
        };
        Ok((learner, position))
    }
}
