//! The work of a stage: calibration, and the layers in the order in which they see each other.

use std::collections::BTreeMap;

use burn::module::Module;
use kiln_train::{Run, Source, Stored, StoredModel, load_stored};
use kiln_zoo::{LanguageModel, ModelConfig};

use super::Pipeline;
use crate::apply::{Calibrated, Job, LayerFigures};
use crate::calibrate::calibrate;
use crate::figures::BitsFigures;
use crate::recipe::{Selection, Stage, Work as Kind};
use crate::structured::Shaped;
use crate::{CompressError, Gram};

/// What came of the work of a stage.
pub(super) struct Made {
    /// The shape of the model, which may be another than before.
    pub config: ModelConfig,
    pub model: StoredModel,
    pub layers: Vec<LayerFigures>,
    /// Tensors that are others where they alone are changed.
    pub alone: BTreeMap<String, Stored>,
    /// What every number of bits would cost, where that decided.
    pub bits: Vec<BitsFigures>,
    /// Tokens of the calibration.
    pub tokens: u64,
}

impl Made {
    /// A model that no calibration went into.
    pub fn of(model: Shaped, layers: Vec<LayerFigures>) -> Self {
        Self {
            config: model.config,
            model: model.tensors,
            layers,
            alone: BTreeMap::new(),
            bits: Vec::new(),
            tokens: 0,
        }
    }
}

impl Pipeline<'_> {
    /// Does the work of a stage: at once, or block after block where each is calibrated behind those before it. None if it was
    /// interrupted.
    pub(super) fn made(
        &mut self,
        number: usize,
        before: &Run,
        stored: &StoredModel,
    ) -> Result<Option<Made>, CompressError> {
        let (stage, bits) = self.resolved(number, before, stored)?;
        let work = &stage.work;
        match work {
            Kind::Structured(work) => {
                return self.narrowed(number, before, stored, *work).map(Some);
            }
            Kind::Recover(work) => return self.recovered(number, before, stored, work),
            Kind::Distill(work) => return self.taught(number, before, stored, work),
            Kind::Rewind(work) => return self.rewound(number, before, stored, *work),
            Kind::Quantize(_)
            | Kind::Integer(_)
            | Kind::Float8
            | Kind::Prune(_)
            | Kind::LowRank(_)
            | Kind::Half => {}
        }
        let mut made = Made {
            config: before.config.model.clone(),
            model: stored.clone(),
            layers: Vec::new(),
            alone: BTreeMap::new(),
            bits,
            tokens: 0,
        };
        let readers = before.model.clone().norm_readers();
        let mut model = before.model.clone();
        for (place, names) in self.parts(number, stored)?.into_iter().enumerate() {
            if place > 0 {
                let (config, path) = (&before.config.model, before.folder().model());
                let device = &self.request.device.device;
                let made = load_stored(config, &made.model, &path, device)?.valid();
                model = made.with_precision(before.model.precision());
            }
            let grams = match work.is_calibrated() {
                true => {
                    let is_here = |name: &str| names.iter().any(|other| other == name);
                    self.calibrated(&model, &|name| is_here(name) && work.goes_by(name))?
                }
                false => Calibrated::new(),
            };
            let part = Stage {
                work: work.clone(),
                layers: Selection {
                    layers: names,
                    except: Vec::new(),
                },
            };
            let job = Job {
                number,
                stage: &part,
                grams: &grams,
            };
            let (after, layers) = match work {
                Kind::Integer(work) => {
                    let integers = job.integers(&made.model, *work, &readers)?;
                    made.alone.extend(integers.alone);
                    (integers.model, integers.layers)
                }
                _ => job.apply(&made.model)?,
            };
            made.model = after;
            made.layers.extend(layers);
            made.tokens = made
                .tokens
                .max(grams.values().map(Gram::tokens).max().unwrap_or(0));
        }
        Ok(Some(made))
    }

    /// Names of the layers of a stage that are worked on together, in their order.
    fn parts(
        &self,
        number: usize,
        stored: &StoredModel,
    ) -> Result<Vec<Vec<String>>, CompressError> {
        let stage = &self.recipe.stage[number - 1];
        let job = Job {
            number,
            stage,
            grams: &Calibrated::new(),
        };
        job.check_complex(stored)?;
        let layers = job.selected(stored)?.into_iter();
        let names = layers.map(|layer| layer.name).collect();
        let alone = !stage.work.is_calibrated() || matches!(stage.work, Kind::LowRank(_));
        Ok(match alone || !self.recipe.calibration.sequential {
            true => vec![names],
            false => by_block(names),
        })
    }

    pub(super) fn calibrated(
        &mut self,
        model: &LanguageModel,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Calibrated, CompressError> {
        let (calibration, run) = (&self.recipe.calibration, self.run);
        let device = &self.request.device.device;
        let source = self.calibration_source()?;
        calibrate(model, &run.config, source, calibration, wanted, device)
    }

    /// The text of the calibration, which is opened when it is first asked for.
    pub(super) fn calibration_source(&mut self) -> Result<&Source, CompressError> {
        let calibration = &self.recipe.calibration;
        if self.calibration.is_none() && !calibration.corpus.is_empty() {
            let recipe = self.run.data_recipe(Some(&calibration.corpus))?;
            self.calibration = Some(Source::open(&recipe, self.request.data, &mut self.view)?);
        }
        Ok(self.calibration.as_ref().unwrap_or(self.source))
    }
}

/// Layers of one block together, in the order in which a token passes them; what is in no block comes last.
fn by_block(names: Vec<String>) -> Vec<Vec<String>> {
    let block = |name: &str| -> usize {
        let number = name
            .strip_prefix("blocks.")
            .and_then(|rest| rest.split('.').next());
        number
            .and_then(|number| number.parse().ok())
            .unwrap_or(usize::MAX)
    };
    let mut blocks: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for name in names {
        blocks.entry(block(&name)).or_default().push(name);
    }
    blocks.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_in_the_order_of_the_model() {
        let names = [
            "blocks.0.mlp.up",
            "blocks.10.mlp.up",
            "blocks.2.mixer.gate",
            "blocks.2.mlp.up",
            "tokens",
            "head",
        ];
        let found = by_block(names.map(String::from).to_vec());
        assert_eq!(
            found,
            [
                vec!["blocks.0.mlp.up"],
                vec!["blocks.2.mixer.gate", "blocks.2.mlp.up"],
                vec!["blocks.10.mlp.up"],
                vec!["tokens", "head"],
            ]
        );
    }
}
