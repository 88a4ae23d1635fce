//! `windows.json` of a run: what every held-out window scored.

use serde::{Deserialize, Serialize};

use crate::evaluate::Score;

/// Layout version of [`WindowScores`].
pub const WINDOWS_VERSION: u32 = 1;

/// Scores of the final evaluation, window by window. Runs on the same data with the same `train.seq` have the same windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowScores {
    /// [`WINDOWS_VERSION`].
    pub version: u32,
    /// Of the validation split.
    pub validation: WindowColumns,
    /// Of the test split, where there is one.
    pub test: Option<WindowColumns>,
}

/// Sums over the targets of each window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowColumns {
    /// Negative log-likelihood in nats; in f32, as it was computed.
    pub nats: Vec<f32>,
    /// Targets.
    pub tokens: Vec<u64>,
    /// Targets that the model scored highest; empty where that was not counted.
    pub correct: Vec<u64>,
}

impl WindowColumns {
    /// The columns of scores.
    pub fn of(scores: &[Score]) -> Self {
        Self {
            nats: scores.iter().map(|score| score.nats as f32).collect(),
            tokens: scores.iter().map(|score| score.tokens).collect(),
            correct: scores.iter().map(|score| score.correct).collect(),
        }
    }
}
