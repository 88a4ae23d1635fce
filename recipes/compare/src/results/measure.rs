//! What arms are compared by.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::Figures;
use crate::study::{Difference, Quality};

/// A figure of the validation split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Measure {
    /// Loss in nats a token, which needs equal tokens.
    #[serde(rename = "validation nats/token")]
    NatsPerToken,
    /// Loss in bits per byte, for arms whose tokenizers may differ.
    #[serde(rename = "validation bits/byte")]
    BitsPerByte,
    /// Share of target tokens whose likeliest prediction is right.
    #[serde(rename = "validation accuracy")]
    Accuracy,
}

impl Measure {
    /// The one that arms share, given what they are asked to be good at and what they may differ in.
    pub fn shared(quality: Quality, allow: &[Difference]) -> Self {
        match quality {
            Quality::Accuracy => Self::Accuracy,
            Quality::Loss if allow.contains(&Difference::Data) => Self::BitsPerByte,
            Quality::Loss => Self::NatsPerToken,
        }
    }

    /// A run's; not a number where the run has none.
    pub fn of(self, figures: &Figures) -> f64 {
        match self {
            Self::NatsPerToken => figures.validation_loss,
            Self::BitsPerByte => figures.validation_bits_per_byte.unwrap_or(f64::NAN),
            Self::Accuracy => figures.validation_accuracy.unwrap_or(f64::NAN),
        }
    }

    /// Its name in the final record of a run.
    pub fn key(self) -> &'static str {
        match self {
            Self::NatsPerToken => "validation_loss",
            Self::BitsPerByte => "validation_bits_per_byte",
            Self::Accuracy => "validation_accuracy",
        }
    }

    /// Its unit.
    pub fn unit(self) -> &'static str {
        match self {
            Self::NatsPerToken => "nats/token",
            Self::BitsPerByte => "bits/byte",
            Self::Accuracy => "accuracy",
        }
    }

    /// Whether more is better.
    pub fn more_is_better(self) -> bool {
        self == Self::Accuracy
    }

    /// The better of two finite values first.
    pub fn order(self, a: f64, b: f64) -> Ordering {
        match self.more_is_better() {
            true => b.total_cmp(&a),
            false => a.total_cmp(&b),
        }
    }
}
