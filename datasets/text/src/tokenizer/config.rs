//! How a recipe asks for a tokenizer.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Which tokenizer to use. In a recipe: `kind = "bytes" | "chars" | "bpe" | "file"`, with `vocab_size` for `bpe` and
/// `path` for `file`. Any other field is an error.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
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

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Bytes,
    Chars,
    Bpe,
    File,
}

/// The flat form in a file. Serde's own tagged enums accept unknown fields beside a variant without any.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    vocab_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
}

impl TryFrom<Fields> for TokenizerConfig {
    type Error = &'static str;

    fn try_from(
        Fields {
            kind,
            vocab_size,
            path,
        }: Fields,
    ) -> Result<Self, Self::Error> {
        match (kind, vocab_size, path) {
            (Kind::Bytes, None, None) => Ok(Self::Bytes),
            (Kind::Chars, None, None) => Ok(Self::Chars),
            (Kind::Bpe, Some(vocab_size), None) => Ok(Self::Bpe { vocab_size }),
            (Kind::Bpe, None, None) => {
                Err("tokenizer kind `bpe` needs `vocab_size`, for example 4096")
            }
            (Kind::File, None, Some(path)) => Ok(Self::File { path }),
            (Kind::File, None, None) => {
                Err("tokenizer kind `file` needs `path`, the path of a tokenizer.json")
            }
            (Kind::Bytes | Kind::Chars | Kind::File, Some(_), _) => {
                Err("tokenizer field `vocab_size` belongs to kind `bpe` only: remove it")
            }
            (_, _, Some(_)) => Err("tokenizer field `path` belongs to kind `file` only: remove it"),
        }
    }
}

impl From<TokenizerConfig> for Fields {
    fn from(config: TokenizerConfig) -> Self {
        let plain = |kind| Self {
            kind,
            vocab_size: None,
            path: None,
        };
        match config {
            TokenizerConfig::Bytes => plain(Kind::Bytes),
            TokenizerConfig::Chars => plain(Kind::Chars),
            TokenizerConfig::Bpe { vocab_size } => Self {
                vocab_size: Some(vocab_size),
                ..plain(Kind::Bpe)
            },
            TokenizerConfig::File { path } => Self {
                path: Some(path),
                ..plain(Kind::File)
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_round_trips() {
        let file = TokenizerConfig::File {
            path: "tokenizer.json".into(),
        };
        for config in [
            TokenizerConfig::Bytes,
            TokenizerConfig::Chars,
            TokenizerConfig::Bpe { vocab_size: 300 },
            file,
        ] {
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<TokenizerConfig>(&text).unwrap(), config);
        }
    }

    #[test]
    fn strict_about_fields() {
        for (text, expected) in [
            ("kind = \"bpe\"", "needs `vocab_size`"),
            ("kind = \"file\"", "needs `path`"),
            (
                "kind = \"bytes\"\nvocab_size = 300",
                "belongs to kind `bpe` only",
            ),
            (
                "kind = \"chars\"\npath = \"x\"",
                "belongs to kind `file` only",
            ),
            ("kind = \"bytes\"\nsize = 3", "unknown field `size`"),
            ("kind = \"words\"", "unknown variant `words`"),
        ] {
            let message = toml::from_str::<TokenizerConfig>(text)
                .unwrap_err()
                .to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
