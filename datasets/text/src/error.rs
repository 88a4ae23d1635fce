//! Everything that can go wrong between bytes and batches.

use std::io;
use std::path::{Path, PathBuf};

use crate::hash::Hash;
use kiln_loader::Split;

/// An error of this crate. Every message names the value that was wrong and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },

    /// No corpus has this name.
    #[error(
        "unknown corpus `{name}`: use `rust-deps`, `tiny-shakespeare`, or `text:PATH` for a file or folder of your own"
    )]
    UnknownCorpus {
        /// The name as given.
        name: String,
    },
    /// A corpus, or a split that training needs, holds no text.
    #[error("corpus `{name}` has no text{}: give it more or longer documents", split.map(|s| format!(" for its {s} split")).unwrap_or_default())]
    EmptyCorpus {
        /// Which corpus.
        name: String,
        /// The split that is empty, or none where all are.
        split: Option<Split>,
    },
    /// A corpus that is not sampled is larger than the limit.
    #[error(
        "corpus `{name}` has {bytes} bytes, more than max_bytes = {max_bytes}: raise max_bytes or use a smaller text"
    )]
    CorpusTooLarge {
        /// Which corpus.
        name: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// A file is not UTF-8 text, or contains a NUL byte.
    #[error("{} is not text: the byte at offset {offset} is NUL or not UTF-8; remove the file or convert it", path.display())]
    NotText {
        /// Which file.
        path: PathBuf,
        /// Offset of the first bad byte.
        offset: usize,
    },
    /// `cargo metadata` could not list the dependencies of the workspace.
    #[error("cannot list the dependencies of {}: {reason}; `rust-deps` needs cargo and a workspace with a Cargo.lock", manifest.display())]
    CargoMetadata {
        /// The workspace.
        manifest: PathBuf,
        /// What cargo said.
        reason: String,
    },
    /// `import` was asked for a corpus that is not a downloaded file.
    #[error(
        "`{name}` cannot be imported: only `tiny-shakespeare` can; `rust-deps` is read from cargo's registry, `text:PATH` in place"
    )]
    NotImportable {
        /// The name as given.
        name: String,
    },

    /// The server answered with an error status.
    #[error(
        "{url} answered HTTP {status}: check the address, or fetch the file elsewhere and use `data import`"
    )]
    HttpStatus {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
    },
    /// The server could not be reached, or the connection broke.
    #[error(
        "cannot fetch {url} after {attempts} attempts: {reason}; check the network, or use `data import` with a local copy"
    )]
    Transport {
        /// What was asked for.
        url: String,
        /// How often it was tried.
        attempts: u32,
        /// What happened last.
        reason: String,
    },
    /// A transfer ended early every time.
    #[error(
        "{url} ended after {received} of {expected} bytes, {attempts} times; run again to resume from there"
    )]
    Truncated {
        /// What was asked for.
        url: String,
        /// How often it was tried.
        attempts: u32,
        /// Bytes on disk.
        received: u64,
        /// Bytes the server announced.
        expected: u64,
    },
    /// A file is not the one that was expected.
    #[error(
        "{what} has sha256 {found}, expected {expected}: it is damaged or another version; delete it and get a fresh copy"
    )]
    ChecksumMismatch {
        /// Path or address.
        what: String,
        /// The digest of what was found.
        found: Hash,
        /// The digest it should have.
        expected: Hash,
    },

    /// A byte-pair vocabulary cannot be this small.
    #[error(
        "vocab_size = {vocab_size} is too small: a byte-level vocabulary needs at least 256 tokens"
    )]
    VocabularyTooSmall {
        /// The size asked for.
        vocab_size: u32,
    },
    /// A `chars` tokenizer does not know a character.
    #[error(
        "character {character:?} at byte {offset} is not in the vocabulary of {vocab_size} characters: remove it, or use `bytes` or `bpe`"
    )]
    UnknownCharacter {
        /// Which character.
        character: char,
        /// Where in the text.
        offset: usize,
        /// Characters known.
        vocab_size: u32,
    },
    /// A token id is outside the vocabulary.
    #[error(
        "token {id} is not in the vocabulary of {vocab_size} tokens: model and tokenizer do not belong together"
    )]
    UnknownToken {
        /// The id.
        id: u32,
        /// Tokens known.
        vocab_size: u32,
    },
    /// A tokenizer file does not parse, or is of a kind that is not supported.
    #[error("cannot use the tokenizer {}: {reason}; give a byte-level `tokenizer.json`, or use `bytes`, `chars` or `bpe`", path.display())]
    TokenizerFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The `tokenizers` library failed.
    #[error("the tokenizer failed to {action}: {reason}; try another vocabulary size or `bytes`")]
    Tokenizer {
        /// What was tried, as a verb.
        action: &'static str,
        /// What it said.
        reason: String,
    },

    /// A file does not start like a token shard.
    #[error("{} is not a token shard: it starts with {found:02x?}, expected {expected:02x?}; prepare the data again", path.display())]
    NotAShard {
        /// Which file.
        path: PathBuf,
        /// First bytes found.
        found: Vec<u8>,
        /// First bytes of every shard.
        expected: Vec<u8>,
    },
    /// A shard was written by another version of the format.
    #[error("{} has shard format {found}, this program reads {expected}; prepare the data again", path.display())]
    ShardVersion {
        /// Which file.
        path: PathBuf,
        /// Version found.
        found: u32,
        /// Version supported.
        expected: u32,
    },
    /// A shard is shorter or longer than its header says.
    #[error("{} has {found} bytes, expected {expected}; prepare the data again", path.display())]
    ShardLength {
        /// Which file.
        path: PathBuf,
        /// Bytes found.
        found: u64,
        /// Bytes expected.
        expected: u64,
    },
    /// A field or checksum of a shard is not what it has to be.
    #[error("{}: {what} is {found}, expected {expected}; prepare the data again", path.display())]
    ShardMismatch {
        /// Which file.
        path: PathBuf,
        /// Which field.
        what: &'static str,
        /// Value found.
        found: String,
        /// Value expected.
        expected: String,
    },
    /// The manifest of prepared data cannot be used.
    #[error("{} is not a usable manifest: {reason}; prepare the data again", path.display())]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// Windows of no token.
    #[error("a window of seq = 0 tokens predicts nothing: give a seq of at least 1")]
    WindowTooShort,
    /// Sliding windows that leave targets out, or none.
    #[error(
        "windows of {context} tokens cannot begin {stride} tokens apart: give a stride from 1 to {context}"
    )]
    Stride {
        /// Tokens from one window to the next.
        stride: usize,
        /// Window length.
        context: usize,
    },
    /// A split cannot fill one window.
    #[error(
        "the split has {tokens} tokens, a window of seq = {seq} needs {needed}: use more text or a shorter seq"
    )]
    SplitTooShort {
        /// Tokens in the split.
        tokens: u64,
        /// Window length.
        seq: usize,
        /// Tokens that one window needs.
        needed: u64,
    },
    /// An n-gram model needs grams of some length.
    #[error("an n-gram model of order {order} counts nothing: use an order of at least 1")]
    NgramOrder {
        /// The order asked for.
        order: usize,
    },
}

impl DataError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
