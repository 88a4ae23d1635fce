//! A compression from the run that it starts from to the smaller one: stage by stage, each with a run folder of its own.

mod auto;
mod estimate;
mod folder;
mod recover;
mod rewind;
mod structure;
mod student;
mod work;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::Module;
use kiln_cost::{Decoding, decoding};
use kiln_run::recipe::Recipe;
use kiln_run::{Interrupt, Mode, RunFolder, View};
use kiln_text::DataEnv;
use kiln_train::{OpenDevice, Run, Source, StoredModel, load_stored};

use crate::apply::LayerFigures;
use crate::figures::{BitsFigures, COMPRESS_VERSION, Compression, StageFigures};
use crate::judge::Judge;
use crate::recipe::CompressRecipe;
use crate::{CompressError, page};
pub use estimate::{Estimate, estimate};
use folder::Folder;
use work::Made;

/// Tokens before decoding is timed.
const PROMPT: usize = 64;

/// A compression to be made.
pub struct Request<'a> {
    /// What to do.
    pub recipe: Recipe<CompressRecipe>,
    /// Folder of the smaller run, with the stages below.
    pub out: PathBuf,
    /// Whether to go on with the first stage of `out` that was not finished.
    pub resume: bool,
    /// Where to compute.
    pub device: &'a OpenDevice,
    /// Where data comes from.
    pub data: &'a DataEnv,
    /// Folder of the source, for its commit.
    pub source: &'a Path,
    /// Versions of what the binary was built with, by name.
    pub versions: BTreeMap<String, String>,
    /// Face of the progress view.
    pub view: Mode,
    /// Asks for a clean stop.
    pub interrupt: Interrupt,
}

/// How a compression ended.
pub struct Outcome {
    /// Its folder.
    pub folder: PathBuf,
    /// What there is so far.
    pub compression: Compression,
    /// Whether it was stopped before its last stage.
    pub interrupted: bool,
}

/// Compresses a run as a recipe says.
///
/// # Errors
/// Any of [`CompressError`]; the stages before stay usable, and the run itself is not changed.
pub fn compress(request: Request<'_>) -> Result<Outcome, CompressError> {
    let recipe = &request.recipe.value;
    recipe.check()?;
    if !request.resume {
        RunFolder::check_free(&request.out)?;
    }
    let mut view = View::new(0, request.view);
    let device = &request.device.device;
    let run = Run::open(Path::new(&recipe.from), device)?;
    check_weights(&run)?;
    let works: Vec<_> = recipe.stage.iter().map(|stage| &stage.work).collect();
    student::check_shapes(&run, &works)?;
    let source = Source::open(&run.data_recipe(None)?, request.data, &mut view)?;
    let folder = match request.resume {
        true => Folder::resume(&request, &run)?,
        false => Folder::create(&request, &run)?,
    };
    let mut pipeline = Pipeline {
        recipe,
        run: &run,
        source: &source,
        calibration: None,
        request: &request,
        folder: &folder,
        view,
    };
    let original = pipeline.original()?;
    let mut compression = Compression {
        version: COMPRESS_VERSION,
        name: request.recipe.name.clone(),
        recipe: recipe.clone(),
        corpus: run.config.corpus.clone(),
        original,
        stages: Vec::new(),
    };
    for number in 1..=recipe.stage.len() {
        let figures = match folder.finished(number)? {
            Some(figures) => figures,
            None if request.interrupt.requested() => break,
            None => match pipeline.stage(number)? {
                Some(figures) => figures,
                None => break,
            },
        };
        compression.stages.push(figures);
    }
    let interrupted = compression.stages.len() < recipe.stage.len();
    if !interrupted {
        folder.finish(&compression)?;
        page::write(&compression, &folder.report())?;
    }
    Ok(Outcome {
        folder: request.out.clone(),
        compression,
        interrupted,
    })
}

/// Weights that are no numbers are told by name before anything is written.
fn check_weights(run: &Run) -> Result<(), CompressError> {
    for (tensor, stored) in &run.stored()?.tensors {
        let values = stored.values();
        if let Some(place) = values.iter().position(|value| !value.is_finite()) {
            return Err(CompressError::WeightNotFinite {
                run: run.folder().path().into(),
                tensor: tensor.clone(),
                value: values[place],
                place,
            });
        }
    }
    Ok(())
}

struct Pipeline<'a> {
    recipe: &'a CompressRecipe,
    run: &'a Run,
    source: &'a Source,
    /// The text of the calibration, where it is another.
    calibration: Option<Source>,
    request: &'a Request<'a>,
    folder: &'a Folder,
    view: View,
}

/// What a stage took.
struct Work {
    what: String,
    seconds: f64,
    calibration_tokens: u64,
    layers: Vec<LayerFigures>,
    bits: Vec<BitsFigures>,
}

impl Pipeline<'_> {
    /// The figures of the original, from an earlier start if there is one.
    fn original(&mut self) -> Result<StageFigures, CompressError> {
        if let Some(figures) = self.folder.finished(0)? {
            return match figures.weights == self.run.config.weights {
                true => Ok(figures),
                false => Err(CompressError::SourceChanged {
                    path: self.run.folder().path().into(),
                }),
            };
        }
        self.view.message("scoring the original");
        let work = Work {
            what: "original".into(),
            seconds: 0.0,
            calibration_tokens: 0,
            layers: Vec::new(),
            bits: Vec::new(),
        };
        let figures = self.measured(0, self.run, work)?;
        self.folder.write(&figures)?;
        Ok(figures)
    }

    /// Makes a stage of the one before, writes its run, opens that again and measures it. None if it was interrupted.
    fn stage(&mut self, number: usize) -> Result<Option<StageFigures>, CompressError> {
        let device = &self.request.device.device;
        let opened;
        let before = match number {
            1 => self.run,
            _ => {
                opened = Run::open(&self.folder.stage(number - 1), device)?;
                &opened
            }
        };
        let stage = &self.recipe.stage[number - 1];
        let what = stage.work.to_string();
        let total = self.recipe.stage.len();
        self.view
            .message(&format!("stage {number} of {total}: {what}"));
        let start = Instant::now();
        let stored = before.stored()?;
        let Some(made) = self.made(number, before, &stored)? else {
            return Ok(None);
        };
        let Made {
            config,
            model,
            mut layers,
            alone,
            bits,
            tokens,
        } = made;
        let seconds = start.elapsed().as_secs_f64();
        // A layer of another shape cannot be changed alone.
        if !stage.work.is_whole() {
            let changed = StoredModel {
                tensors: model.tensors.clone().into_iter().chain(alone).collect(),
            };
            self.sensitivities(before, &stored, &changed, &mut layers)?;
        }
        let work = Work {
            what,
            seconds,
            calibration_tokens: tokens,
            layers,
            bits,
        };
        self.folder.write_run(number, before, &config, &model)?;
        let after = Run::open(&self.folder.stage(number), device)?;
        let figures = self.measured(number, &after, work)?;
        self.folder.write(&figures)?;
        Ok(Some(figures))
    }

    fn measured(
        &self,
        number: usize,
        run: &Run,
        work: Work,
    ) -> Result<StageFigures, CompressError> {
        let judge = self.judge(self.run, self.recipe.measure.windows);
        let (quality, windows) = judge.quality(&run.model)?;
        if !quality.loss.is_finite() {
            return Err(CompressError::NotFinite { stage: number });
        }
        if number > 0 {
            self.folder.write_windows(number, &windows)?;
        }
        let decoding = self.decoding(run)?;
        Ok(StageFigures {
            version: COMPRESS_VERSION,
            number,
            what: work.what,
            seconds: work.seconds,
            calibration_tokens: work.calibration_tokens,
            file_bytes: folder::file_bytes(run.folder())?,
            memory_bytes: run.model.weight_bytes(),
            weights: run.config.weights.clone(),
            quality,
            decode: decoding.map(|decoding| decoding.warm),
            cold: decoding.map(|decoding| decoding.cold),
            layers: work.layers,
            bits: work.bits,
        })
    }

    /// Scores against the model of a run on so many windows.
    fn judge<'a>(&'a self, against: &'a Run, windows: usize) -> Judge<'a> {
        Judge {
            config: &self.run.config,
            original: &against.model,
            source: self.source,
            sizes: [self.recipe.measure.batch, windows],
            device: &self.request.device.device,
        }
    }

    /// How far each layer alone takes the model from what it was before the stage.
    fn sensitivities(
        &mut self,
        before: &Run,
        stored: &StoredModel,
        after: &StoredModel,
        layers: &mut [LayerFigures],
    ) -> Result<(), CompressError> {
        let windows = self.recipe.measure.sensitivity_windows;
        if windows == 0 {
            return Ok(());
        }
        self.view
            .message(&format!("measuring {} layers one by one", layers.len()));
        let judge = self.judge(before, windows);
        let path = before.folder().model();
        for figures in layers {
            let mut alone = stored.clone();
            let changed = after.tensors[&figures.tensor].clone();
            alone.tensors.insert(figures.tensor.clone(), changed);
            let model = load_stored(&before.config.model, &alone, &path, judge.device)?.valid();
            let model = model.with_precision(before.model.precision());
            figures.sensitivity = Some(judge.quality(&model)?.0.divergence);
        }
        Ok(())
    }

    fn decoding(&self, run: &Run) -> Result<Option<Decoding>, CompressError> {
        let seconds = self.recipe.measure.decode_seconds;
        if seconds == 0.0 {
            return Ok(None);
        }
        // Learned positions must leave room for what is decoded.
        let length = PROMPT.min(run.config.seq / 2).max(1);
        let device = self.request.device;
        Ok(decoding(run.folder().path(), device, length, seconds)?)
    }
}
