//! What a preparation is asked for, and what it says about itself.

use serde::{Deserialize, Serialize};

use crate::hash::Hash;
use crate::tokenizer::TokenizerConfig;

/// The data section of a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// `rust-deps`, `tiny-shakespeare` or `text:PATH`.
    pub name: String,
    /// How text becomes tokens.
    pub tokenizer: TokenizerConfig,
    /// Limit for all splits together, in bytes. `rust-deps` samples down to it, the others are refused above it.
    pub max_bytes: u64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            name: "rust-deps".to_owned(),
            tokenizer: TokenizerConfig::Bytes,
            max_bytes: 16 << 20,
        }
    }
}

/// What a preparation consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The corpus, by the name it was asked for.
    pub corpus: String,
    /// Hash of all documents.
    pub corpus_hash: Hash,
    /// Hash of the tokenizer.
    pub tokenizer_hash: Hash,
    /// Tokens in the vocabulary.
    pub vocab_size: u32,
    /// The train split.
    pub train: SplitInfo,
    /// The validation split.
    pub validation: SplitInfo,
    /// The test split, where the corpus has one.
    pub test: Option<SplitInfo>,
}

/// Size of one split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitInfo {
    /// Documents.
    pub documents: u64,
    /// Tokens.
    pub tokens: u64,
    /// Bytes of source text.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_is_strict_has_defaults_and_round_trips() {
        let config: DataConfig = toml::from_str("").unwrap();
        assert_eq!(config, DataConfig::default());
        assert_eq!(
            (config.name.as_str(), config.max_bytes),
            ("rust-deps", 16_777_216)
        );
        let text = "name = \"tiny-shakespeare\"\ntokenizer = \"bpe:512\"\n";
        let config: DataConfig = toml::from_str(text).unwrap();
        assert_eq!(config.tokenizer, TokenizerConfig::Bpe { vocab_size: 512 });
        assert_eq!(
            toml::from_str::<DataConfig>(&toml::to_string(&config).unwrap()).unwrap(),
            config
        );
        let message = toml::from_str::<DataConfig>("names = \"x\"")
            .unwrap_err()
            .to_string();
        assert!(message.contains("unknown field `names`"), "{message}");
    }
}
