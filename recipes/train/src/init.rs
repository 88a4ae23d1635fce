//! `[init]`: a model that starts from the weights of a finished run.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kiln_distill::DistillConfig;
use kiln_run::RunFolder;
use kiln_zoo::{Graft, LanguageModel, MixerKind, ModelConfig, Part, Precision, transplant};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::constraint::Constraint;
use crate::data::Source;
use crate::objective::mix;
use crate::quantize::QuantizeConfig;
use crate::recipe::{Resolved, TrainRecipe};
use crate::run::{Run, read_config};
use crate::setup::stream;
use crate::state::{RunConfig, load_stored};
use crate::storage::StoredModel;

/// Weights to start from, in place of random ones. The optimizer starts anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitConfig {
    /// Folder of a finished run, absolute or relative to where the command is given.
    pub from: PathBuf,
    /// The run's layer that each layer takes its weights from; without it, the one of its own number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
    /// Parts that keep random weights. A mixer of another kind than the run's has random weights in any case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fresh: Vec<Part>,
    /// Whether the model is taken whole and in the form that the run stores it in: pruned weights stay zero, factors stay factors,
    /// and what comes of it is stored alike. Packed weights have to be trained as such, by `[quantize]`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_stored: bool,
    /// SHA-256 of the run's weights. Written into the run folder; where a recipe states it, other weights are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
}

/// A finished run that a recipe names.
pub(crate) struct Named<'a> {
    /// Dotted key of its path.
    pub key: &'static str,
    /// Its folder.
    pub path: &'a Path,
    /// SHA-256 that its weights must have, if the recipe says so.
    pub weights: Option<&'a str>,
}

impl Named<'_> {
    /// Opens it, computing in a precision, or in the one that it was trained in.
    ///
    /// # Errors
    /// [`TrainError::Setting`] if it is not there or not finished, or its weights are not the wanted ones.
    pub(crate) fn open_in(
        &self,
        device: &Device,
        precision: Option<Precision>,
    ) -> Result<Run, TrainError> {
        let run =
            Run::open_in(self.path, device, precision).map_err(|error| self.missing(&error))?;
        self.check_weights(&run.config)?;
        Ok(run)
    }

    /// SHA-256 of its weights, as it says itself; they are not read.
    ///
    /// # Errors
    /// As [`Named::open_in`].
    pub(crate) fn find_weights(&self) -> Result<String, TrainError> {
        let config = RunFolder::open(self.path)
            .map_err(TrainError::from)
            .and_then(|folder| read_config(&folder))
            .map_err(|error| self.missing(&error))?;
        self.check_weights(&config)?;
        Ok(config.weights)
    }

    fn check_weights(&self, config: &RunConfig) -> Result<(), TrainError> {
        let found = &config.weights;
        match self.weights {
            Some(wanted) if wanted != found => Err(self.refused(format!(
                "its weights have the sha256 {found}, and the recipe asks for {wanted}: put the right run back, or leave `weights` out"
            ))),
            _ => Ok(()),
        }
    }

    fn missing(&self, error: &TrainError) -> TrainError {
        self.refused(format!(
            "it cannot be opened as a finished run: {error}. Train one with --out {}, or name the folder of another",
            self.path.display()
        ))
    }

    /// The run is there and will not do.
    pub(crate) fn refused(&self, why: String) -> TrainError {
        TrainError::setting(self.key, self.path.display(), why)
    }

    /// Refuses a run whose token ids mean something else than those of `source`.
    ///
    /// # Errors
    /// [`TrainError::Setting`] naming both vocabularies.
    pub(crate) fn check_tokens(&self, run: &Run, source: &Source) -> Result<(), TrainError> {
        let named = |hash: Option<&str>| match hash {
            Some(hash) => format!("the tokenizer {}", hash.get(..12).unwrap_or(hash)),
            None => "the symbols of a task".into(),
        };
        let own = source.text().map(|text| text.tokenizer.hash().to_string());
        let of_run = run.config.tokenizer.as_deref();
        if own.as_deref() == of_run {
            return Ok(());
        }
        Err(self.refused(format!(
            "it reads {} and this recipe {}, so the same id is another token: take its tokenizer with `data.tokenizer = \"file:{}\"`, or a run that has this one",
            named(of_run),
            named(own.as_deref()),
            run.tokenizer_path().display()
        )))
    }
}

impl InitConfig {
    pub(crate) fn run(&self) -> Named<'_> {
        Named {
            key: "init.from",
            path: &self.from,
            weights: self.weights.as_deref(),
        }
    }
}

/// The run that `[distill]` names.
pub(crate) fn teacher(distill: &DistillConfig) -> Named<'_> {
    Named {
        key: "distill.teacher",
        path: &distill.teacher,
        weights: distill.weights.as_deref(),
    }
}

/// What a model starts with.
pub(crate) struct Start {
    pub model: LanguageModel,
    /// Where its weights come from, in words; none if they are random.
    pub origin: Option<String>,
    /// What its weights keep to.
    pub constraint: Constraint,
}

/// The model of a recipe as it is before the first step: random weights of `seed`, and those of the run that `[init]` names. With
/// `source`, the tokens of both are compared.
///
/// # Errors
/// Those of building the model; a run that cannot be opened or whose weights do not fit.
pub(crate) fn start(
    resolved: &Resolved,
    source: Option<&Source>,
    seed: u64,
    device: &Device,
) -> Result<Start, TrainError> {
    let mut start = unrounded(resolved, source, seed, device)?;
    // Here, so that a model has it wherever its weights came from.
    start.model = start.model.with_precision(resolved.recipe.value.precision);
    start.constrained(&resolved.recipe.value)
}

impl Start {
    /// The model with what the recipe has its weights keep to.
    fn constrained(mut self, recipe: &TrainRecipe) -> Result<Self, TrainError> {
        self.model.learned.clear();
        if let Some(config) = &recipe.adapters {
            let seed = mix(&[recipe.seed, stream::ADAPTERS]);
            self.constraint = self.constraint.adapting(config, &mut self.model, seed)?;
        }
        if let Some(config) = &recipe.prune {
            self.constraint = self.constraint.pruning(config, &mut self.model)?;
        }
        if let Some(config) = &recipe.quantize {
            self.constraint = self.constraint.rounding(config, &mut self.model)?;
        }
        Ok(self)
    }
}

/// A model of the recipe's shape, for weights of a checkpoint, and what they keep to.
///
/// # Errors
/// Those of building it; of a model in the form of a run, those of opening that.
pub(crate) fn shape(resolved: &Resolved, device: &Device) -> Result<Start, TrainError> {
    let recipe = &resolved.recipe.value;
    if recipe.init.as_ref().is_some_and(|init| init.as_stored) {
        return start(resolved, None, 0, device);
    }
    let model = resolved.model.init(0, device)?;
    let start = Start {
        model: model.with_precision(recipe.precision),
        origin: None,
        constraint: Constraint::default(),
    };
    start.constrained(recipe)
}

/// The same before anything is said of rounded weights.
fn unrounded(
    resolved: &Resolved,
    source: Option<&Source>,
    seed: u64,
    device: &Device,
) -> Result<Start, TrainError> {
    let model = resolved.model.init(seed, device)?;
    let constraint = Constraint::default();
    let Some(init) = &resolved.recipe.value.init else {
        let origin = None;
        return Ok(Start {
            model,
            origin,
            constraint,
        });
    };
    let named = init.run();
    // Its weights are wanted, whatever it computes in.
    let run = named.open_in(&device.clone().inner(), Some(Precision::F32))?;
    if let Some(source) = source.filter(|_| !init.fresh.contains(&Part::Embedding)) {
        named.check_tokens(&run, source)?;
    }
    if !init.fresh.contains(&Part::Mixers) {
        check_heads(&named, &resolved.model, &run.config.model)?;
    }
    if init.as_stored {
        let stored = trainable(
            &named,
            run.stored()?,
            resolved.recipe.value.quantize.as_ref(),
        )?;
        let path = run.folder().model();
        let loaded = load_stored(&resolved.model, &stored, &path, device);
        let mut model = loaded.map_err(|error| named.refused(error.to_string()))?;
        let constraint = Constraint::of_stored(&stored, &mut model, device);
        return Ok(Start {
            model,
            origin: Some(format!(
                "the model of {} as it is stored",
                init.from.display()
            )),
            constraint,
        });
    }
    let graft = Graft {
        layers: init.layers.clone(),
        fresh: init.fresh.clone(),
    };
    let done =
        transplant(model, &run.model, &graft).map_err(|error| named.refused(error.to_string()))?;
    let mut origin = format!("{} weights of {}", done.taken, init.from.display());
    let layers = |layers: &[usize]| {
        let numbers: Vec<_> = layers.iter().map(ToString::to_string).collect();
        numbers.join(", ")
    };
    if !done.other_mixers.is_empty() {
        origin += &format!("; random mixers in layers {}", layers(&done.other_mixers));
    }
    if !done.left.is_empty() {
        origin += &format!("; without its {}", done.left.join(", "));
    }
    Ok(Start {
        model: done.model,
        origin: Some(origin),
        constraint,
    })
}

/// A model with numbers in the place of the packed weights that are rounded in training; other packed weights cannot be trained.
fn trainable(
    named: &Named<'_>,
    mut stored: StoredModel,
    quantize: Option<&QuantizeConfig>,
) -> Result<StoredModel, TrainError> {
    let rounded = quantize.map(QuantizeConfig::selection);
    for (tensor, weights) in &mut stored.tensors {
        let layer = tensor.strip_suffix(".weight").unwrap_or(tensor);
        if !weights.is_packed() {
            continue;
        }
        if !rounded.as_ref().is_some_and(|layers| layers.has(layer)) {
            return Err(named.refused(format!(
                "its `{layer}` is packed, and codes are not trained: train before quantizing, or train the layer with rounded weights by `[quantize]` (in a compression by a `qat` stage)"
            )));
        }
        *weights = weights.unpacked();
    }
    Ok(stored)
}

/// Projections of attention have the same shape however many heads they are for: another number would read them otherwise.
fn check_heads(
    named: &Named<'_>,
    student: &ModelConfig,
    teacher: &ModelConfig,
) -> Result<(), TrainError> {
    let has = |model: &ModelConfig| model.pattern.contains(&MixerKind::Attention);
    if !has(student) || !has(teacher) {
        return Ok(());
    }
    let heads = |model: &ModelConfig| {
        let attention = &model.attention;
        (
            attention.heads,
            attention.head_width(&model.backbone),
            attention.rope,
            attention.rope_base.to_bits(),
        )
    };
    match heads(student) == heads(teacher) {
        true => Ok(()),
        false => Err(named.refused(
            "its attention has other `heads`, `d_head`, `rope` or `rope_base` than this model's, and its weights would be read otherwise: make them equal, or leave the mixers fresh with `fresh = [\"mixers\"]`".into(),
        )),
    }
}

impl TrainRecipe {
    /// What is wrong with the finished runs that the recipe names; their weights are not read.
    pub fn missing_runs(&self) -> Vec<TrainError> {
        let init = self.init.as_ref().map(InitConfig::run);
        let named = init.into_iter().chain(self.distill.as_ref().map(teacher));
        named.filter_map(|run| run.find_weights().err()).collect()
    }

    /// Fills in which weights the runs have that the recipe names, of those that are there.
    pub fn note_weights_found(&mut self) {
        if let Some(init) = &mut self.init {
            let found = init.run().find_weights().ok();
            init.weights = init.weights.take().or(found);
        }
        if let Some(distill) = &mut self.distill {
            let found = teacher(distill).find_weights().ok();
            distill.weights = distill.weights.take().or(found);
        }
    }
}

/// Fills in which weights the runs of a recipe have; when a run goes on, those that it wrote down in `started`.
///
/// # Errors
/// A run that is not there.
pub(crate) fn note_weights(
    recipe: &mut TrainRecipe,
    started: Option<&TrainRecipe>,
) -> Result<(), TrainError> {
    if let Some(init) = &mut recipe.init
        && init.weights.is_none()
    {
        let before = started.and_then(|recipe| recipe.init.as_ref()?.weights.clone());
        init.weights = Some(match before {
            Some(weights) => weights,
            None => init.run().find_weights()?,
        });
    }
    if let Some(distill) = &mut recipe.distill
        && distill.weights.is_none()
    {
        let before = started.and_then(|recipe| recipe.distill.as_ref()?.weights.clone());
        distill.weights = Some(match before {
            Some(weights) => weights,
            None => teacher(distill).find_weights()?,
        });
    }
    Ok(())
}
