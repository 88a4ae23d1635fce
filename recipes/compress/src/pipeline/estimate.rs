//! What a compression would leave of a run, without calibration.

use kiln_train::{Run, StoredModel};

use crate::CompressError;
use crate::apply::{Calibrated, Job, LayerFigures};
use crate::recipe::CompressRecipe;

/// What a stage would make of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// What would be done.
    pub what: String,
    /// Bytes of the weights in the file, scales and masks included.
    pub bytes: u64,
    /// Layers that it would work on.
    pub layers: Vec<LayerFigures>,
}

/// What every stage would leave of a run's weights, the original first: found by the methods that need no calibration, whose results
/// have the same size (but for the ranks that a whitened decomposition gives out, within the same budget).
///
/// # Errors
/// As [`compress`](crate::compress), for what shows without calibration: layers that cannot be, orders that cannot be.
pub fn estimate(recipe: &CompressRecipe, run: &Run) -> Result<Vec<Estimate>, CompressError> {
    recipe.check()?;
    let mut model: StoredModel = run.stored()?;
    let mut estimates = vec![Estimate {
        what: "original".into(),
        bytes: model.bytes(),
        layers: Vec::new(),
    }];
    for (index, stage) in recipe.stage.iter().enumerate() {
        let job = Job {
            number: index + 1,
            stage: &stage.without_calibration(),
            grams: &Calibrated::new(),
        };
        let layers;
        (model, layers) = job.apply(&model)?;
        estimates.push(Estimate {
            what: stage.work.to_string(),
            bytes: model.bytes(),
            layers,
        });
    }
    Ok(estimates)
}
