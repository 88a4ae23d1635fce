//! The keys of stages after which layers multiply integers.

use kiln_train::InputSteps;

use super::{Keys, Kind};
use crate::recipe::Integer;

/// Half of the difficulty for each side, as in SmoothQuant.
const ALPHA: f64 = 0.5;

impl Keys {
    /// The stage, if its method is one of these.
    pub(super) fn integer(&mut self) -> Result<Option<Integer>, String> {
        let smoothing = match self.method.as_deref() {
            Some("w8a8") => None,
            Some("smoothquant") => Some(self.alpha.take().unwrap_or(ALPHA)),
            _ => return Ok(None),
        };
        if let Some(alpha) = smoothing.filter(|alpha| !(0.0..=1.0).contains(alpha)) {
            return Err(format!("`alpha` is {alpha}, but must lie in [0, 1]"));
        }
        self.method = None;
        Ok(Some(Integer {
            smoothing,
            inputs: self.inputs.take().unwrap_or(InputSteps::Dynamic),
        }))
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
        inputs: Some(work.inputs),
        ..Keys::default()
    }
}
