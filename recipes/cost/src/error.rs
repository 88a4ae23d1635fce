//! What can keep a cost from being measured or read.

use std::path::PathBuf;

use thiserror::Error;

/// A cost that cannot be measured, written or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CostError {
    /// A setting that nothing can be measured with.
    #[error("`--{name}` is {value}, but {why}")]
    Setting {
        /// Option of the command line.
        name: &'static str,
        /// What was given.
        value: String,
        /// The bound it breaks.
        why: String,
    },
    /// A cost file of another layout.
    #[error("{path} has layout {found}, and this Kiln reads {expected}; measure again with `cargo xtask cost`", path = path.display())]
    WrongVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The version that can be read.
        expected: u32,
    },
    /// A cost file that holds something else.
    #[error("{path} is no cost of a model: {why}; measure again with `cargo xtask cost`", path = path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Decoding ended in an error.
    #[error("decoding cannot be timed: {0}")]
    Decoding(String),
    /// A training step ended in an error.
    #[error("the step cannot be timed: {0}")]
    Step(String),
    /// A step that is more than the model's own.
    #[error(
        "the recipe has the teacher {teacher}, and a step is timed without: take the recipe of the student alone",
        teacher = .0.display()
    )]
    Teacher(PathBuf),
    /// A run or a recipe cannot be opened.
    #[error(transparent)]
    Train(#[from] kiln_train::TrainError),
    /// The model cannot be built.
    #[error("model: {0}")]
    Model(#[from] kiln_zoo::ModelError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] kiln_run::FileError),
}
