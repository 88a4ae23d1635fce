//! Stages after which layers multiply integers.

use std::fmt;

/// Where the step of inputs of 8 bits comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntegerInputs {
    /// The largest input of the calibration.
    Static,
    /// The largest of each token.
    Dynamic,
}

/// A stage that makes weights int8, and the inputs that they multiply integers of 8 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Integer {
    /// Share of the inputs' difficulty that the weights take over (SmoothQuant's alpha), in [0, 1]; none leaves both as they are.
    pub smoothing: Option<f64>,
    /// Where the step of the inputs comes from.
    pub inputs: IntegerInputs,
}

impl Integer {
    /// Whether it goes by the inputs of a calibration.
    pub fn is_calibrated(&self) -> bool {
        self.smoothing.is_some() || self.inputs == IntegerInputs::Static
    }

    /// The same without calibration: as large, but for the divisors of inputs that no norm takes over, and for the stored steps.
    pub fn without_calibration(&self) -> Self {
        Self {
            smoothing: None,
            inputs: IntegerInputs::Dynamic,
        }
    }
}

impl fmt::Display for Integer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.smoothing {
            Some(alpha) => write!(f, "smoothquant {alpha}, w8a8")?,
            None => f.write_str("w8a8")?,
        }
        f.write_str(match self.inputs {
            IntegerInputs::Static => ", static inputs",
            IntegerInputs::Dynamic => ", dynamic inputs",
        })
    }
}
