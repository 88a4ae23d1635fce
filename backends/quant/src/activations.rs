//! Inputs of an integer product: how numbers become integers.
//!
//! ```text
//! y_o = t s_o sum_i p_i q_io       q_io the levels of the weights, s_o their scales
//!
//! int8     p_i = clamp(round(x_i / t), -127, 127)      t of a row of inputs, or of the layer
//! signs    p_i = sign(x_i), 1 of zero                  t = sum_i |x_i| / d_input of a row
//! ```
//! The sum is one of integers in 32 bits, without rounding.

use crate::{encoding::Encoding, error::QuantError, format::PackedFormat};

/// The largest level of an input; -128 is left out, so that levels are about zero.
pub(crate) const MOST: f32 = 127.0;
/// Inputs whose products, 127 times 128 at most, certainly fit into a sum of 32 bits.
const MOST_INPUTS: usize = 1 << 17;

/// Where the step of the inputs of an integer product comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activations {
    /// The same for every input, as a calibration found it: larger inputs are cut off at 127 steps.
    Static {
        /// t, positive.
        step: f32,
    },
    /// A 127th of the largest size in each row.
    Dynamic,
    /// The mean size in each row, with signs in the place of integers, for weights that are signs too (XNOR-Net, arXiv 1603.05279).
    Signs,
}

impl Activations {
    /// Checks that [`integer_linear`](crate::integer_linear) takes such inputs with such weights: int8, or signs with signs; without zero
    /// points, and one scale an output.
    ///
    /// # Errors
    /// [`QuantError::NoIntegers`], [`QuantError::Step`], and those of [`PackedFormat::check`].
    pub fn check(self, weights: &PackedFormat) -> Result<(), QuantError> {
        weights.check()?;
        let other = match self {
            Self::Signs if weights.encoding != Encoding::Sign => Some("its encoding is not sign"),
            Self::Static { .. } | Self::Dynamic if weights.encoding != Encoding::Int8 => {
                Some("its encoding is not int8")
            }
            _ => None,
        };
        let why = match other {
            Some(why) => why,
            None if weights.asymmetric => "it has zero points",
            None if weights.group != weights.d_input => "it has several scales an output",
            None if weights.d_input > MOST_INPUTS => "its sums may not fit into 32 bits",
            None => {
                return match self {
                    Self::Static { step } if !(step > 0.0 && step.is_finite()) => {
                        Err(QuantError::Step { step })
                    }
                    _ => Ok(()),
                };
            }
        };
        Err(QuantError::NoIntegers { why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::FloatType;

    #[test]
    fn what_makes_no_integer_product_is_named() {
        let format = PackedFormat {
            encoding: Encoding::Int8,
            asymmetric: false,
            d_input: 64,
            d_output: 8,
            group: 64,
            scales: FloatType::F16,
        };
        assert_eq!(Activations::Dynamic.check(&format), Ok(()));
        let others = [
            PackedFormat {
                encoding: Encoding::Int4,
                ..format
            },
            PackedFormat {
                asymmetric: true,
                ..format
            },
            PackedFormat {
                group: 32,
                ..format
            },
            PackedFormat {
                d_input: MOST_INPUTS + 1,
                group: MOST_INPUTS + 1,
                ..format
            },
        ];
        let refused = |activations: Activations, format: &PackedFormat| {
            let found = activations.check(format);
            assert!(
                matches!(found, Err(QuantError::NoIntegers { .. })),
                "{activations:?} {format:?}"
            );
        };
        for other in others {
            refused(Activations::Dynamic, &other);
        }
        for step in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let found = Activations::Static { step }.check(&format);
            assert!(matches!(found, Err(QuantError::Step { .. })), "{step}");
        }
        assert_eq!(Activations::Static { step: 0.5 }.check(&format), Ok(()));
        // Signs go with signs alone, and need one scale an output too.
        let signs = PackedFormat {
            encoding: Encoding::Sign,
            ..format
        };
        assert_eq!(Activations::Signs.check(&signs), Ok(()));
        refused(Activations::Signs, &format);
        refused(Activations::Dynamic, &signs);
        let grouped = PackedFormat { group: 32, ..signs };
        refused(Activations::Signs, &grouped);
    }
}
