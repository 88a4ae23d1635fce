//! Everything that can end a run, with what to do about it.

use std::path::PathBuf;

use thiserror::Error;

/// A failure of training, evaluation or generation.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The recipe cannot be read or is wrong.
    #[error(transparent)]
    Recipe(#[from] kiln_run::RecipeError),
    /// A recipe that parses, but asks for something that cannot be.
    #[error("recipe: `{key}` is {value}, but {why}")]
    Setting {
        /// Dotted key.
        key: &'static str,
        /// What was given.
        value: String,
        /// The bound it breaks and what to do.
        why: String,
    },
    /// The model cannot be built or run.
    #[error("model: {0}")]
    Model(#[from] kiln_zoo::ModelError),
    /// The corpus cannot be read or prepared.
    #[error(transparent)]
    Data(#[from] kiln_text::DataError),
    /// The task cannot be drawn.
    #[error("recipe: {0}")]
    Task(#[from] kiln_tasks::TaskError),
    /// Batches cannot be made.
    #[error(transparent)]
    Loader(#[from] kiln_loader::LoaderError),
    /// The run folder cannot be used.
    #[error(transparent)]
    Folder(#[from] kiln_run::FolderError),
    /// A checkpoint cannot be written or read.
    #[error(transparent)]
    Checkpoint(#[from] kiln_run::CheckpointError),
    /// A file of the run cannot be written or read.
    #[error(transparent)]
    File(#[from] kiln_run::FileError),
    /// The metrics file is damaged.
    #[error(transparent)]
    Metrics(#[from] kiln_run::MetricsError),
    /// A file of a run holds something that is not what it should be.
    #[error("{path} is not usable: {why}", path = path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// A trained tensor that cannot be stored in the form it has to have.
    #[error("`{tensor}` cannot be stored in its form: {why}")]
    Form {
        /// The tensor.
        tensor: String,
        /// Why.
        why: String,
    },
    /// A run that would be scored on something else than it was trained for.
    #[error(
        "{path} was made with another {what} than it is to be scored with: {found} against {wanted}; take a run of the same {what}, or a recipe that says what the run's does",
        path = path.display()
    )]
    OtherRun {
        /// The run.
        path: PathBuf,
        /// Seed, text, tokenizer or objective.
        what: &'static str,
        /// The run's.
        found: String,
        /// The recipe's.
        wanted: String,
    },
    /// `--resume` where there is nothing to go on from.
    #[error(
        "{path} has no usable checkpoint to resume from; start it anew without --resume, with another --out",
        path = path.display()
    )]
    NothingToResume {
        /// The run folder.
        path: PathBuf,
    },
    /// The recipe changed between start and resume.
    #[error(
        "cannot resume: `{key}` was {before} when this run started and is {now} now; resume with the same recipe, or start anew with another --out"
    )]
    RecipeChanged {
        /// What changed.
        key: String,
        /// Value in the run folder.
        before: String,
        /// Value now.
        now: String,
    },
    /// Loss or gradient stopped being finite.
    #[error(
        "step {step}: {what} was not finite {times} steps in a row; the last good checkpoint is kept. Try a smaller `optimizer.learning_rate` or `optimizer.clip_norm`, or raise `train.max_skipped` (now {allowed})"
    )]
    NonFinite {
        /// The step that gave up.
        step: u64,
        /// Loss or gradient norm.
        what: &'static str,
        /// How many steps in a row.
        times: u32,
        /// How many the recipe allows.
        allowed: u32,
    },
    /// The device stopped answering.
    #[error("the device stopped answering: {0}; `cargo xtask doctor` says which devices do")]
    DeviceLost(String),
    /// One of several devices that train together failed.
    #[error(
        "the replica on {device} failed, and with it the run: {why}; go on from the last checkpoint with --resume, on fewer devices if this one is gone"
    )]
    Replica {
        /// Its device.
        device: String,
        /// What it said.
        why: String,
    },
    /// Replicas of one model are not equal any more.
    #[error(
        "step {step}: the weights of device {rank} of those that train together differ from the first one's; the last checkpoint is from when they were equal. Go on from it with --resume; if it happens again, one of the devices computes wrongly: `cargo xtask doctor`"
    )]
    Drift {
        /// Which of the devices.
        rank: usize,
        /// When it was found.
        step: u64,
    },
    /// Replicas brought gradients of different sizes.
    #[error(
        "the devices that train together have gradients of different sizes, so that they cannot be added up; train on one device"
    )]
    Lengths,
    /// Another device that trains with this one failed, and said why.
    #[error("another of the devices that train together ended the run")]
    Abandoned,
    /// A teacher's answers cannot be kept or read.
    #[error(transparent)]
    Cache(#[from] kiln_distill::CacheError),
    /// The chosen backend cannot be had.
    #[error(transparent)]
    Device(#[from] crate::DeviceError),
    /// Text was asked of a model of a task.
    #[error("{path} was trained on the task `{task}` and has no tokenizer: there is no text to generate or to score", path = path.display())]
    NoText {
        /// The run folder.
        path: PathBuf,
        /// The task.
        task: String,
    },
    /// Generation was asked for without a prompt.
    #[error(
        "the prompt is empty: give at least one token to continue from, for example --prompt \"fn main\""
    )]
    EmptyPrompt,
}

impl TrainError {
    pub(crate) fn setting(key: &'static str, value: impl ToString, why: impl Into<String>) -> Self {
        Self::Setting {
            key,
            value: value.to_string(),
            why: why.into(),
        }
    }
}
