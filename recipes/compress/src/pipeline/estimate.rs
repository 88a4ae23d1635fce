//! What a compression would leave of a run, without calibration.

use burn::module::Module;
use kiln_quant::{Encoding, PackedFormat, PackedMatrix};
use kiln_train::{PruneConfig, QuantizeConfig, Run, Stored, StoredModel, TrainError};

use super::recover::check_trainable;
use super::rewind::check_rewindable;
use super::student;
use super::{auto, structure};
use crate::CompressError;
use crate::apply::{Calibrated, Job, LayerFigures};
use crate::layers::{Role, layers};
use crate::prune::Pattern;
use crate::recipe::{CompressRecipe, Prune, PruneMethod, Stage, Work};
use crate::structured::Shaped;

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
    let mut config = run.config.model.clone();
    for (index, stage) in recipe.stage.iter().enumerate() {
        let plain = stage.without_calibration();
        let layers;
        if let Work::Structured(work) = plain.work {
            let shaped = Shaped {
                config,
                tensors: model,
            };
            let seed = recipe.calibration.seed;
            let (after, figures) = structure::without_text(index + 1, &shaped, work, seed)?;
            (config, model, layers) = (after.config, after.tensors, figures);
        } else if let Work::Recover(work) = &plain.work {
            check_trainable(index + 1, &model, work)?;
            let before = model.clone();
            if let Some(config) = &work.quantize {
                pack(index + 1, &mut model, config)?;
            }
            if let Some(config) = &work.prune {
                model = thinned(index + 1, &model, config)?;
            }
            let job = Job {
                number: index + 1,
                stage: &plain,
                grams: &Calibrated::new(),
            };
            layers = job.all_figures(&before, &model)?;
        } else if let Work::Distill(work) = &plain.work {
            student::check_replaceable(index + 1, &model)?;
            let shape = student::shape(run, work)?;
            student::check_layers(work, &shape, &config)?;
            let device = run.model.devices().into_iter().next().unwrap_or_default();
            let untrained = shape.init(0, &device).map_err(TrainError::from)?;
            let after = Shaped {
                config: shape,
                tensors: StoredModel::zeros(&untrained),
            };
            layers = student::figures_of(&model, &after, work);
            (config, model) = (after.config, after.tensors);
        } else if let Work::Rewind(_) = plain.work {
            check_rewindable(index + 1, &run.stored()?, &model)?;
            layers = Vec::new();
        } else {
            // By what the weights lose, where a budget decides about bits: as many bytes are spent.
            let grams = Calibrated::new();
            let asked = Job {
                number: index + 1,
                stage,
                grams: &grams,
            };
            asked.check_complex(&model)?;
            let mut loss = |_: &StoredModel, figures: &LayerFigures| Ok(figures.weight_error);
            let (plain, _) = auto::resolved(index + 1, &model, &grams, &plain, &mut loss)?;
            let job = Job {
                number: index + 1,
                stage: &plain,
                grams: &grams,
            };
            (model, layers) = job.apply(&model)?;
        }
        estimates.push(Estimate {
            what: stage.work.to_string(),
            bytes: model.bytes(),
            layers,
        });
    }
    Ok(estimates)
}

/// As many zeros as training leaves, elsewhere.
fn thinned(
    number: usize,
    model: &StoredModel,
    config: &PruneConfig,
) -> Result<StoredModel, CompressError> {
    let stage = Stage {
        work: Work::Prune(Prune {
            pattern: Pattern::Unstructured {
                share: config.sparsity,
            },
            method: PruneMethod::Magnitude,
        }),
        layers: config.selection(),
    };
    let job = Job {
        number,
        stage: &stage,
        grams: &Calibrated::new(),
    };
    Ok(job.apply(model)?.0)
}

/// Packs every selected layer in the room that its codes will take; the codes are those of no weights.
fn pack(
    stage: usize,
    model: &mut StoredModel,
    config: &QuantizeConfig,
) -> Result<(), CompressError> {
    let selection = config.selection();
    let selected = layers(model).into_iter();
    for layer in selected.filter(|layer| selection.has(&layer.name)) {
        let codes = |format: PackedFormat| {
            let level = i16::from(format.encoding == Encoding::Sign);
            let scales = format.groups() * format.d_output;
            let zeros = vec![0; scales];
            let zeros = format.asymmetric.then_some(zeros.as_slice());
            let levels = vec![level; format.entries()];
            let packed = PackedMatrix::pack(format, &levels, &vec![1.0; scales], zeros);
            packed.map_err(|source| CompressError::Pack {
                stage,
                layer: layer.name.clone(),
                source,
            })
        };
        let dims = |stored: &Stored| [stored.shape()[0], stored.shape()[1]];
        let of = |stored: &Stored| codes(config.format(&layer.name, dims(stored)));
        let stored = &model.tensors[&layer.tensor];
        let packed = match (stored, layer.role) {
            (Stored::LowRank { first, second }, Role::Embedding) => {
                let [vocab, rank] = dims(first);
                let rows = codes(config.format(&layer.name, [rank, vocab]))?;
                Stored::LowRank {
                    first: Box::new(Stored::PackedRows(rows)),
                    second: second.clone(),
                }
            }
            (_, Role::Embedding) => {
                let [vocab, width] = dims(stored);
                Stored::PackedRows(codes(config.format(&layer.name, [width, vocab]))?)
            }
            (Stored::LowRank { first, second }, _) => Stored::LowRank {
                first: Box::new(Stored::Packed(of(first)?)),
                second: Box::new(Stored::Packed(of(second)?)),
            },
            _ => Stored::Packed(of(stored)?),
        };
        model.tensors.insert(layer.tensor, packed);
    }
    Ok(())
}
