//! The parts of a data set.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A part of a data set. A model learns from one, is tuned on another and judged on the third.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Learned from.
    Train,
    /// Used to choose settings and to stop.
    Validation,
    /// Looked at once, at the end.
    Test,
}

impl Split {
    /// All splits, in the order in which they are hashed and written.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// `train`, `validation` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
