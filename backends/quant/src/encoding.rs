//! How a level becomes a code of few bits, and how scales are stored.

use std::ops::RangeInclusive;

use half::f16;
use serde::{Deserialize, Serialize};

/// How the entries of a packed matrix are coded.
///
/// Integers have all levels of their bits: -2^(bits - 1) to 2^(bits - 1) - 1 in two's complement, or 0 to 2^bits - 1 where there
/// are zero points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Encoding {
    /// 8 bits.
    Int8,
    /// 4 bits.
    Int4,
    /// 3 bits, without gaps: 32 codes in three words.
    Int3,
    /// 2 bits.
    Int2,
    /// -1, 0 and 1 (1.58 bits, arXiv 2402.17764), in two bits of two's complement. No zero points.
    Ternary,
    /// -1 and 1 in one bit. No zero points.
    Sign,
}

impl Encoding {
    /// Every encoding, the widest first.
    pub const ALL: [Self; 6] = [
        Self::Int8,
        Self::Int4,
        Self::Int3,
        Self::Int2,
        Self::Ternary,
        Self::Sign,
    ];

    /// Bits of a code.
    pub fn bits(self) -> u32 {
        match self {
            Self::Int8 => 8,
            Self::Int4 => 4,
            Self::Int3 => 3,
            Self::Int2 | Self::Ternary => 2,
            Self::Sign => 1,
        }
    }

    /// Whether levels can have a zero point.
    pub fn has_zero_points(self) -> bool {
        !matches!(self, Self::Ternary | Self::Sign)
    }

    /// Smallest and largest level, without (`false`) or with zero points.
    pub fn levels(self, asymmetric: bool) -> RangeInclusive<i16> {
        let half = 1 << (self.bits() - 1);
        match self {
            Self::Ternary | Self::Sign => -1..=1,
            _ if asymmetric => 0..=2 * half - 1,
            _ => -half..=half - 1,
        }
    }

    /// The code of a level; none if the encoding does not have it.
    pub(crate) fn code(self, level: i16, asymmetric: bool) -> Option<u32> {
        let mask = (1 << self.bits()) - 1;
        match self {
            Self::Sign => match level {
                -1 => Some(0),
                1 => Some(1),
                _ => None,
            },
            _ => self
                .levels(asymmetric)
                .contains(&level)
                .then_some(level as u32 & mask),
        }
    }

    /// The level of a code; the fourth code of [`Encoding::Ternary`] comes out as -2, which is no level of it.
    pub(crate) fn level(self, code: u32, asymmetric: bool) -> i16 {
        match self {
            Self::Sign => 2 * code as i16 - 1,
            _ if asymmetric => code as i16,
            _ => {
                let unused = 32 - self.bits();
                ((code << unused) as i32 >> unused) as i16
            }
        }
    }
}

/// How scales of packed matrices and values of sparse ones are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FloatType {
    /// 16 bits, 11 of precision, up to 65504.
    F16,
    /// 32 bits.
    F32,
}

impl FloatType {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// Bits of a number.
    pub fn bits(self) -> usize {
        match self {
            Self::F16 => 16,
            Self::F32 => 32,
        }
    }

    /// The number that is stored for `x`: infinite beyond the type's range. Who chooses levels divides by this one.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Self::F16 => f16::from_f32(x).to_f32(),
            Self::F32 => x,
        }
    }
}
