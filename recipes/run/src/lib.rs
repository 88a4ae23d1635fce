//! Everything about a run that is not arithmetic.
//!
//! | module | job |
//! |---|---|
//! | [`recipe`] | strict TOML recipe files: layers, `--set`, errors that name the nearest key |
//! | [`folder`] | the run folder, its well-known paths and its lock |
//! | [`checkpoint`] | checkpoints that survive `kill -9`, a full disk and a flipped bit |
//! | [`atomic`] | files that are either the old one or the new one |
//! | [`metrics`] | one JSON object a line, appended while the run goes on |
//! | [`live`] | what a person sees meanwhile |
//! | [`hardware`] | what the run ran on, and from which commit |
//! | [`report`] | the one page that is left at the end |
//! | [`interrupt`] | Ctrl-C as a request to stop cleanly |
//! | [`mod@format`] | numbers, sizes and times as a person reads them |
//!
//! This crate knows no tensor, model or dataset, and neither reads nor prints anything unless asked
//! to.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod atomic;
pub mod checkpoint;
pub mod error;
pub mod folder;
pub mod format;
pub mod hardware;
pub mod interrupt;
pub mod live;
pub mod metrics;
pub mod recipe;
pub mod report;

pub use atomic::atomic_write;
pub use checkpoint::{Checkpoint, CheckpointError, CheckpointStore, CheckpointWriter};
pub use error::FileError;
pub use folder::{FolderError, RunFolder};
pub use interrupt::Interrupt;
pub use live::{Board, Mode, Progress, View};
pub use metrics::{Kind, MetricsError, MetricsWriter, Record};
pub use recipe::{Recipe, RecipeError};
pub use report::Report;
