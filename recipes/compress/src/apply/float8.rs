//! Weights in floating point of 8 bits: E4M3 (arXiv 2209.05433) with a scale an output, with which its largest weight
//! is 448 (less where that scale would be below the normal numbers of half precision).

use kiln_quant::{Encoding, FloatType, PackedFormat, PackedMatrix};
use kiln_train::Stored;

use super::Job;
use crate::layers::{Layer, Role, matrix, transposed};
use crate::{CompressError, Matrix};

/// The largest number of E4M3.
const MOST: f32 = 448.0;
/// The least scale: half precision loses digits below it, while numbers of E4M3 keep theirs far below 448.
const LEAST_SCALE: f32 = 1.0 / 16_384.0;

impl Job<'_> {
    /// Every weight as the nearest number; an embedding has a scale for each token.
    pub(super) fn floats(&self, layer: &Layer, stored: &Stored) -> Result<Stored, CompressError> {
        match stored {
            Stored::Float { .. } | Stored::Sparse(_) => {
                let weights = self.method(layer, matrix(stored))?;
                let pack =
                    |weights: &Matrix| packed(weights).map_err(|source| self.pack(layer, source));
                Ok(match layer.role {
                    Role::Embedding => {
                        let head = self.method(layer, transposed(&weights))?;
                        Stored::PackedRows(pack(&head)?)
                    }
                    Role::Linear => Stored::Packed(pack(&weights)?),
                })
            }
            Stored::LowRank { first, second } => Ok(Stored::LowRank {
                first: Box::new(self.floats(layer, first)?),
                second: match layer.role {
                    Role::Embedding => second.clone(),
                    Role::Linear => Box::new(self.floats(layer, second)?),
                },
            }),
            Stored::Packed(_)
            | Stored::PackedRows(_)
            | Stored::Complex(_)
            | Stored::Scaled { .. }
            | Stored::Integer { .. } => Err(self.rounded_already(layer, stored)),
        }
    }
}

fn packed(weights: &Matrix) -> Result<PackedMatrix, kiln_quant::QuantError> {
    let (d_input, d_output) = (weights.d_input(), weights.d_output());
    let format = PackedFormat {
        encoding: Encoding::E4m3,
        asymmetric: false,
        d_input,
        d_output,
        group: d_input,
        scales: FloatType::F16,
    };
    let mut largest = vec![0.0_f32; d_output];
    for row in weights.values().chunks_exact(d_output) {
        for (largest, weight) in largest.iter_mut().zip(row) {
            *largest = largest.max(weight.abs());
        }
    }
    let scale = |largest: &f32| match *largest {
        0.0 => 0.0,
        largest => format.scales.round((largest / MOST).max(LEAST_SCALE)),
    };
    let scales: Vec<f32> = largest.iter().map(scale).collect();
    let level = |(at, weight): (usize, &f32)| match scales[at % d_output] {
        0.0 => 0,
        scale => format.encoding.nearest(weight / scale),
    };
    let levels: Vec<i16> = weights.values().iter().enumerate().map(level).collect();
    PackedMatrix::pack(format, &levels, &scales, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy;

    /// A weight is off by a sixteenth of itself at most, down to a 2^-15 of the largest; rounding to int8 is off more for small ones.
    #[test]
    fn small_weights_keep_their_digits() {
        let mut values = toy::weights(64, 5, 3).into_values();
        values
            .iter_mut()
            .step_by(3)
            .for_each(|value| *value *= 1e-3);
        values[7] = 0.0;
        let weights = Matrix::new(64, 5, values).unwrap();
        let found = packed(&weights).unwrap().dequantize();
        for (before, after) in weights.values().iter().zip(found) {
            assert!(
                (before - after).abs() <= before.abs() / 16.0 + 1e-5,
                "{before} {after}"
            );
            assert!(*before != 0.0 || after == 0.0);
        }
        // An output of small weights is as fine as one of large ones.
        let small = Matrix::new(4, 1, vec![1e-5, -7e-6, 4e-6, 3.3e-6]).unwrap();
        for (before, after) in small
            .values()
            .iter()
            .zip(packed(&small).unwrap().dequantize())
        {
            assert!(
                (before - after).abs() <= before.abs() / 16.0,
                "{before} {after}"
            );
        }
        let zeros = Matrix::new(3, 2, vec![0.0; 6]).unwrap();
        assert_eq!(packed(&zeros).unwrap().dequantize(), [0.0; 6]);
    }
}
