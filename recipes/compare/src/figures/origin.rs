//! What a run folder says of where its model came from.

use std::fs;

use kiln_run::RunFolder;
use kiln_train::{RunConfig, read_ngram};

use super::read_json;
use crate::{CompareError, Layout, RunId};

/// Where a run's model came from, and how large it is.
pub(super) struct Origin {
    /// SHA-256 of the corpus.
    pub corpus: String,
    /// SHA-256 of the tokenizer; empty for a task.
    pub tokenizer: String,
    /// Bytes of the model.
    pub bytes: Option<u64>,
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
            }));
        }
        if !folder.config().is_file() {
            return Ok(None);
        }
        let config: RunConfig = read_json(&folder.config())?;
        Ok(Some(Self {
            corpus: config.corpus_hash,
            tokenizer: config.tokenizer.unwrap_or_default(),
            // A run that was copied without its weights has no size.
            bytes: fs::metadata(folder.model()).ok().map(|file| file.len()),
        }))
    }
}
