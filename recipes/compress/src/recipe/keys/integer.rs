//! The keys of stages that leave 8 bits a weight: layers that multiply integers, and floating point.

use kiln_train::InputSteps;

use super::{Keys, Kind};
use crate::recipe::{Integer, IntegerInputs, Work};

/// Half of the difficulty for each side, as in SmoothQuant.
const ALPHA: f64 = 0.5;

impl Keys {
    /// The stage, if its method is one of these.
    pub(super) fn eight_bits(&mut self) -> Result<Option<Work>, String> {
        let smoothing = match self.method.as_deref() {
            Some("fp8") => {
                self.method = None;
                return Ok(Some(Work::Float8));
            }
            Some("w8a8") => None,
            Some("smoothquant") => Some(self.alpha.take().unwrap_or(ALPHA)),
            _ => return Ok(None),
        };
        if let Some(alpha) = smoothing.filter(|alpha| !(0.0..=1.0).contains(alpha)) {
            return Err(format!("`alpha` is {alpha}, but must lie in [0, 1]"));
        }
        let inputs = match self.inputs.take() {
            Some(InputSteps::Static) => IntegerInputs::Static,
            Some(InputSteps::Dynamic) | None => IntegerInputs::Dynamic,
            Some(InputSteps::Sign) => {
                return Err("`inputs` is \"sign\", but int8 weights take \"dynamic\" or \"static\" ones; signs are trained, by a stage `kind = \"qat\"`, `method = \"sign\"`".into());
            }
        };
        self.method = None;
        Ok(Some(Work::Integer(Integer { smoothing, inputs })))
    }
}

/// The keys that say the same.
pub(super) fn integer_keys(work: Integer) -> Keys {
    Keys {
        kind: Kind::Quantize,
        method: Some(match work.smoothing {
            Some(_) => "smoothquant".into(),
            None => "w8a8".into(),
        }),
        alpha: work.smoothing,
        inputs: Some(match work.inputs {
            IntegerInputs::Static => InputSteps::Static,
            IntegerInputs::Dynamic => InputSteps::Dynamic,
        }),
        ..Keys::default()
    }
}
