//! What a training recipe says.

use kiln_run::recipe::Recipe;
use kiln_text::{DataConfig, Order, TokenizerConfig};
use kiln_zoo::{MixerKind, ModelConfig};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::generate::SampleConfig;
use crate::optimizer::OptimizerConfig;
use crate::schedule::ScheduleConfig;

/// A training recipe. Every key but `model.preset` has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainRecipe {
    /// One line for the book's table of contents.
    #[serde(default)]
    pub description: String,
    /// Seed of weights, batches and dropout.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Corpus and tokenizer.
    #[serde(default)]
    pub data: DataConfig,
    /// Model: a preset and what differs from it.
    pub model: ModelSection,
    /// What is predicted.
    #[serde(default)]
    pub objective: Objective,
    /// Length, batches, evaluation and checkpoints.
    #[serde(default)]
    pub train: TrainConfig,
    /// Optimizer.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Learning rate over time.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// Text generated at the end.
    #[serde(default)]
    pub sample: SampleConfig,
}

fn default_seed() -> u64 {
    1337
}

/// A preset of the zoo and the keys that differ from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// Name of the preset to start from.
    pub preset: String,
    /// Mixers of the first layers, repeated to the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<Vec<MixerKind>>,
    /// Keys of the backbone.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub backbone: toml::Table,
    /// Keys of attention layers.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub attention: toml::Table,
    /// Keys of BK layers.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub bk: toml::Table,
    /// Keys of resolvent layers.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub resolvent: toml::Table,
    /// Keys of convolution layers.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub conv: toml::Table,
    /// Keys of layers of gated linear attention.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub gla: toml::Table,
}

/// What a model learns to predict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Objective {
    /// Next token (causal models) or masked tokens (bidirectional ones).
    pub kind: ObjectiveKind,
    /// Share of tokens that are masked and predicted; used by `masked-token` only.
    pub mask_ratio: MaskRatio,
}

/// Share of masked tokens, 0.15 unless said otherwise (BERT, arXiv 1810.04805).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MaskRatio(pub f64);

impl Default for MaskRatio {
    fn default() -> Self {
        Self(0.15)
    }
}

/// Kinds of objective.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectiveKind {
    /// Position i predicts token i + 1.
    #[default]
    NextToken,
    /// Some tokens are replaced by a mask token and predicted from both sides.
    MaskedToken,
}

/// Length of the run, batches, evaluation, checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Optimizer steps; 0 if `tokens` says how long.
    pub steps: u64,
    /// Target tokens to train on; 0 if `steps` says how long. With both, the shorter wins.
    pub tokens: u64,
    /// Wall time after which training stops, in seconds; 0 is no limit. The schedule decays within it.
    pub max_seconds: f64,
    /// Sequences of one forward pass.
    pub batch: usize,
    /// Tokens of a sequence; 0 takes the model's `max_seq`.
    pub seq: usize,
    /// Forward passes of one step; gradients are weighted by tokens, so 4 x 8 equals 1 x 32.
    pub accumulate: usize,
    /// Order of training windows.
    pub order: Order,
    /// Steps between evaluations.
    pub eval_every: u64,
    /// Random batches of one evaluation; the same ones every time.
    pub eval_batches: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Checkpoints kept besides the best.
    pub keep_checkpoints: usize,
    /// Steps between lines of the log.
    pub log_every: u64,
    /// Steps between probes of the gradient, which compute the first micro-batch's once more with the recipe's rule and with the
    /// exact one; 0 never does. Needs a BK layer, and changes nothing in training.
    pub gradient_probe_every: u64,
    /// Evaluations without a better validation loss after which training stops; 0 never stops early.
    pub patience: u32,
    /// Steps in a row that may be skipped for a loss or gradient that is not finite.
    pub max_skipped: u32,
    /// Whether the whole validation split is swept at the end (and the test split, where there is one).
    pub final_sweep: bool,
    /// Most windows of the final sweep of each split; 0 sweeps all.
    pub sweep_windows: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            tokens: 0,
            max_seconds: 0.0,
            batch: 16,
            seq: 0,
            accumulate: 1,
            order: Order::Crops,
            eval_every: 250,
            eval_batches: 20,
            checkpoint_every: 500,
            keep_checkpoints: 2,
            log_every: 10,
            gradient_probe_every: 0,
            patience: 0,
            max_skipped: 10,
            final_sweep: true,
            sweep_windows: 0,
        }
    }
}

impl TrainRecipe {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// Names the first key out of its range.
    pub fn validate(&self) -> Result<(), TrainError> {
        let train = &self.train;
        for (key, value) in [
            ("train.batch", train.batch),
            ("train.accumulate", train.accumulate),
            ("train.eval_batches", train.eval_batches),
            ("train.keep_checkpoints", train.keep_checkpoints),
        ] {
            if value == 0 {
                return Err(TrainError::setting(key, 0, "must be at least 1"));
            }
        }
        for (key, value) in [
            ("train.eval_every", train.eval_every),
            ("train.checkpoint_every", train.checkpoint_every),
            ("train.log_every", train.log_every),
        ] {
            if value == 0 {
                return Err(TrainError::setting(key, 0, "must be at least 1 step"));
            }
        }
        if train.steps == 0 && train.tokens == 0 {
            return Err(TrainError::setting(
                "train.steps",
                0,
                "one of `train.steps` and `train.tokens` must say how long to train",
            ));
        }
        if let TokenizerConfig::Bpe {
            vocab_size: size @ 0..256,
        } = self.data.tokenizer
        {
            return Err(TrainError::setting(
                "data.tokenizer",
                format!("bpe:{size}"),
                "a byte-level vocabulary has at least the 256 bytes: write bpe:256 or more",
            ));
        }
        if train.order == Order::Sequential {
            return Err(TrainError::setting(
                "train.order",
                "sequential",
                "training needs an order without end: crops or shuffled",
            ));
        }
        let real = [
            ("train.max_seconds", train.max_seconds, 0.0, f64::MAX),
            (
                "optimizer.learning_rate",
                self.optimizer.learning_rate,
                f64::MIN_POSITIVE,
                10.0,
            ),
            (
                "optimizer.weight_decay",
                self.optimizer.weight_decay,
                0.0,
                10.0,
            ),
            (
                "optimizer.clip_norm",
                self.optimizer.clip_norm,
                0.0,
                f64::MAX,
            ),
            (
                "optimizer.epsilon",
                self.optimizer.epsilon,
                f64::MIN_POSITIVE,
                1.0,
            ),
            ("optimizer.betas", self.optimizer.betas[0], 0.0, 0.999_999),
            ("optimizer.betas", self.optimizer.betas[1], 0.0, 0.999_999),
            (
                "schedule.final_fraction",
                self.schedule.final_fraction,
                0.0,
                1.0,
            ),
            (
                "schedule.decay_fraction",
                self.schedule.decay_fraction,
                1e-6,
                1.0,
            ),
            (
                "objective.mask_ratio",
                self.objective.mask_ratio.0,
                1e-3,
                1.0,
            ),
        ];
        for (key, value, low, high) in real {
            if !(low..=high).contains(&value) {
                return Err(TrainError::setting(
                    key,
                    value,
                    match high {
                        f64::MAX => format!("must be at least {low:e}"),
                        _ => format!("must lie in [{low:e}, {high:e}]"),
                    },
                ));
            }
        }
        self.sample.validate()
    }

    /// Tokens of a training sequence.
    pub fn seq(&self, model: &ModelConfig) -> usize {
        match self.train.seq {
            0 => model.backbone.max_seq,
            seq => seq,
        }
    }

    /// Target tokens of one step.
    pub fn tokens_per_step(&self, seq: usize) -> u64 {
        (self.train.batch * self.train.accumulate * seq) as u64
    }

    /// Steps of the whole run.
    pub fn total_steps(&self, seq: usize) -> u64 {
        let by_tokens = match self.train.tokens {
            0 => u64::MAX,
            tokens => tokens.div_ceil(self.tokens_per_step(seq)),
        };
        match self.train.steps {
            0 => by_tokens,
            steps => steps.min(by_tokens),
        }
    }
}

/// The model a recipe describes; `vocab_size` is the tokenizer's, one more for a masked objective.
fn model(recipe: &Recipe<TrainRecipe>, tokenizer_vocab: usize) -> Result<ModelConfig, TrainError> {
    let value = &recipe.value;
    let preset = ModelConfig::preset(&value.model.preset)
        .ok_or_else(|| unknown_preset(&value.model.preset))?;
    let mut config = recipe.overlay("model", &preset, &["preset"])?;
    let masked = value.objective.kind == ObjectiveKind::MaskedToken;
    let vocab = tokenizer_vocab + usize::from(masked);
    if ![0, vocab].contains(&config.backbone.vocab_size) {
        return Err(TrainError::setting(
            "model.backbone.vocab_size",
            config.backbone.vocab_size,
            format!("the tokenizer needs {vocab}; leave the key out"),
        ));
    }
    config.backbone.vocab_size = vocab;
    if masked == config.is_causal() {
        let (given, why) = match masked {
            true => (
                "masked-token",
                "this model is causal: take a bidirectional preset, or set `direction = \"bidirectional\"` in `[model.bk]` or `[model.attention]` and have no other layers",
            ),
            false => (
                "next-token",
                "this model is bidirectional and would see the token it predicts: set `objective.kind = \"masked-token\"`, or take a causal preset",
            ),
        };
        return Err(TrainError::setting("objective.kind", given, why));
    }
    config.validate()?;
    Ok(config)
}

fn unknown_preset(name: &str) -> TrainError {
    let names: Vec<_> = kiln_zoo::presets()
        .iter()
        .map(|preset| preset.name)
        .collect();
    TrainError::setting(
        "model.preset",
        name,
        format!("the presets are {}", names.join(", ")),
    )
}

/// A recipe with everything resolved that needs no tensor.
pub struct Resolved {
    /// The recipe as read.
    pub recipe: Recipe<TrainRecipe>,
    /// Its model.
    pub model: ModelConfig,
    /// Tokens of a sequence.
    pub seq: usize,
    /// Steps of the run.
    pub steps: u64,
}

impl Resolved {
    /// Resolves a recipe against the size of a vocabulary.
    ///
    /// # Errors
    /// Those of [`TrainRecipe::validate`]; an unknown preset or model key (naming the nearest), a `vocab_size` that
    /// contradicts the tokenizer, an objective that does not fit the model's direction.
    pub fn new(recipe: Recipe<TrainRecipe>, tokenizer_vocab: usize) -> Result<Self, TrainError> {
        recipe.value.validate()?;
        let model = model(&recipe, tokenizer_vocab)?;
        let seq = recipe.value.seq(&model);
        let learned = model.backbone.positions == kiln_zoo::Positions::Learned;
        if learned && seq > model.backbone.max_seq {
            return Err(TrainError::setting(
                "train.seq",
                seq,
                format!(
                    "the model has learned positions up to {}",
                    model.backbone.max_seq
                ),
            ));
        }
        let probe = recipe.value.train.gradient_probe_every;
        if probe > 0 && !model.pattern.contains(&MixerKind::Bk) {
            let why = "the model has no BK layer, and no other layer has a gradient rule: leave the key out";
            return Err(TrainError::setting(
                "train.gradient_probe_every",
                probe,
                why,
            ));
        }
        let steps = recipe.value.total_steps(seq);
        Ok(Self {
            recipe,
            model,
            seq,
            steps,
        })
    }

    /// Tokens of the tokenizer; a masked objective's mask is not one of them.
    pub fn tokenizer_vocab(&self) -> usize {
        let masked = self.recipe.value.objective.kind == ObjectiveKind::MaskedToken;
        self.model.backbone.vocab_size - usize::from(masked)
    }

    /// The recipe with the model written out in full, as it goes into the run folder. Reading it again gives the same run.
    ///
    /// # Errors
    /// A value that TOML cannot hold.
    pub fn written_out(&self) -> Result<Recipe<TrainRecipe>, TrainError> {
        let mut recipe = self.recipe.clone();
        let section = &mut recipe.value.model;
        let table = |value: Result<toml::Table, toml::ser::Error>| {
            value.map_err(kiln_run::RecipeError::NotToml)
        };
        section.pattern = Some(self.model.pattern.clone());
        section.backbone = table(toml::Table::try_from(&self.model.backbone))?;
        section.attention = table(toml::Table::try_from(&self.model.attention))?;
        section.bk = table(toml::Table::try_from(&self.model.bk))?;
        section.resolvent = table(toml::Table::try_from(&self.model.resolvent))?;
        section.conv = table(toml::Table::try_from(&self.model.conv))?;
        section.gla = table(toml::Table::try_from(&self.model.gla))?;
        Ok(recipe)
    }
}

/// Size of a vocabulary that is known without reading data.
pub fn known_vocab(tokenizer: &TokenizerConfig) -> Option<usize> {
    match tokenizer {
        TokenizerConfig::Bytes => Some(256),
        TokenizerConfig::Bpe { vocab_size } => Some(*vocab_size as usize),
        TokenizerConfig::Chars | TokenizerConfig::File { .. } => None,
    }
}
