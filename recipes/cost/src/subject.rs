//! What is measured: a model, and how it is trained.

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use kiln_run::{FileError, RunFolder};
use kiln_train::{
    LossTerms, Objective, ObjectiveKind, OptimizerConfig, Resolved, Run, TrainConfig,
};
use kiln_zoo::{LanguageModel, ModelConfig};

use crate::{CostError, Files, Parameters, Weights};

/// Vocabulary of a preset that is measured by itself: bytes.
const PRESET_VOCAB: usize = 256;

/// Seed of a preset's weights; no time depends on it.
const PRESET_SEED: u64 = 1337;

/// A model to measure.
pub struct Subject {
    /// How tables call it.
    pub name: String,
    /// Where the weights come from.
    pub weights: Weights,
    /// Seed of the run, or of the weights.
    pub seed: u64,
    /// All that determines the model but its weights.
    pub config: ModelConfig,
    /// The model, without autodiff.
    pub model: LanguageModel,
    /// Whether it is what a compression made of a run, and is not trained.
    pub compressed: bool,
    /// How it is trained.
    pub lesson: Lesson,
    /// Sizes of its files.
    pub files: Option<Files>,
}

/// The shape of a training step.
#[derive(Clone, Debug, PartialEq)]
pub struct Lesson {
    /// Sequences of one forward pass.
    pub batch: usize,
    /// Tokens of a sequence.
    pub seq: usize,
    /// Forward passes of one update.
    pub accumulate: usize,
    /// What is predicted.
    pub objective: Objective,
    /// What is minimised beside cross-entropy.
    pub terms: LossTerms,
    /// Whether blocks are computed again in backward.
    pub recompute: bool,
    /// Whether a GPU that keeps graphs records the passes of a step.
    pub recorded: bool,
    /// What updates the weights.
    pub optimizer: OptimizerConfig,
}

impl Subject {
    /// The model of a finished run.
    ///
    /// # Errors
    /// Those of [`Run::open`], and a file whose size cannot be read.
    pub fn of_run(path: &Path, device: &Device) -> Result<Self, CostError> {
        let run = Run::open(path, device)?;
        let recipe = run.recipe()?;
        let name = path.canonicalize().map_err(FileError::io("find", path))?;
        let name = name.file_name().unwrap_or(path.as_os_str());
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            weights: Weights::Trained,
            seed: recipe.seed,
            lesson: Lesson::new(
                &recipe.train,
                run.config.seq,
                run.config.objective,
                recipe.optimizer,
            ),
            files: Some(Files::of(
                &RunFolder::open(path).map_err(kiln_train::TrainError::from)?,
            )?),
            compressed: run.config.storage.is_some(),
            config: run.config.model,
            model: run.model,
        })
    }

    /// The model of a recipe, with its initial weights.
    ///
    /// # Errors
    /// A model that cannot be built.
    pub fn of_recipe(resolved: &Resolved, device: &Device) -> Result<Self, CostError> {
        let recipe = &resolved.recipe.value;
        let subject = Self::initial(
            &resolved.recipe.name,
            recipe.seed,
            resolved.model.clone(),
            Lesson::of(resolved),
            device,
        )?;
        Ok(Self {
            model: subject.model.with_precision(recipe.precision),
            ..subject
        })
    }

    /// A preset by itself, with a vocabulary of bytes and the defaults of a recipe; none if there is no such preset.
    ///
    /// # Errors
    /// A model that cannot be built.
    pub fn of_preset(name: &str, device: &Device) -> Result<Option<Self>, CostError> {
        let Some(mut config) = ModelConfig::preset(name) else {
            return Ok(None);
        };
        let mut objective = Objective::default();
        config.backbone.vocab_size = PRESET_VOCAB;
        if !config.is_causal() {
            objective.kind = ObjectiveKind::MaskedToken;
            config.backbone.vocab_size += 1;
        }
        let (seq, optimizer) = (config.backbone.max_seq, OptimizerConfig::default());
        let lesson = Lesson::new(&TrainConfig::default(), seq, objective, optimizer);
        Self::initial(name, PRESET_SEED, config, lesson, device).map(Some)
    }

    fn initial(
        name: &str,
        seed: u64,
        config: ModelConfig,
        lesson: Lesson,
        device: &Device,
    ) -> Result<Self, CostError> {
        Ok(Self {
            name: name.into(),
            weights: Weights::Initial,
            seed,
            model: config.init(seed, device)?.valid(),
            config,
            compressed: false,
            lesson,
            files: None,
        })
    }
}

impl Lesson {
    /// How a recipe trains.
    pub(crate) fn of(resolved: &Resolved) -> Self {
        let recipe = &resolved.recipe.value;
        Self::new(
            &recipe.train,
            resolved.seq,
            recipe.objective,
            recipe.optimizer.clone(),
        )
    }

    fn new(
        train: &TrainConfig,
        seq: usize,
        objective: Objective,
        optimizer: OptimizerConfig,
    ) -> Self {
        Self {
            batch: train.batch,
            seq,
            accumulate: train.accumulate,
            objective,
            terms: train.loss_terms(),
            recompute: train.recompute,
            recorded: train.graph,
            optimizer,
        }
    }
}

impl Files {
    /// The sizes of a run's files.
    fn of(folder: &RunFolder) -> Result<Self, FileError> {
        let size = |path: &Path| {
            let metadata = std::fs::metadata(path).map_err(FileError::io("read", path))?;
            Ok(metadata.len())
        };
        Ok(Self {
            weights: size(&folder.model())?,
            // The model of a task has none.
            tokenizer: match folder.tokenizer().is_file() {
                true => size(&folder.tokenizer())?,
                false => 0,
            },
            config: size(&folder.config())?,
        })
    }
}

/// Numbers in the parameters of a model on a device with autodiff, those of packed weights included, and their bytes.
pub(crate) fn count(model: &LanguageModel) -> (Parameters, u64) {
    let mut trainable = Trainable(0);
    model.visit(&mut trainable);
    let parameters = Parameters {
        trainable: trainable.0,
        all: model.parameters(),
    };
    (parameters, model.weight_bytes())
}

struct Trainable(u64);

impl ModuleVisitor for Trainable {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if value.is_require_grad() {
            self.0 += value.shape().num_elements() as u64;
        }
    }
}
