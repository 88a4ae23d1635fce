//! How a recipe asks for a tokenizer.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which tokenizer to use, written `bytes`, `chars`, `bpe:VOCAB` or `file:PATH` in recipes and on the command line.
///
/// One string and not a table, so that a recipe that extends another replaces its tokenizer as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TokenizerConfig {
    /// Bytes of UTF-8.
    #[default]
    Bytes,
    /// Characters of the corpus.
    Chars,
    /// Byte-level byte-pair encoding trained on the train split.
    Bpe {
        /// Tokens, the 256 single bytes included.
        vocab_size: u32,
    },
    /// A byte-level `tokenizer.json`.
    File {
        /// Where it is; a relative path starts at the current folder.
        path: PathBuf,
    },
}

/// A text that names no tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no tokenizer `{0}`; write bytes, chars, bpe:VOCAB (such as bpe:4096) or file:PATH")]
pub struct UnknownTokenizer(String);

impl FromStr for TokenizerConfig {
    type Err = UnknownTokenizer;

    fn from_str(text: &str) -> Result<Self, UnknownTokenizer> {
        let unknown = || UnknownTokenizer(text.into());
        match text.split_once(':') {
            None if text == "bytes" => Ok(Self::Bytes),
            None if text == "chars" => Ok(Self::Chars),
            Some(("bpe", vocab)) => {
                let vocab_size = vocab.parse().map_err(|_| unknown())?;
                Ok(Self::Bpe { vocab_size })
            }
            Some(("file", path)) if !path.is_empty() => Ok(Self::File { path: path.into() }),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for TokenizerConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes => write!(out, "bytes"),
            Self::Chars => write!(out, "chars"),
            Self::Bpe { vocab_size } => write!(out, "bpe:{vocab_size}"),
            Self::File { path } => write!(out, "file:{}", path.display()),
        }
    }
}

impl TryFrom<String> for TokenizerConfig {
    type Error = UnknownTokenizer;

    fn try_from(text: String) -> Result<Self, UnknownTokenizer> {
        text.parse()
    }
}

impl From<TokenizerConfig> for String {
    fn from(config: TokenizerConfig) -> Self {
        config.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_round_trips() {
        for text in ["bytes", "chars", "bpe:4096", "file:a/tokenizer.json"] {
            let config: TokenizerConfig = text.parse().unwrap();
            assert_eq!(config.to_string(), text);
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(
                serde_json::from_str::<TokenizerConfig>(&json).unwrap(),
                config
            );
        }
    }

    #[test]
    fn what_names_no_tokenizer_is_refused_with_the_choices() {
        for text in [
            "", "byte", "bpe", "bpe:", "bpe:many", "bpe:-1", "file:", "chars:3",
        ] {
            let error = text.parse::<TokenizerConfig>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "no tokenizer `{text}`; write bytes, chars, bpe:VOCAB (such as bpe:4096) or file:PATH"
                )
            );
        }
    }
}
