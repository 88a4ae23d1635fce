//! The codes of a group of weights, and the scale that fits them.

use half::f16;
use serde::{Deserialize, Serialize};

use crate::MethodError;

/// Steps of the search for the range that is clipped to, and the narrowest of them.
const CLIP_STEPS: usize = 40;
const NARROWEST: f64 = 0.4;

/// How a range of weights is turned into codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grid {
    /// Bits of a code: 2, 3, 4 or 8, those that there is a packed storage for.
    pub bits: u8,
    /// Whether zero is the middle code. Else the range goes from the least weight to the greatest, with zero on a code.
    pub symmetric: bool,
}

/// Which range of a group's weights the codes cover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clip {
    /// All of it.
    #[default]
    None,
    /// As much as gives the least squared error: large weights give way to a finer scale.
    Mse,
}

/// Scale and zero point of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Distance of two codes; a number of half precision.
    pub scale: f32,
    /// The code that stands for zero.
    pub zero: u8,
}

impl Level {
    /// What a code stands for.
    pub fn value(&self, code: u8) -> f32 {
        self.scale * (f32::from(code) - f32::from(self.zero))
    }
}

impl Grid {
    /// Checks the bits.
    ///
    /// # Errors
    /// Other bits than 2, 3, 4 and 8.
    pub fn check(&self) -> Result<(), MethodError> {
        match self.bits {
            2 | 3 | 4 | 8 => Ok(()),
            bits => Err(MethodError::Setting {
                key: "bits",
                value: bits.to_string(),
                why: "must be 2, 3, 4 or 8",
            }),
        }
    }

    /// The greatest code.
    pub fn most(&self) -> u8 {
        u8::MAX >> (8 - self.bits)
    }

    /// The code nearest to a weight. One that `is_zero` gets the code that stands for zero exactly.
    pub(super) fn code(&self, level: Level, weight: f64, is_zero: bool) -> u8 {
        if is_zero || level.scale == 0.0 {
            return level.zero;
        }
        let steps = (weight / f64::from(level.scale)).round() + f64::from(level.zero);
        steps.clamp(0.0, f64::from(self.most())) as u8
    }

    /// The level for a group of weights.
    pub(super) fn fit(&self, weights: &[f64], clip: Clip) -> Level {
        let low = weights.iter().copied().fold(0.0, f64::min);
        let high = weights.iter().copied().fold(0.0, f64::max);
        let whole = self.level(low, high);
        match clip {
            Clip::None => whole,
            Clip::Mse => {
                let candidates = (0..CLIP_STEPS).map(|step| {
                    let share = 1.0 - (1.0 - NARROWEST) * step as f64 / CLIP_STEPS as f64;
                    let level = self.level(share * low, share * high);
                    (self.squared_error(level, weights), level)
                });
                let best = candidates.min_by(|a, b| a.0.total_cmp(&b.0));
                best.map_or(whole, |(_, level)| level)
            }
        }
    }

    /// The level whose codes cover `low..=high`, which holds zero.
    fn level(&self, low: f64, high: f64) -> Level {
        let most = f64::from(self.most());
        let (scale, zero) = match self.symmetric {
            true => {
                let middle = 1_u8 << (self.bits - 1);
                (high.max(-low) / (f64::from(middle) - 1.0), middle)
            }
            false => {
                let scale = (high - low) / most;
                let zero = if scale > 0.0 {
                    (-low / scale).round()
                } else {
                    0.0
                };
                (scale, zero.min(most) as u8)
            }
        };
        Level {
            scale: f16::from_f64(scale).to_f32(),
            zero,
        }
    }

    fn squared_error(&self, level: Level, weights: &[f64]) -> f64 {
        let error = |weight: &f64| {
            let code = self.code(level, *weight, *weight == 0.0);
            (f64::from(level.value(code)) - weight).powi(2)
        };
        weights.iter().map(error).sum()
    }
}
