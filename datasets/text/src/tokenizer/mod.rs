//! Text to token ids and back.
//!
//! Every tokenizer here works on the bytes of the text: each token stands for a fixed, non-empty byte string, and the
//! byte strings of an encoding concatenated are the text. Losses per token can therefore be turned into bits per byte.

mod chars;
mod config;
mod hugging_face;
mod stream;

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use chars::CharVocabulary;
pub use config::{TokenizerConfig, UnknownTokenizer};
pub use hugging_face::HuggingFaceTokenizer;
pub use stream::StreamDecoder;

use crate::corpus::Corpus;
use crate::error::DataError;
use crate::files;
use crate::hash::Hash;
use crate::progress::Progress;
use kiln_loader::Split;

/// A tokenizer, ready to use.
#[derive(Clone)]
pub enum Tokenizer {
    /// One token per byte of UTF-8; 256 tokens.
    Bytes,
    /// One token per character of a fixed alphabet.
    Chars(CharVocabulary),
    /// A byte-level tokenizer of the `tokenizers` library.
    HuggingFace(Box<HuggingFaceTokenizer>),
}

/// Our own file format; everything else is taken for the `tokenizers` library's.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kiln", rename_all = "snake_case", deny_unknown_fields)]
enum OwnFormat {
    Bytes {},
    Chars { characters: String },
}

impl Tokenizer {
    /// Makes the tokenizer that `config` asks for.
    ///
    /// - `chars` takes its alphabet from all splits, as nanoGPT does, so that every split can be encoded.
    /// - `bpe` is trained on the train split only, once: the result is kept in `cache_dir`, named by the hash of the text
    ///   it was trained on. A text with too little variety gives fewer tokens than asked for.
    ///
    /// # Errors
    /// A vocabulary below 256 tokens, a tokenizer file that cannot be used, a cache that cannot be written.
    pub fn for_corpus(
        config: &TokenizerConfig,
        corpus: &Corpus,
        cache_dir: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, DataError> {
        match config {
            TokenizerConfig::Bytes => Ok(Self::Bytes),
            TokenizerConfig::Chars => {
                let texts = Split::ALL.iter().flat_map(|split| corpus.documents(*split));
                Ok(Self::Chars(CharVocabulary::of(
                    texts.map(|document| document.text.as_str()),
                )))
            }
            TokenizerConfig::Bpe { vocab_size } => bpe(*vocab_size, corpus, cache_dir, progress),
            TokenizerConfig::File { path } => Self::load(path),
        }
    }

    /// Reads a tokenizer written by [`Self::save`], or a byte-level `tokenizer.json` of the `tokenizers` library.
    ///
    /// # Errors
    /// [`DataError::Io`], or [`DataError::TokenizerFile`] saying what is wrong with the content.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        Self::from_json(&files::read(path)?).map_err(|reason| DataError::TokenizerFile {
            path: path.to_owned(),
            reason,
        })
    }

    fn from_json(json: &[u8]) -> Result<Self, String> {
        let value: serde_json::Value = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        if value.get("kiln").is_none() {
            return Ok(Self::HuggingFace(Box::new(
                HuggingFaceTokenizer::from_json(json)?,
            )));
        }
        match serde_json::from_value(value).map_err(|e| e.to_string())? {
            OwnFormat::Bytes {} => Ok(Self::Bytes),
            OwnFormat::Chars { characters } => {
                Ok(Self::Chars(CharVocabulary::of([characters.as_str()])))
            }
        }
    }

    /// Writes the tokenizer as one JSON file; a byte-pair tokenizer in the format that `tokenizers` and `transformers` load.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        files::write_bytes(path, self.to_json().as_bytes())
    }

    fn to_json(&self) -> String {
        let own = match self {
            Self::HuggingFace(tokenizer) => return tokenizer.json().to_owned(),
            Self::Bytes => OwnFormat::Bytes {},
            Self::Chars(vocabulary) => OwnFormat::Chars {
                characters: vocabulary.characters().iter().collect(),
            },
        };
        serde_json::to_string(&own).expect("a string in a map is always JSON")
    }

    /// Token ids of `text`. No begin or end token is added.
    ///
    /// # Errors
    /// [`DataError::UnknownCharacter`] for `chars`; a failure of the `tokenizers` library.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        match self {
            Self::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Self::Chars(vocabulary) => vocabulary.encode(text),
            Self::HuggingFace(tokenizer) => tokenizer.encode(text),
        }
    }

    /// Text of `tokens`. Bytes that are not UTF-8, as an untrained model produces, become U+FFFD.
    ///
    /// # Errors
    /// [`DataError::UnknownToken`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String, DataError> {
        let mut bytes = Vec::with_capacity(tokens.len());
        for &token in tokens {
            bytes.extend_from_slice(&self.token_bytes(token)?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The bytes that one token stands for.
    ///
    /// # Errors
    /// [`DataError::UnknownToken`].
    pub fn token_bytes(&self, token: u32) -> Result<Cow<'_, [u8]>, DataError> {
        let bytes = match self {
            Self::Bytes => u8::try_from(token).ok().map(|byte| Cow::Owned(vec![byte])),
            Self::Chars(vocabulary) => {
                let character = vocabulary.characters().get(token as usize);
                character.map(|character| Cow::Owned(character.to_string().into_bytes()))
            }
            Self::HuggingFace(tokenizer) => tokenizer.token_bytes(token).map(Cow::Borrowed),
        };
        bytes.ok_or(DataError::UnknownToken {
            id: token,
            vocab_size: self.vocab_size(),
        })
    }

    /// One more than the largest token id.
    pub fn vocab_size(&self) -> u32 {
        match self {
            Self::Bytes => 256,
            Self::Chars(vocabulary) => vocabulary.characters().len() as u32,
            Self::HuggingFace(tokenizer) => tokenizer.vocab_size(),
        }
    }

    /// SHA-256 of the saved form: equal for tokenizers that encode alike.
    pub fn hash(&self) -> Hash {
        Hash::of(self.to_json().as_bytes())
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Bytes => "Bytes",
            Self::Chars(_) => "Chars",
            Self::HuggingFace(_) => "HuggingFace",
        };
        write!(f, "Tokenizer::{kind}({} tokens)", self.vocab_size())
    }
}

fn bpe(
    vocab_size: u32,
    corpus: &Corpus,
    cache_dir: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Tokenizer, DataError> {
    let train_hash = corpus.split_hash(Split::Train).short();
    let path = cache_dir
        .join("tokenizers")
        .join(format!("bpe-{vocab_size}-{train_hash}.json"));
    if path.is_file() {
        match Tokenizer::load(&path) {
            Ok(tokenizer) => return Ok(tokenizer),
            Err(error) => progress(Progress::Warning(format!("{error} (training it again)"))),
        }
    }
    progress(Progress::TrainingTokenizer { vocab_size });
    let texts = corpus
        .documents(Split::Train)
        .iter()
        .map(|document| document.text.as_str());
    let tokenizer =
        Tokenizer::HuggingFace(Box::new(HuggingFaceTokenizer::train(texts, vocab_size)?));
    tokenizer.save(&path)?;
    Ok(tokenizer)
}

#[cfg(test)]
mod tests;
