//! Where text comes from, and how it is split.

mod catalog;
mod discover;
mod rust_deps;
mod shakespeare;
mod text;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use kiln_loader::Split;

pub use catalog::{CorpusInfo, CorpusState, import, list};

use crate::env::DataEnv;
use crate::error::DataError;
use crate::hash::{Hash, Hasher};
use crate::progress::Progress;

/// A corpus by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorpusSource {
    /// `rust-deps`: Rust sources of the workspace's locked dependencies. Needs no download beyond the build itself.
    RustDeps,
    /// `tiny-shakespeare`: the 1.1 MB file of char-rnn and nanoGPT. It has no test split.
    TinyShakespeare,
    /// `text:PATH`: a UTF-8 file, or a folder of them; a relative path starts at the current folder.
    Text(PathBuf),
}

impl FromStr for CorpusSource {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        match (name, name.strip_prefix("text:")) {
            ("rust-deps", _) => Ok(Self::RustDeps),
            ("tiny-shakespeare", _) => Ok(Self::TinyShakespeare),
            (_, Some(path)) if !path.is_empty() => Ok(Self::Text(PathBuf::from(path))),
            _ => Err(DataError::UnknownCorpus {
                name: name.to_owned(),
            }),
        }
    }
}

impl fmt::Display for CorpusSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RustDeps => f.write_str("rust-deps"),
            Self::TinyShakespeare => f.write_str("tiny-shakespeare"),
            Self::Text(path) => write!(f, "text:{}", path.display()),
        }
    }
}

impl CorpusSource {
    /// Reads the corpus, downloading it where that is needed and possible.
    ///
    /// `max_bytes` bounds all splits together: `rust-deps` samples down to it, the other corpora are taken whole or refused.
    ///
    /// # Errors
    /// Missing or damaged sources, text that is not UTF-8, a corpus over `max_bytes`, an empty corpus or train split.
    pub fn load(
        &self,
        max_bytes: u64,
        env: &DataEnv,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Corpus, DataError> {
        let name = self.to_string();
        let splits = match self {
            Self::RustDeps => {
                let packages = discover::packages(&env.workspace_manifest, progress)?;
                rust_deps::select(&packages, max_bytes, progress)?
            }
            Self::TinyShakespeare => shakespeare::load(env, progress)?,
            Self::Text(path) => text::load(path, max_bytes)?,
        };
        let corpus = Corpus::new(name, splits)?;
        match corpus.total_bytes() {
            bytes if bytes > max_bytes => Err(DataError::CorpusTooLarge {
                name: corpus.name,
                bytes,
                max_bytes,
            }),
            _ => Ok(corpus),
        }
    }
}

/// One text of a corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Unique inside its corpus and free of machine-specific folders.
    pub name: String,
    /// The text.
    pub text: String,
}

/// A corpus in memory: ordered documents for each split.
#[derive(Debug, Clone)]
pub struct Corpus {
    name: String,
    splits: [Vec<Document>; 3],
    hash: Hash,
}

impl Corpus {
    /// Builds a corpus from the documents of train, validation and test.
    ///
    /// Documents are joined into one stream later, so a line feed is appended to every document that does not end in
    /// one, the last of each split excepted. Documents without text are dropped.
    ///
    /// # Errors
    /// [`DataError::EmptyCorpus`] where train or validation hold no text. An empty test split is allowed.
    pub fn new(name: String, mut splits: [Vec<Document>; 3]) -> Result<Self, DataError> {
        for documents in &mut splits {
            documents.retain(|document| !document.text.is_empty());
            let last = documents.len().saturating_sub(1);
            for document in &mut documents[..last] {
                if !document.text.ends_with('\n') {
                    document.text.push('\n');
                }
            }
        }
        if splits.iter().all(Vec::is_empty) {
            return Err(DataError::EmptyCorpus { name, split: None });
        }
        for split in [Split::Train, Split::Validation] {
            if splits[split as usize].is_empty() {
                return Err(DataError::EmptyCorpus {
                    name,
                    split: Some(split),
                });
            }
        }
        let hash = content_hash(&splits);
        Ok(Self { name, splits, hash })
    }

    /// The name it was asked for by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Documents of one split, in order.
    pub fn documents(&self, split: Split) -> &[Document] {
        &self.splits[split as usize]
    }

    /// Bytes of one split, joining line feeds included.
    pub fn bytes(&self, split: Split) -> u64 {
        self.documents(split)
            .iter()
            .map(|document| document.text.len() as u64)
            .sum()
    }

    /// Bytes of all splits.
    pub fn total_bytes(&self) -> u64 {
        Split::ALL.into_iter().map(|split| self.bytes(split)).sum()
    }

    /// SHA-256 over split, name and content of every document in order.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// SHA-256 over the text of one split: what a tokenizer trained on that split depends on.
    pub fn split_hash(&self, split: Split) -> Hash {
        let mut hasher = Hasher::default();
        self.documents(split)
            .iter()
            .for_each(|document| hasher.field(document.text.as_bytes()));
        hasher.finish()
    }
}

fn content_hash(splits: &[Vec<Document>; 3]) -> Hash {
    let mut hasher = Hasher::default();
    for split in Split::ALL {
        for document in &splits[split as usize] {
            hasher.field(split.name().as_bytes());
            hasher.field(document.name.as_bytes());
            hasher.field(document.text.as_bytes());
        }
    }
    hasher.finish()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A corpus of one document a split; an empty text gives an empty split.
    pub(crate) fn corpus_of(texts: [&str; 3]) -> Corpus {
        let documents = texts.map(|text| {
            vec![Document {
                name: "doc".into(),
                text: text.into(),
            }]
        });
        Corpus::new("test".into(), documents).unwrap()
    }
}

#[cfg(test)]
mod tests;
