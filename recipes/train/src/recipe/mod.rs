//! What a training recipe says.

mod check;
mod resolve;

use kiln_distill::DistillConfig;
use kiln_fused::LossTerms;
use kiln_loader::Order;
use kiln_tasks::TaskConfig;
use kiln_text::DataConfig;
use kiln_zoo::{MixerKind, ModelConfig, Precision};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::adapters::AdaptersConfig;
use crate::generate::SampleConfig;
use crate::init::InitConfig;
use crate::optimizer::OptimizerConfig;
use crate::prune::PruneConfig;
use crate::quantize::QuantizeConfig;
use crate::rewind::RewindConfig;
use crate::schedule::ScheduleConfig;

pub use resolve::Resolved;

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
    /// What the model computes in, in training and after.
    #[serde(default)]
    pub precision: Precision,
    /// Corpus and tokenizer.
    #[serde(default)]
    pub data: DataConfig,
    /// A synthetic task in place of text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskConfig>,
    /// Model: a preset and what differs from it.
    pub model: ModelSection,
    /// Weights to start from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitConfig>,
    /// A teacher to learn from, beside the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distill: Option<DistillConfig>,
    /// Weights that are trained as they will be packed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantize: Option<QuantizeConfig>,
    /// Weights that become zero while the model is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<PruneConfig>,
    /// Another run's checkpoint to begin at, with the zeros of the model of `[init]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewind: Option<RewindConfig>,
    /// Matrices that move by products of small ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapters: Option<AdaptersConfig>,
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
    /// Keys of minGRU layers.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub min_gru: toml::Table,
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
    /// Tokens of a sequence; 0 takes the model's `max_seq`, or the length of a task's examples.
    pub seq: usize,
    /// Forward passes of one step; gradients are weighted by tokens, so 4 x 8 equals 1 x 32.
    pub accumulate: usize,
    /// Share of a target's probability that goes to all tokens alike.
    pub label_smoothing: f64,
    /// Weight of the squared logarithm of the softmax' sum in what is minimised.
    pub z_loss: f64,
    /// Whether backward computes the activations of a block again instead of keeping those of all: a third more operations, and
    /// room for sequences many times as long.
    pub recompute: bool,
    /// Whether a CUDA device records the passes of a step and repeats them as a whole, so that it does not wait for the host.
    pub graph: bool,
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
    /// Steps whose checkpoints are kept whatever comes after them, to go back to.
    pub keep_at: Vec<u64>,
    /// Steps between lines of the log.
    pub log_every: u64,
    /// Steps between probes of the gradient, which compute the first micro-batch's once more with the recipe's rule and with the
    /// exact one; 0 never does. Needs a BK layer, and changes nothing in training.
    pub gradient_probe_every: u64,
    /// Evaluations without a better validation loss after which training stops; 0 never stops early.
    pub patience: u32,
    /// Accuracy of an evaluation at which training stops, as tasks have it; 0 never stops for it.
    pub target_accuracy: f64,
    /// Steps in a row that may be skipped for a loss or gradient that is not finite.
    pub max_skipped: u32,
    /// Whether the whole validation split is swept at the end (and the test split, where there is one).
    pub final_sweep: bool,
    /// Most windows of the final sweep of each split; 0 sweeps all.
    pub sweep_windows: usize,
    /// Tokens of the windows that slide over the validation split at the end, for the loss against context: increasing.
    pub contexts: Vec<usize>,
    /// Tokens from one such window to the next; 0 is half of each length.
    pub context_stride: usize,
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
            label_smoothing: 0.0,
            z_loss: 0.0,
            recompute: false,
            graph: true,
            order: Order::Crops,
            eval_every: 250,
            eval_batches: 20,
            checkpoint_every: 500,
            keep_checkpoints: 2,
            keep_at: Vec::new(),
            log_every: 10,
            gradient_probe_every: 0,
            patience: 0,
            target_accuracy: 0.0,
            max_skipped: 10,
            final_sweep: true,
            sweep_windows: 0,
            contexts: Vec::new(),
            context_stride: 0,
        }
    }
}

impl TrainConfig {
    /// What is minimised beside cross-entropy.
    pub fn loss_terms(&self) -> LossTerms {
        LossTerms {
            label_smoothing: self.label_smoothing,
            z_loss: self.z_loss,
        }
    }
}

impl TrainRecipe {
    /// Tokens of a training sequence.
    ///
    /// # Errors
    /// A task that cannot be drawn, or whose examples are of another length than `train.seq`.
    pub fn seq(&self, model: &ModelConfig) -> Result<usize, TrainError> {
        let task = self.task.as_ref().map(TaskConfig::seq).transpose()?;
        match (self.train.seq, task) {
            (0, Some(seq)) => Ok(seq),
            (0, None) => Ok(model.backbone.max_seq),
            (seq, Some(length)) if seq != length => {
                let why = format!("the task's examples have {length} tokens: leave the key out");
                Err(TrainError::setting("train.seq", seq, why))
            }
            (seq, _) => Ok(seq),
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
