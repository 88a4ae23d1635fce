//! Stages that find out how many bits each layer gets.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;
use kiln_train::{DeviceBatch, Run, Selection, StoredModel, TrainError, load_stored};
use kiln_zoo::LanguageModel;

use super::Pipeline;
use crate::CompressError;
use crate::apply::{Calibrated, Job, LayerFigures};
use crate::bits::{Choice, allocate};
use crate::calibrate::Batches;
use crate::figures::BitsFigures;
use crate::judge::divergence;
use crate::quantize::Grid;
use crate::recipe::{Auto, Calibration, Quantize, Stage, Work};

/// The numbers of bits that a layer can get.
const BITS: [u8; 4] = [2, 3, 4, 8];

/// What a model loses with one layer changed.
type Loss<'a> = dyn FnMut(&StoredModel, &LayerFigures) -> Result<f64, CompressError> + 'a;

/// The stage with bits for each of its layers, and what every choice would cost and lose.
///
/// # Errors
/// A budget below the fewest bits, layers that cannot be quantized, and those of `loss`.
pub(super) fn resolved(
    number: usize,
    model: &StoredModel,
    grams: &Calibrated,
    stage: &Stage,
    loss: &mut Loss<'_>,
) -> Result<(Stage, Vec<BitsFigures>), CompressError> {
    let Work::Quantize(work) = &stage.work else {
        return Ok((stage.clone(), Vec::new()));
    };
    let Some(auto) = work.auto else {
        return Ok((stage.clone(), Vec::new()));
    };
    let (mut names, mut layers, mut entries) = (Vec::new(), Vec::new(), 0);
    for layer in job(number, stage, grams).selected(model)? {
        let mut choices = Vec::new();
        for bits in possible(work, &layer.name) {
            let stage = Stage {
                work: Work::Quantize(with_bits(work, bits)),
                layers: Selection {
                    layers: vec![layer.name.clone()],
                    except: Vec::new(),
                },
            };
            let (after, figures) = job(number, &stage, grams).apply(model)?;
            for figures in &figures {
                choices.push(Choice {
                    bits,
                    bytes: figures.bytes_after,
                    loss: loss(&after, figures)?,
                });
            }
        }
        let shape = model.tensors[&layer.tensor].shape();
        entries += shape.iter().product::<usize>() as u64;
        names.push(layer.name);
        layers.push(choices);
    }
    let chosen = allocate(&layers, (auto.budget * 4.0 * entries as f64) as u64);
    let chosen = chosen.ok_or_else(|| beyond(auto, &layers, entries))?;
    let mut bits_of = Vec::new();
    let mut figures = Vec::new();
    for ((name, choices), place) in names.into_iter().zip(layers).zip(chosen) {
        bits_of.push((name.clone(), choices[place].bits));
        figures.extend(choices.iter().enumerate().map(|(at, choice)| BitsFigures {
            layer: name.clone(),
            bits: choice.bits,
            bytes: choice.bytes,
            loss: choice.loss,
            chosen: at == place,
        }));
    }
    let stage = Stage {
        work: Work::Quantize(Quantize {
            auto: None,
            bits_of,
            ..work.clone()
        }),
        layers: stage.layers.clone(),
    };
    Ok((stage, figures))
}

fn job<'a>(number: usize, stage: &'a Stage, grams: &'a Calibrated) -> Job<'a> {
    Job {
        number,
        stage,
        grams,
    }
}

/// The bits that a layer can get: its own, where the recipe says them.
fn possible(work: &Quantize, layer: &str) -> Vec<u8> {
    match work.own_bits(layer) {
        Some(bits) => vec![bits],
        None => BITS.to_vec(),
    }
}

fn with_bits(work: &Quantize, bits: u8) -> Quantize {
    Quantize {
        auto: None,
        bits_of: Vec::new(),
        grid: Grid { bits, ..work.grid },
        ..work.clone()
    }
}

fn beyond(auto: Auto, layers: &[Vec<Choice>], entries: u64) -> CompressError {
    let least: u64 = layers
        .iter()
        .filter_map(|layer| layer.first())
        .map(|choice| choice.bytes)
        .sum();
    CompressError::Setting {
        key: "stage.budget",
        value: auto.budget.to_string(),
        why: format!(
            "the fewest bits already take {:.4} of the layers' bytes in 32 bits; give more, take larger groups, or leave layers out with `except`",
            least as f64 / (4.0 * entries as f64)
        ),
    }
}

/// Distributions of a model on text of the calibration.
struct Reference {
    batches: Vec<(DeviceBatch, Tensor<2>)>,
    tokens: usize,
}

impl Reference {
    /// Mean divergence of a model from it, in nats a token.
    fn divergence(&self, model: &LanguageModel) -> Result<f64, CompressError> {
        let mut sum = 0.0;
        for (batch, before) in &self.batches {
            let after = log_softmax(batch.logits(model).map_err(TrainError::from)?, 1);
            sum += divergence(before.clone(), after);
        }
        Ok(sum / self.tokens as f64)
    }
}

impl Pipeline<'_> {
    /// The stage of a number with bits for each of its layers, by how far each of them alone takes the model from what it is.
    pub(super) fn resolved(
        &mut self,
        number: usize,
        before: &Run,
        stored: &StoredModel,
    ) -> Result<(Stage, Vec<BitsFigures>), CompressError> {
        let stage = self.recipe.stage[number - 1].clone();
        let Work::Quantize(Quantize {
            auto: Some(auto), ..
        }) = stage.work
        else {
            return Ok((stage, Vec::new()));
        };
        self.view
            .message("measuring how many bits every layer needs");
        let grams = match stage.work.is_calibrated() {
            true => {
                let wanted = |name: &str| stage.layers.has(name) && stage.work.goes_by(name);
                self.calibrated(&before.model, &wanted)?
            }
            false => Calibrated::new(),
        };
        let reference = self.reference(before, auto)?;
        let path = before.folder().model();
        let device = &self.request.device.device;
        let mut loss = |model: &StoredModel, _: &LayerFigures| {
            let model = load_stored(&before.config.model, model, &path, device)?.valid();
            reference.divergence(&model.with_precision(before.model.precision()))
        };
        resolved(number, stored, &grams, &stage, &mut loss)
    }

    fn reference(&mut self, before: &Run, auto: Auto) -> Result<Reference, CompressError> {
        let calibration = Calibration {
            windows: auto.windows,
            ..self.recipe.calibration.clone()
        };
        let device = self.request.device.device.clone();
        let mut batches = Batches::new(self.calibration_source()?, &before.config, &calibration)?;
        let mut reference = Reference {
            batches: Vec::new(),
            tokens: 0,
        };
        while let Some(batch) = batches.next()? {
            let batch = DeviceBatch::new(&batch, &device);
            let before = batch.logits(&before.model).map_err(TrainError::from)?;
            let before = log_softmax(before, 1); // [counted, vocab]
            reference.tokens += before.dims()[0];
            reference.batches.push((batch, before));
        }
        batches.check_variety()?;
        Ok(reference)
    }
}
