//! What a run folder says of where its model came from.

use std::fs;
use std::path::Path;

use kiln_run::RunFolder;
use kiln_train::{RunConfig, read_ngram, read_scored};

use super::read_json;
use crate::{CompareError, Layout, Length, RunId};

/// Where a run's model came from, and how large it is.
pub(super) struct Origin {
    /// SHA-256 of the corpus.
    pub corpus: String,
    /// SHA-256 of the tokenizer; empty for a task.
    pub tokenizer: String,
    /// Bytes of the model: weights and configuration, which says how they are stored; or an n-gram model's counts.
    pub bytes: Option<u64>,
    /// SHA-256 of the weights.
    pub weights: Option<String>,
    /// SHA-256 of the weights that they were compressed of.
    pub original: Option<String>,
}

impl Origin {
    /// Of a run that reached its end; none of another.
    ///
    /// # Errors
    /// A damaged file, and counts of another order than the study's.
    pub fn of(
        layout: &Layout,
        run: RunId,
        folder: &RunFolder,
    ) -> Result<Option<Self>, CompareError> {
        if !folder.metrics().is_file() {
            return Ok(None);
        }
        if let Some(order) = layout.ngram(run) {
            let Some(counted) = read_ngram(folder)? else {
                return Ok(None);
            };
            if counted.order != order as usize {
                return Err(CompareError::AnotherRun {
                    path: folder.path().into(),
                    key: "order".into(),
                    found: counted.order.to_string(),
                    wanted: order.to_string(),
                });
            }
            return Ok(Some(Self {
                corpus: counted.corpus_hash,
                tokenizer: counted.tokenizer,
                bytes: Some(counted.bytes),
                weights: None,
                original: None,
            }));
        }
        if let Some(path) = layout.loaded(run) {
            // The study's own folders may have been copied to another place.
            let is_named = matches!(layout.cells[run.cell].length, Length::Loaded);
            return Self::scored(path, is_named, folder);
        }
        if !folder.config().is_file() {
            return Ok(None);
        }
        let config: RunConfig = read_json(&folder.config())?;
        Ok(Some(Self {
            corpus: config.corpus_hash,
            tokenizer: config.tokenizer.unwrap_or_default(),
            // A run that was copied without its weights has no size.
            bytes: size(&folder.model())
                .zip(size(&folder.config()))
                .map(|(a, b)| a + b),
            weights: Some(config.weights),
            original: None,
        }))
    }

    /// Of a run that was made before. None where it was not scored yet, or was made anew since.
    fn scored(
        path: &Path,
        is_named: bool,
        folder: &RunFolder,
    ) -> Result<Option<Self>, CompareError> {
        let Some(scored) = read_scored(folder)? else {
            return Ok(None);
        };
        if is_named && scored.run != path {
            return Err(CompareError::AnotherRun {
                path: folder.path().into(),
                key: "runs".into(),
                found: scored.run.display().to_string(),
                wanted: path.display().to_string(),
            });
        }
        // On a machine that does not have it, nothing can be said.
        let now = RunFolder::open(path).ok().map(|run| run.config());
        if let Some(config) = now.filter(|config| config.is_file()) {
            let config: RunConfig = read_json(&config)?;
            if config.weights != scored.weights {
                return Ok(None);
            }
        }
        Ok(Some(Self {
            corpus: scored.corpus_hash,
            tokenizer: scored.tokenizer.unwrap_or_default(),
            bytes: Some(scored.bytes),
            weights: Some(scored.weights),
            original: scored.original,
        }))
    }
}

fn size(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|file| file.len())
}
