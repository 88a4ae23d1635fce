//! Stages that take units out of the model.

use std::collections::BTreeMap;

use kiln_loader::TokenBatch;
use kiln_train::{Run, RunConfig, StoredModel};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Pipeline;
use super::work::Made;
use crate::CompressError;
use crate::apply::LayerFigures;
use crate::calibrate::Batches;
use crate::recipe::{Calibration, Importance, Part, Structured};
use crate::structured::units::{Site, sites};
use crate::structured::{
    Refusal, Shaped, best, cut, depth, figures, keep_layers, remaining, scores,
};

/// A stage of this number that takes units out.
#[derive(Clone, Copy)]
struct Cut {
    number: usize,
    work: Structured,
}

impl Cut {
    fn refused(&self, refusal: Refusal) -> CompressError {
        match refusal {
            Refusal::Form { tensor, found } => CompressError::Order {
                stage: self.number,
                layer: tensor.strip_suffix(".weight").unwrap_or(&tensor).into(),
                found,
                work: "taking units out of",
                why: "leave no whole groups, patterns or factors; this comes before all but `half`",
            },
            Refusal::Why(why) => self.why(why),
        }
    }

    fn why(&self, why: String) -> CompressError {
        CompressError::Part {
            stage: self.number,
            part: self.work.part.name(),
            why,
        }
    }

    /// The modules with units of the part.
    fn sites(&self, model: &Shaped) -> Result<Vec<Site>, CompressError> {
        let found = sites(&model.config, &model.tensors, self.work.part);
        match found.is_empty() {
            false => Ok(found),
            true => Err(self.why(match self.work.part {
                Part::Mlp => "the model has no MLP: leave this stage out".into(),
                _ => format!(
                    "none of the model's mixers {:?} has heads: leave this stage out",
                    model.config.pattern
                ),
            })),
        }
    }

    /// The model with the best units of every site.
    fn narrow(
        &self,
        model: &Shaped,
        sites: &[Site],
        scores: &[Vec<f64>],
    ) -> Result<(Shaped, Vec<LayerFigures>), CompressError> {
        let kept = sites.iter().zip(scores).map(|(site, scores)| {
            let count = remaining(site.units, &self.work)?;
            Ok(best(scores, count))
        });
        let kept: Vec<_> = kept
            .collect::<Result<_, _>>()
            .map_err(|why| self.refused(why))?;
        let after = cut(model, sites, &kept).map_err(|why| self.refused(why))?;
        let layers = figures(&model.tensors, &after, self.work.part, &[]);
        Ok((after, layers))
    }

    /// How many layers stay.
    fn layers(&self, model: &Shaped) -> Result<usize, CompressError> {
        remaining(model.config.backbone.n_layers, &self.work).map_err(|why| self.refused(why))
    }

    fn shallower(&self, model: &Shaped, kept: &[usize]) -> (Shaped, Vec<LayerFigures>) {
        let after = keep_layers(model, kept);
        let layers = figures(&model.tensors, &after, Part::Layers, kept);
        (after, layers)
    }
}

/// A stage whose units are worth their magnitude, or nothing.
///
/// # Errors
/// Units that are not there or cannot be taken out.
pub(super) fn without_text(
    number: usize,
    model: &Shaped,
    work: Structured,
    seed: u64,
) -> Result<(Shaped, Vec<LayerFigures>), CompressError> {
    let stage = Cut { number, work };
    if work.part == Part::Layers {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let layers = 0..model.config.backbone.n_layers;
        let scores: Vec<f64> = layers.map(|_| rng.random()).collect();
        let kept = best(&scores, stage.layers(model)?);
        return Ok(stage.shallower(model, &kept));
    }
    let sites = stage.sites(model)?;
    let scores = match work.importance {
        Importance::Magnitude => scores::magnitude(&model.tensors, &sites),
        _ => scores::random(&sites, seed),
    };
    stage.narrow(model, &sites, &scores)
}

impl Pipeline<'_> {
    /// Takes units out of the model of a run.
    pub(super) fn narrowed(
        &mut self,
        number: usize,
        before: &Run,
        stored: &StoredModel,
        work: Structured,
    ) -> Result<Made, CompressError> {
        let stage = Cut { number, work };
        let model = Shaped {
            config: before.config.model.clone(),
            tensors: stored.clone(),
        };
        let (recipe, config) = (self.recipe, &before.config);
        let calibration = &recipe.calibration;
        let device = self.request.device.device.clone();
        let seen = |batches: usize| (batches * calibration.batch * config.seq) as u64;
        let (tokens, (after, layers)) = match work.importance {
            Importance::Magnitude | Importance::Random => {
                (0, without_text(number, &model, work, calibration.seed)?)
            }
            Importance::Taylor => {
                let sites = stage.sites(&model)?;
                // What cannot be cut is told before it is scored.
                stage.narrow(&model, &sites, &scores::random(&sites, 0))?;
                // One by one: what one window needs and another does not would cancel in the gradient of both.
                let single = Calibration {
                    batch: 1,
                    ..calibration.clone()
                };
                let mut batches = Batches::new(self.calibration_source()?, config, &single)?;
                let scores = scores::taylor(&before.model, &sites, &mut batches, &device)?;
                (
                    (batches.count() * config.seq) as u64,
                    stage.narrow(&model, &sites, &scores)?,
                )
            }
            Importance::Loss if work.part != Part::Layers => {
                let sites = stage.sites(&model)?;
                stage.narrow(&model, &sites, &scores::random(&sites, 0))?;
                let windows = self.windows(config, calibration)?;
                let scores = scores::measured(&before.model, &sites, &windows, &device)?;
                (seen(windows.len()), stage.narrow(&model, &sites, &scores)?)
            }
            Importance::Loss | Importance::Cosine => {
                let stay = stage.layers(&model)?;
                let windows = self.windows(config, calibration)?;
                let kept = match work.importance {
                    Importance::Loss => depth::by_loss(&before.model, &windows, stay, &device)?,
                    _ => best(&depth::influence(&before.model, &windows, &device)?, stay),
                };
                (seen(windows.len()), stage.shallower(&model, &kept))
            }
        };
        Ok(Made {
            config: after.config,
            model: after.tensors,
            layers,
            alone: BTreeMap::new(),
            bits: Vec::new(),
            tokens,
        })
    }

    /// The batches of a calibration, all of them at once.
    fn windows(
        &mut self,
        config: &RunConfig,
        calibration: &Calibration,
    ) -> Result<Vec<TokenBatch>, CompressError> {
        let mut batches = Batches::new(self.calibration_source()?, config, calibration)?;
        let mut windows = Vec::new();
        while let Some(batch) = batches.next()? {
            windows.push(batch);
        }
        batches.check_variety()?;
        Ok(windows)
    }
}
