//! A recipe against the vocabulary of its data: the model, the length of sequences and of the run.

use kiln_run::recipe::Recipe;
use kiln_zoo::{MixerKind, ModelConfig};

use super::{ObjectiveKind, TrainRecipe};
use crate::TrainError;

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
    let compresses = value
        .task
        .as_ref()
        .is_some_and(|task| task.compression.is_some());
    if config.backbone.decoder && !compresses {
        let why = "it reads all positions out of the last one, which only [task.compression] asks for: leave the key out";
        return Err(TrainError::setting("model.backbone.decoder", true, why));
    }
    config.backbone.decoder = compresses;
    if !compresses && masked == config.is_causal() {
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
        let seq = recipe.value.seq(&model)?;
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
        let longest = recipe
            .value
            .train
            .contexts
            .iter()
            .max()
            .copied()
            .unwrap_or(0);
        if learned && longest > model.backbone.max_seq {
            let max = model.backbone.max_seq;
            let why = format!("the model has learned positions up to {max}: leave longer ones out");
            return Err(TrainError::setting("train.contexts", longest, why));
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
        if recipe.value.train.recompute && model.backbone.decoder {
            let why = "blocks are computed again and the decoder is none: leave the key out with [task.compression]";
            return Err(TrainError::setting("train.recompute", true, why));
        }
        if recipe.value.train.recompute && model.drops() {
            let why = "what is computed twice would be dropped differently: set `model.backbone.dropout` and `model.resolvent.key_dropout` to 0, or leave the key out";
            return Err(TrainError::setting("train.recompute", true, why));
        }
        let steps = recipe.value.total_steps(seq);
        let never = |step: &&u64| !(1..=steps).contains(*step);
        if let Some(step) = recipe.value.train.keep_at.iter().find(never) {
            let why = format!(
                "the run has updates 1 to {steps}: name some of them, or leave the key out"
            );
            return Err(TrainError::setting("train.keep_at", step, why));
        }
        if let Some(rewind) = recipe
            .value
            .rewind
            .as_ref()
            .filter(|rewind| rewind.step > steps)
        {
            let why = format!(
                "this run ends after {steps} updates: raise `train.steps`, or go further back"
            );
            return Err(TrainError::setting("rewind.step", rewind.step, why));
        }
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
        section.min_gru = table(toml::Table::try_from(&self.model.min_gru))?;
        Ok(recipe)
    }
}
