//! What a run learns from: text, or the examples of a task.

use std::sync::Arc;

use kiln_loader::{Split, Windows};
use kiln_run::View;
use kiln_tasks::{TaskConfig, TaskSet};
use kiln_text::{
    DataEnv, Hash, Manifest, Prepared, TextWindows, TokenStore, Tokenizer, TokenizerConfig,
    prepare, words,
};

use crate::TrainError;
use crate::recipe::TrainRecipe;

/// Text or task, opened.
pub enum Source {
    /// A corpus as token ids, and what made them.
    Text(Box<Text>),
    /// A task, which draws its examples when they are asked for.
    Task(Box<TaskConfig>),
}

/// A prepared corpus.
pub struct Text {
    /// What is trained on.
    pub train: Arc<TokenStore>,
    /// What settings are chosen by.
    pub validation: Arc<TokenStore>,
    /// What is reported, if the corpus has it.
    pub test: Option<Arc<TokenStore>>,
    /// Text to token ids and back.
    pub tokenizer: Tokenizer,
    /// What was prepared.
    pub manifest: Manifest,
}

impl Text {
    /// The tokens of a split; none if the corpus does not have it.
    pub fn store(&self, split: Split) -> Option<&Arc<TokenStore>> {
        match split {
            Split::Train => Some(&self.train),
            Split::Validation => Some(&self.validation),
            Split::Test => self.test.as_ref(),
        }
    }
}

impl From<Prepared> for Text {
    fn from(prepared: Prepared) -> Self {
        Self {
            train: Arc::new(prepared.train),
            validation: Arc::new(prepared.validation),
            test: prepared.test.map(Arc::new),
            tokenizer: prepared.tokenizer,
            manifest: prepared.manifest,
        }
    }
}

/// Size of a recipe's vocabulary, where it is known without reading data.
///
/// # Errors
/// A task that cannot be drawn.
pub fn known_vocab(recipe: &TrainRecipe) -> Result<Option<usize>, TrainError> {
    if let Some(task) = &recipe.task {
        return Ok(Some(task.vocab_size()?));
    }
    Ok(match &recipe.data.tokenizer {
        TokenizerConfig::Bytes => Some(256),
        TokenizerConfig::Bpe { vocab_size } => Some(*vocab_size as usize),
        TokenizerConfig::Chars | TokenizerConfig::File { .. } => None,
    })
}

impl Source {
    /// Opens what a recipe asks for; prepares text that was not prepared before, telling `view`.
    ///
    /// # Errors
    /// A task that cannot be drawn, text that cannot be had.
    pub fn open(recipe: &TrainRecipe, env: &DataEnv, view: &mut View) -> Result<Self, TrainError> {
        if let Some(task) = &recipe.task {
            task.validate()?;
            return Ok(Self::Task(Box::new(task.clone())));
        }
        let prepared = prepare(&recipe.data, env, &mut |progress| {
            crate::log::show_preparation(view, &progress);
        })?;
        Ok(Self::Text(Box::new(prepared.into())))
    }

    /// Tokens of the vocabulary.
    ///
    /// # Errors
    /// A task that cannot be drawn.
    pub fn vocab_size(&self) -> Result<usize, TrainError> {
        match self {
            Self::Text(text) => Ok(text.tokenizer.vocab_size() as usize),
            Self::Task(task) => Ok(task.vocab_size()?),
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&Text> {
        match self {
            Self::Text(text) => Some(text),
            Self::Task(_) => None,
        }
    }

    /// Name of the corpus or the task.
    ///
    /// # Errors
    /// A task that cannot be drawn.
    pub fn name(&self) -> Result<String, TrainError> {
        match self {
            Self::Text(text) => Ok(text.manifest.corpus.clone()),
            Self::Task(task) => Ok(task.name()?.to_string()),
        }
    }

    /// SHA-256 of the corpus, or of the task's settings, which are all that its examples follow from.
    ///
    /// # Errors
    /// Settings that TOML cannot hold.
    pub fn hash(&self) -> Result<Hash, TrainError> {
        match self {
            Self::Text(text) => Ok(text.manifest.corpus_hash),
            Self::Task(task) => {
                let text = toml::to_string(&**task).map_err(kiln_run::RecipeError::NotToml)?;
                Ok(Hash::of(text.as_bytes()))
            }
        }
    }

    /// The windows of one split; none if a corpus does not have it. A task's are as long as its examples, whatever `seq`.
    ///
    /// # Errors
    /// A split that fills no window, a task that cannot be drawn.
    pub fn windows(
        &self,
        split: Split,
        seq: usize,
    ) -> Result<Option<Arc<dyn Windows>>, TrainError> {
        match self {
            Self::Text(text) => {
                let Some(store) = text.store(split) else {
                    return Ok(None);
                };
                if store.len() <= seq as u64 {
                    let why = format!(
                        "the {split} split has {} tokens, and one window needs {}: use more text or a shorter seq",
                        store.len(),
                        seq + 1
                    );
                    return Err(TrainError::setting("train.seq", seq, why));
                }
                Ok(Some(Arc::new(TextWindows::new(Arc::clone(store), seq)?)))
            }
            Self::Task(task) => Ok(Some(TaskSet::new(task, split)?)),
        }
    }
}

/// The windows of every split. All are there before the first step, so that a text that is too short for one does not end a run
/// at its first evaluation or its final sweep.
pub(crate) struct Data {
    pub source: Source,
    pub train: Arc<dyn Windows>,
    pub validation: Arc<dyn Windows>,
    pub test: Option<Arc<dyn Windows>>,
}

impl Data {
    pub(crate) fn new(source: Source, seq: usize) -> Result<Self, TrainError> {
        let needed = |split| {
            let missing =
                || TrainError::setting("data.name", split, "the corpus has no such split");
            source.windows(split, seq)?.ok_or_else(missing)
        };
        Ok(Self {
            train: needed(Split::Train)?,
            validation: needed(Split::Validation)?,
            test: source.windows(Split::Test, seq)?,
            source,
        })
    }

    /// A loss in bits per byte of a split; none for a task.
    pub(crate) fn bits_per_byte(&self, split: Split, nats: f64) -> Option<f64> {
        Some(self.source.text()?.store(split)?.bits_per_byte(nats))
    }

    /// A loss as perplexity per word of a split: as if the targets that were not scored had the same loss. None for a task, and for
    /// text without words.
    ///
    /// # Errors
    /// Tokens of another tokenizer.
    pub(crate) fn word_perplexity(
        &self,
        split: Split,
        nats: f64,
    ) -> Result<Option<f64>, TrainError> {
        let text = self.source.text();
        let Some((text, store)) = text.and_then(|text| Some((text, text.store(split)?))) else {
            return Ok(None);
        };
        let words = words(store, &text.tokenizer)?;
        let targets = store.len() - 1;
        Ok((words > 0).then(|| (nats * targets as f64 / words as f64).exp()))
    }
}
