//! Checkpoints: folders of files that are complete, or not there.
//!
//! ```text
//! checkpoints/step-00001000/manifest.json   bytes and sha256 of every file of it
//! checkpoints/step-00001000/model.safetensors
//! checkpoints/best.json                     {step, value}: the best of them, and its loss
//! checkpoints/.tmp-step-00002000-<pid>      being written; left by a kill, removed at the next start
//! ```
//!
//! A checkpoint is written under a temporary name, every file fsynced, and renamed at the end, so
//! `kill -9` at any moment leaves the last complete one. Loading verifies every byte, so a
//! truncated file or a flipped bit is an error, not a strange loss.

mod manifest;
mod store;
mod writer;

use std::path::PathBuf;

pub use manifest::{Checkpoint, FileRecord, Manifest};
pub use store::{Best, CheckpointStore, Recovered};
pub use writer::CheckpointWriter;

use crate::error::FileError;

/// A checkpoint that cannot be written, or cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused. Earlier checkpoints are untouched.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no complete checkpoint of this step.
    #[error(
        "no checkpoint of step {step} in {folder}; there are: {known:?}",
        folder = folder.display()
    )]
    Missing {
        /// What was asked for.
        step: u64,
        /// Where it was looked for.
        folder: PathBuf,
        /// The steps there are.
        known: Vec<u64>,
    },
    /// The manifest or `best.json` is not what this version writes.
    #[error(
        "{path} is damaged: {reason}; the checkpoint cannot be trusted, load an earlier one",
        path = path.display()
    )]
    BadManifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the checkpoint is gone.
    #[error("{path} is missing from its checkpoint; load an earlier one", path = path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
    },
    /// A file was cut short, or has grown.
    #[error(
        "{path} has {found} bytes where its manifest says {expected}; load an earlier checkpoint",
        path = path.display()
    )]
    WrongSize {
        /// The file.
        path: PathBuf,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes on the disk.
        found: u64,
    },
    /// A file of the right length with other contents.
    #[error(
        "{path} has sha256 {found} where its manifest says {expected}; load an earlier checkpoint",
        path = path.display()
    )]
    WrongHash {
        /// The file.
        path: PathBuf,
        /// By the manifest, in hexadecimal.
        expected: String,
        /// Of the bytes on the disk, in hexadecimal.
        found: String,
    },
    /// A checkpoint was asked for a file it does not list.
    #[error("the checkpoint of step {step} has no `{name}`; it has: {known:?}")]
    NoSuchFile {
        /// The checkpoint.
        step: u64,
        /// What was asked for.
        name: String,
        /// What it has.
        known: Vec<String>,
    },
    /// A file name that would leave the folder, hide, collide, or pass for the manifest.
    #[error("`{name}` cannot be a file of a checkpoint: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// The measure of the best checkpoint is not a number.
    #[error(
        "the checkpoint of step {step} cannot be the best with the value {value}; it must be finite"
    )]
    BadBest {
        /// The checkpoint.
        step: u64,
        /// The value given.
        value: f64,
    },
}
