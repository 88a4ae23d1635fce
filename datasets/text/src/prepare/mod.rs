//! From a recipe's data section to token stores, in one call that remembers its work.
//!
//! A preparation is a folder named by the hashes of corpus and tokenizer: `tokenizer.json`, `manifest.json` and one
//! shard a split. It is built under another name and renamed, so two processes preparing the same data at once leave one
//! whole folder, and an interrupted one leaves none. What is found is verified; what is damaged is built again.

mod config;

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

pub use config::{DataConfig, Manifest, SplitInfo};

use crate::corpus::{Corpus, CorpusSource, Document};
use crate::env::DataEnv;
use crate::error::DataError;
use crate::files::{self, Scratch};
use crate::progress::Progress;
use crate::shard::{self, ShardIdentity, ShardWriter};
use crate::store::TokenStore;
use crate::tokenizer::Tokenizer;
use kiln_loader::Split;

/// Data that is ready to be trained on.
#[derive(Debug)]
pub struct Prepared {
    /// Tokens to learn from.
    pub train: TokenStore,
    /// Tokens to choose settings by.
    pub validation: TokenStore,
    /// Tokens to judge by at the end; `tiny-shakespeare` has none.
    pub test: Option<TokenStore>,
    /// The tokenizer of all of them.
    pub tokenizer: Tokenizer,
    /// What was prepared.
    pub manifest: Manifest,
    /// The folder that holds all of it.
    pub path: PathBuf,
}

/// Finds or makes the tokens that `config` describes.
///
/// # Errors
/// Whatever stops the corpus, the tokenizer or the cache folder; a damaged earlier preparation is not an error but a
/// [`Progress::Warning`], and is built again.
pub fn prepare(
    config: &DataConfig,
    env: &DataEnv,
    progress: &mut dyn FnMut(Progress),
) -> Result<Prepared, DataError> {
    let source: CorpusSource = config.name.parse()?;
    let corpus = source.load(config.max_bytes, env, progress)?;
    let tokenizer = Tokenizer::for_corpus(&config.tokenizer, &corpus, &env.cache_dir, progress)?;
    prepare_corpus(&corpus, tokenizer, &env.cache_dir, progress)
}

fn prepare_corpus(
    corpus: &Corpus,
    tokenizer: Tokenizer,
    cache_dir: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Prepared, DataError> {
    let identity = ShardIdentity {
        vocab_size: tokenizer.vocab_size(),
        tokenizer: tokenizer.hash(),
        corpus: corpus.hash(),
    };
    let name = format!("{}-{}", identity.corpus.short(), identity.tokenizer.short());
    let path = cache_dir.join("prepared").join(name);
    if path.exists() {
        match open(&path, corpus.name(), &identity, &tokenizer) {
            Ok(prepared) => {
                progress(Progress::Reused { path });
                return Ok(prepared);
            }
            Err(error) => progress(Progress::Warning(format!("{error} (doing so now)"))),
        }
    }
    let scratch = Scratch::beside(&path)?;
    build(scratch.path(), corpus, &identity, &tokenizer, progress)?;
    publish(&scratch, &path, || {
        open(&path, corpus.name(), &identity, &tokenizer).is_ok()
    })?;
    open(&path, corpus.name(), &identity, &tokenizer)
}

/// Moves a finished folder to its name. Another process may have been faster; its result is kept if it is `usable`.
fn publish(scratch: &Scratch, path: &Path, usable: impl Fn() -> bool) -> Result<(), DataError> {
    let renamed = fs::rename(scratch.path(), path);
    if renamed.is_ok() || usable() {
        return Ok(());
    }
    // Something damaged holds the name: out of the way first, as a folder with content cannot be replaced.
    let old = Scratch::beside(path)?;
    if path.exists() {
        fs::rename(path, old.path()).map_err(|e| DataError::io("replace", path, e))?;
    }
    fs::rename(scratch.path(), path).map_err(|e| DataError::io("write", path, e))
}

fn shard_path(folder: &Path, split: Split) -> PathBuf {
    folder.join(format!("{split}.tokens"))
}

fn build(
    folder: &Path,
    corpus: &Corpus,
    identity: &ShardIdentity,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), DataError> {
    files::create_dir(folder)?;
    let mut infos = [None; 3];
    for split in Split::ALL {
        if corpus.documents(split).is_empty() {
            continue;
        }
        let path = shard_path(folder, split);
        let header = shard::write(&path, *identity, |writer| {
            encode(writer, corpus, split, tokenizer, progress)
        })?;
        let documents = corpus.documents(split).len() as u64;
        infos[split as usize] = Some(SplitInfo {
            documents,
            tokens: header.tokens,
            bytes: header.source_bytes,
        });
    }
    let missing = |split| DataError::EmptyCorpus {
        name: corpus.name().to_owned(),
        split: Some(split),
    };
    let [train, validation, test] = infos;
    let manifest = Manifest {
        corpus: corpus.name().to_owned(),
        corpus_hash: identity.corpus,
        tokenizer_hash: identity.tokenizer,
        vocab_size: identity.vocab_size,
        train: train.ok_or_else(|| missing(Split::Train))?,
        validation: validation.ok_or_else(|| missing(Split::Validation))?,
        test,
    };
    tokenizer.save(&folder.join("tokenizer.json"))?;
    let json = serde_json::to_string_pretty(&manifest).expect("a manifest is always JSON");
    files::write_bytes(&folder.join("manifest.json"), json.as_bytes())
}

/// Encodes one split, and says so once if the tokens do not stand for exactly its text.
fn encode(
    writer: &mut ShardWriter<'_>,
    corpus: &Corpus,
    split: Split,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), DataError> {
    // Enough documents at a time for every core, few enough to report progress often.
    const GROUP: usize = 64;
    let total = corpus.bytes(split);
    let (mut done, mut lossless) = (0, true);
    let one = |document: &Document| {
        let tokens = tokenizer.encode(&document.text)?;
        let exact = stands_for(&tokens, &document.text, tokenizer)?;
        Ok((tokens, exact))
    };
    for group in corpus.documents(split).chunks(GROUP) {
        let encoded = group
            .par_iter()
            .map(one)
            .collect::<Result<Vec<_>, DataError>>()?;
        for ((tokens, exact), document) in encoded.iter().zip(group) {
            if lossless && !exact {
                lossless = false;
                progress(Progress::Warning(format!(
                    "the tokenizer changes the text of `{}`: bits per byte count the text before the change",
                    document.name
                )));
            }
            writer.push(tokens, document.text.len() as u64)?;
            done += document.text.len() as u64;
        }
        progress(Progress::Tokenizing { split, done, total });
    }
    Ok(())
}

fn stands_for(tokens: &[u32], text: &str, tokenizer: &Tokenizer) -> Result<bool, DataError> {
    // For these each token is a byte or character of the text by construction.
    if !matches!(tokenizer, Tokenizer::HuggingFace(_)) {
        return Ok(true);
    }
    let mut rest = text.as_bytes();
    for &token in tokens {
        match rest.strip_prefix(&*tokenizer.token_bytes(token)?) {
            Some(after) => rest = after,
            None => return Ok(false),
        }
    }
    Ok(rest.is_empty())
}

fn open(
    path: &Path,
    corpus: &str,
    identity: &ShardIdentity,
    tokenizer: &Tokenizer,
) -> Result<Prepared, DataError> {
    let manifest_path = path.join("manifest.json");
    let unusable = |reason| DataError::Manifest {
        path: manifest_path.clone(),
        reason,
    };
    let mut manifest: Manifest = serde_json::from_slice(&files::read(&manifest_path)?)
        .map_err(|e| unusable(e.to_string()))?;
    let found = (
        manifest.corpus_hash,
        manifest.tokenizer_hash,
        manifest.vocab_size,
    );
    if found != (identity.corpus, identity.tokenizer, identity.vocab_size) {
        return Err(unusable(format!("it describes {found:?}")));
    }
    // The same text may have been prepared under another path.
    manifest.corpus = corpus.to_owned();
    let saved = Tokenizer::load(&path.join("tokenizer.json"))?;
    if saved.hash() != identity.tokenizer {
        return Err(unusable(format!(
            "the tokenizer beside it has sha256 {}",
            saved.hash()
        )));
    }
    let store = |split, info: &SplitInfo| {
        let store = TokenStore::open(&shard_path(path, split), identity)?;
        match (store.len(), store.bytes()) == (info.tokens, info.bytes) {
            true => Ok(store),
            false => Err(unusable(format!(
                "its {split} split has {} tokens, the shard {}",
                info.tokens,
                store.len()
            ))),
        }
    };
    Ok(Prepared {
        train: store(Split::Train, &manifest.train)?,
        validation: store(Split::Validation, &manifest.validation)?,
        test: manifest
            .test
            .as_ref()
            .map(|info| store(Split::Test, info))
            .transpose()?,
        tokenizer: tokenizer.clone(),
        manifest,
        path: path.to_owned(),
    })
}
