//! Inputs of an integer product: how numbers become integers.
//!
//! ```text
//! y_o = t s_o sum_i p_i q_io       p_i = clamp(round(x_i / t), -127, 127), q_io the levels of int8 weights, s_o their scales
//! ```
//! The sum is one of integers in 32 bits, without rounding. The step t belongs to a row of inputs or to the layer.

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
}

impl Activations {
    /// Checks that inputs can have this step.
    ///
    /// # Errors
    /// [`QuantError::Step`].
    pub fn check(self) -> Result<(), QuantError> {
        match self {
            Self::Static { step } if !(step > 0.0 && step.is_finite()) => {
                Err(QuantError::Step { step })
            }
            _ => Ok(()),
        }
    }
}

impl PackedFormat {
    /// Checks that [`integer_linear`](crate::integer_linear) takes such weights: int8 without zero points, one scale an output.
    ///
    /// # Errors
    /// [`QuantError::NoIntegers`], and those of [`PackedFormat::check`].
    pub fn check_integers(&self) -> Result<(), QuantError> {
        self.check()?;
        let why = match self {
            _ if self.encoding != Encoding::Int8 => "its encoding is not int8",
            _ if self.asymmetric => "it has zero points",
            _ if self.group != self.d_input => "it has several scales an output",
            _ if self.d_input > MOST_INPUTS => "its sums may not fit into 32 bits",
            _ => return Ok(()),
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
        assert_eq!(format.check_integers(), Ok(()));
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
        for other in others {
            let found = other.check_integers();
            assert!(
                matches!(found, Err(QuantError::NoIntegers { .. })),
                "{other:?}"
            );
        }
        for step in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(Activations::Static { step }.check().is_err(), "{step}");
        }
        assert_eq!(Activations::Static { step: 0.5 }.check(), Ok(()));
        assert_eq!(Activations::Dynamic.check(), Ok(()));
    }
}
