//! Dynamic loss scaling (Micikevicius et al., arXiv 1710.03740, section 3.2), for gradients that pass through f16.
//!
//! The loss is multiplied by a power of two before the backward pass, and the gradient divided by it afterwards, so that what would
//! vanish below f16's least number does not. The factor halves whenever the gradient overflows, and doubles after many updates
//! without.

use kiln_zoo::Precision;
use serde::{Deserialize, Serialize};

/// Of the first step, as PyTorch's `GradScaler`.
const FIRST: f64 = 65_536.0;

/// More would scale gradients of the loss itself, of about one over the tokens of a batch, out of the range of f16.
const LARGEST: f64 = 16_777_216.0;

/// Updates without overflow after which the factor doubles, as PyTorch's `GradScaler`.
const PATIENCE: u32 = 2000;

/// The factor of the loss, which follows from the updates before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    factor: f64,
    /// Updates since it last changed.
    good: u32,
}

impl LossScale {
    /// The scale of a run before its first step; none where gradients have the range of f32.
    pub fn of(precision: Precision) -> Option<Self> {
        match precision {
            Precision::F16 => Some(Self {
                factor: FIRST,
                good: 0,
            }),
            Precision::F32 | Precision::Bf16 => None,
        }
    }

    /// What the loss is multiplied by: a power of two, so that no digit is lost.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// Notes an update with a finite gradient.
    pub(crate) fn kept(&mut self) {
        self.good += 1;
        if self.good >= PATIENCE {
            self.good = 0;
            self.factor = (2.0 * self.factor).min(LARGEST);
        }
    }

    /// Notes a gradient that was not finite, and says whether the scale could be lowered for it: at one, it is not the scale's
    /// fault.
    pub(crate) fn overflowed(&mut self) -> bool {
        self.good = 0;
        let can = self.factor > 1.0;
        self.factor = (self.factor / 2.0).max(1.0);
        can
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first() -> LossScale {
        LossScale::of(Precision::F16).unwrap()
    }

    #[test]
    fn only_f16_is_scaled() {
        assert_eq!(first().factor(), 65_536.0);
        assert_eq!(LossScale::of(Precision::F32), None);
        assert_eq!(LossScale::of(Precision::Bf16), None);
    }

    #[test]
    fn it_halves_at_once_and_doubles_after_many() {
        let mut scale = first();
        assert!(scale.overflowed());
        assert_eq!(scale.factor(), 32_768.0);
        (1..PATIENCE).for_each(|_| scale.kept());
        assert_eq!(scale.factor(), 32_768.0);
        // An overflow starts the count anew.
        assert!(scale.overflowed());
        (1..PATIENCE).for_each(|_| scale.kept());
        assert_eq!(scale.factor(), 16_384.0);
        scale.kept();
        assert_eq!(scale.factor(), 32_768.0);
        (0..PATIENCE).for_each(|_| scale.kept());
        assert_eq!(scale.factor(), 65_536.0);
    }

    /// Whatever happens it stays a power of two within its bounds, and at one an overflow is somebody else's.
    #[test]
    fn it_stays_within_its_bounds() {
        let mut scale = first();
        for _ in 0..16 {
            assert!(scale.overflowed());
        }
        assert_eq!(scale.factor(), 1.0);
        assert!(!scale.overflowed());
        assert_eq!(scale.factor(), 1.0);
        (0..30 * PATIENCE).for_each(|_| scale.kept());
        assert_eq!(scale.factor(), LARGEST);
        // Three overflows in ten thousand updates, at places without a pattern.
        let mut state = 7_u64;
        for _ in 0..100_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            match (state >> 33).is_multiple_of(3333) {
                true => _ = scale.overflowed(),
                false => scale.kept(),
            }
            let factor = scale.factor();
            assert!((1.0..=LARGEST).contains(&factor) && factor.log2().fract() == 0.0);
        }
    }
}
