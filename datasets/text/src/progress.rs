//! What the crate tells its caller while it works.

use std::path::PathBuf;

use kiln_loader::Split;

/// One step of progress. The crate never prints; the caller decides what to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// `cargo metadata` is running to find the packages of the workspace.
    Discovering,
    /// Source files are being read: documents and bytes kept so far.
    Reading {
        /// Documents kept so far.
        documents: u64,
        /// Bytes kept so far.
        bytes: u64,
    },
    /// A file is being downloaded.
    Downloading {
        /// Where it comes from.
        url: String,
        /// Bytes on disk, resumed ones included.
        done: u64,
        /// Bytes in all, where the server said so.
        total: Option<u64>,
    },
    /// A byte-pair tokenizer is being trained (once per corpus and vocabulary size).
    TrainingTokenizer {
        /// Size asked for, in tokens.
        vocab_size: u32,
    },
    /// A split is being tokenized.
    Tokenizing {
        /// Which one.
        split: Split,
        /// Source bytes done.
        done: u64,
        /// Source bytes in all.
        total: u64,
    },
    /// An earlier preparation was found, verified, and is used.
    Reused {
        /// Its folder.
        path: PathBuf,
    },
    /// Something the user should know; the work goes on.
    Warning(String),
}
