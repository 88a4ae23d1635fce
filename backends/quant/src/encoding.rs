//! How a level becomes a code of few bits and a number, and how scales are stored.

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
    /// Floating point of 8 bits, 4 of exponent and 3 of mantissa, up to 448, without infinities (arXiv 2209.05433). Levels number the
    /// finite numbers from 0 up, and from 0 down with their signs: 126 is 448. No zero points.
    E4m3,
}

impl Encoding {
    /// Every encoding: the integers, the widest first, then floating point.
    pub const ALL: [Self; 7] = [
        Self::Int8,
        Self::Int4,
        Self::Int3,
        Self::Int2,
        Self::Ternary,
        Self::Sign,
        Self::E4m3,
    ];

    /// Bits of a code.
    pub fn bits(self) -> u32 {
        match self {
            Self::Int8 | Self::E4m3 => 8,
            Self::Int4 => 4,
            Self::Int3 => 3,
            Self::Int2 | Self::Ternary => 2,
            Self::Sign => 1,
        }
    }

    /// Whether levels can have a zero point.
    pub fn has_zero_points(self) -> bool {
        !matches!(self, Self::Ternary | Self::Sign | Self::E4m3)
    }

    /// Smallest and largest level, without (`false`) or with zero points.
    pub fn levels(self, asymmetric: bool) -> RangeInclusive<i16> {
        let half = 1 << (self.bits() - 1);
        match self {
            Self::Ternary | Self::Sign => -1..=1,
            Self::E4m3 => -126..=126,
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
            // Sign and magnitude, with one zero.
            Self::E4m3 if self.levels(false).contains(&level) => {
                let sign = u32::from(level < 0) << 7;
                Some(sign | u32::from(level.unsigned_abs()))
            }
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
            Self::E4m3 => {
                let size = (code & 0x7f) as i16;
                if code < 0x80 { size } else { -size }
            }
            _ if asymmetric => code as i16,
            _ => {
                let unused = 32 - self.bits();
                ((code << unused) as i32 >> unused) as i16
            }
        }
    }
}

impl Encoding {
    /// The number that a level, less its zero point, stands for in front of the scale.
    pub fn value(self, level: i16) -> f32 {
        match self {
            Self::E4m3 => {
                // The exponent of E4M3 begins at 2^-7, that of f32 at 2^-127; what is below the least is so too.
                let size = f32::from_bits(u32::from(level.unsigned_abs()) << 20) * E4M3_UNIT;
                if level < 0 { -size } else { size }
            }
            _ => f32::from(level),
        }
    }

    /// The level, without zero points, whose number is nearest; of two the even one, of numbers beyond the last the last.
    pub fn nearest(self, value: f32) -> i16 {
        let range = self.levels(false);
        match self {
            Self::E4m3 => {
                let size = value.abs().min(448.0);
                let level = match size < 1.0 / 64.0 {
                    true => (size * 512.0).round_ties_even() as i16,
                    false => {
                        let bits = size.to_bits();
                        let rounded = bits + 0x7_ffff + (bits >> 20 & 1);
                        (rounded >> 20) as i16 - (120 << 3)
                    }
                };
                if value < 0.0 { -level } else { level }
            }
            Self::Sign => {
                if value < 0.0 {
                    -1
                } else {
                    1
                }
            }
            _ => (value.round_ties_even() as i16).clamp(*range.start(), *range.end()),
        }
    }
}

/// 2^120: what the bits of a number of E4M3 are too small by as those of an f32.
pub(crate) const E4M3_UNIT: f32 = f32::from_bits(247 << 23);

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

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of the format's definition, and every level back from its number.
    #[test]
    fn levels_of_e4m3_number_its_numbers() {
        let encoding = Encoding::E4m3;
        for (code, value) in [
            (0x00, 0.0),
            (0x01, 1.0 / 512.0),
            (0x07, 7.0 / 512.0),
            (0x08, 1.0 / 64.0),
            (0x38, 1.0),
            (0x3b, 1.375),
            (0x7e, 448.0),
            (0xb8, -1.0),
            (0xfe, -448.0),
        ] {
            let level = encoding.level(code, false);
            assert_eq!(encoding.value(level), value);
            assert_eq!(encoding.code(level, false), Some(code));
        }
        let levels = encoding.levels(false);
        let values: Vec<f32> = levels.clone().map(|level| encoding.value(level)).collect();
        assert!(values.is_sorted());
        for (level, value) in levels.zip(values) {
            assert_eq!(encoding.nearest(value), level);
        }
        // Not a number in either sign, and a second zero.
        for code in [0x7f, 0xff, 0x80] {
            let level = encoding.level(code, false);
            assert_ne!(encoding.code(level, false), Some(code));
        }
    }

    #[test]
    fn the_nearest_number_is_taken() {
        for (value, expected) in [
            (1.05, 1.0),
            (1.07, 1.125),
            (1.0625, 1.0), // the even of two
            (1.1875, 1.25),
            (1e9, 448.0),
            (-450.0, -448.0),
            (0.0009, 0.0),
            (0.0011, 1.0 / 512.0),
            (0.0151, 1.0 / 64.0),
        ] {
            let level = Encoding::E4m3.nearest(value);
            assert_eq!(Encoding::E4m3.value(level), expected, "{value}");
        }
        assert_eq!(Encoding::Int4.nearest(9.0), 7);
        assert_eq!(Encoding::Int4.nearest(-2.4), -2);
        assert_eq!(Encoding::Sign.nearest(-0.1), -1);
    }
}
