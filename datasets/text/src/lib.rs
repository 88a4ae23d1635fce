//! Text corpora for training language models: bytes -> documents -> tokens -> memory-mapped shards -> windows.
//!
//! The crate knows no model and no tensor library. Each module does one of those steps:
//!
//! - [`corpus`]: where text comes from, and how it is split into train, validation and test.
//! - [`download`]: fetching one file over HTTP, resumable and verified.
//! - [`tokenizer`]: text to token ids and back, and the streaming decoder that generation uses.
//! - [`shard`] and [`store`]: token ids on disk, verified when opened, read through a memory map.
//! - [`mod@prepare`]: all of the above in one call, cached by content.
//! - [`windows`]: aligned inputs and targets, which kiln-loader puts into batches.
//! - [`bigram`] and [`ngram`]: the baselines that every trained model has to beat.
//!
//! Nothing here prints: progress and warnings go to the caller's callback as [`Progress`] values.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bigram;
pub mod corpus;
pub mod download;
pub mod env;
pub mod error;
mod files;
pub mod hash;
pub mod ngram;
pub mod prepare;
mod progress;
pub mod shard;
pub mod store;
pub mod tokenizer;
pub mod windows;
mod words;

pub use bigram::{Bigram, BigramReport};
pub use corpus::{Corpus, CorpusInfo, CorpusSource, CorpusState, Document, import, list};
pub use env::DataEnv;
pub use error::DataError;
pub use hash::Hash;
pub use ngram::{Ngram, NgramReport};
pub use prepare::{DataConfig, Manifest, Prepared, SplitInfo, prepare};
pub use progress::Progress;
pub use store::TokenStore;
pub use tokenizer::{StreamDecoder, Tokenizer, TokenizerConfig};
pub use windows::TextWindows;
pub use words::words;
