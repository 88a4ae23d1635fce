//! How a run ended, and what it found.

use std::path::PathBuf;

use kiln_text::BigramReport;

use crate::contexts::ContextScore;
use crate::evaluate::{Score, TeacherScore};

/// How a run ended.
pub struct Outcome {
    /// Its folder.
    pub folder: PathBuf,
    /// Steps made.
    pub step: u64,
    /// Why it stopped.
    pub stop: Stop,
    /// Scores of the best weights; none if it was interrupted.
    pub result: Option<RunResult>,
}

/// Why a run stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All steps were made.
    Finished,
    /// `train.max_seconds` passed.
    OutOfTime,
    /// `train.patience` evaluations without a better one.
    NoProgress,
    /// An evaluation had `train.target_accuracy`.
    Reached,
    /// Someone asked for it; a checkpoint was written.
    Interrupted,
}

/// The result of a finished run.
pub struct RunResult {
    /// Step of the best weights.
    pub best_step: u64,
    /// Validation score of the best weights: the full sweep, or random windows if the recipe asks for no sweep.
    pub validation: HeldOut,
    /// Test score, where there is a test split.
    pub test: Option<HeldOut>,
    /// The bigram baseline on the validation split; none for tasks, and for masked objectives, which it cannot answer.
    pub bigram: Option<BigramReport>,
    /// Validation loss against context, if the recipe asks for lengths.
    pub contexts: Vec<ContextScore>,
    /// Generated text; none for tasks and for bidirectional models.
    pub sample: Option<String>,
    /// Trainable and frozen parameters.
    pub params: usize,
    /// Generation state of one sequence of the trained length, bytes; none of a model that cannot generate.
    pub state_bytes: Option<u64>,
    /// Operations of all steps, forward and backward, and a teacher's forward ones.
    pub flops: f64,
}

/// The score of a held-out split.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeldOut {
    /// Sums over its targets.
    pub score: Score,
    /// The loss in bits per byte of text; none for a task.
    pub bits_per_byte: Option<f64>,
    /// Perplexity per word of text; none for a task, and where it was not asked for.
    pub word_perplexity: Option<f64>,
    /// The model beside its teacher, if it has one.
    pub teacher: Option<TeacherScore>,
}
