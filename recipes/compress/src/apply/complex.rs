//! Layers of complex numbers: one scale for real and imaginary parts, or one for each.
//!
//! Parts that share a scale are neighbours in the matrix that is rounded (see [`ComplexFormat`]): to a method they are inputs of one
//! group. Of a layer that reads complex features they are inputs as before, in another order; one that makes them has each of its inputs twice, for
//! outputs that do not add up.

use kiln_quant::{ComplexFormat, ComplexMatrix, FloatType, PackedFormat, Pairs};
use kiln_train::{Stored, StoredModel};

use super::Job;
use super::codes::{Rounding, scaled};
use super::pack::encoding;
use crate::layers::Layer;
use crate::recipe::{Complex, Quantize, Work};
use crate::{CompressError, Gram, Matrix, MethodError};

impl Job<'_> {
    /// Refuses a stage that asks for scales of complex layers and works on none.
    ///
    /// # Errors
    /// [`CompressError::Setting`] naming the layers that it works on.
    pub(crate) fn check_complex(&self, model: &StoredModel) -> Result<(), CompressError> {
        let Work::Quantize(Quantize {
            complex: Some(sharing),
            ..
        }) = &self.stage.work
        else {
            return Ok(());
        };
        let selected = self.selected(model)?;
        if selected.iter().any(|layer| layer.pairs.is_some()) {
            return Ok(());
        }
        let names: Vec<&str> = selected.iter().map(|layer| layer.name.as_str()).collect();
        Err(CompressError::Setting {
            key: "stage.complex",
            value: match sharing {
                Complex::Shared => "shared".into(),
                Complex::Separate => "separate".into(),
            },
            why: format!(
                "only the gate and the output of a BK mixer have real and imaginary parts, and stage {} works on {}: leave the key out",
                self.number,
                names.join(", ")
            ),
        })
    }

    /// Codes of a layer whose complex numbers lie as `pairs` says.
    pub(super) fn complex(
        &self,
        layer: &Layer,
        weights: &Matrix,
        gram: Option<&Gram>,
        work: &Quantize,
        (sharing, pairs): (Complex, Pairs),
    ) -> Result<Stored, CompressError> {
        let (d_input, d_output) = (weights.d_input(), weights.d_output());
        let numbers = match pairs {
            Pairs::Inputs => d_input / 2,
            Pairs::Outputs => d_input,
        };
        let group = self.method(layer, group_of(work, numbers))?;
        let rounding = Rounding {
            method: work.method,
            grid: work.grid_of(&layer.name),
            group,
            clip: work.clip,
        };
        if sharing == Complex::Separate {
            let (codes, divisors) = self.rounded(layer, weights, gram, rounding)?;
            return Ok(scaled(Stored::Packed(codes), divisors));
        }
        let format = ComplexFormat {
            pairs,
            stored: PackedFormat {
                encoding: encoding(rounding.grid.bits),
                asymmetric: !rounding.grid.symmetric,
                d_input: 2 * numbers,
                d_output: match pairs {
                    Pairs::Inputs => d_output,
                    Pairs::Outputs => d_output / 2,
                },
                group: 2 * group,
                scales: FloatType::F16,
            },
        };
        format.check().map_err(|source| self.pack(layer, source))?;
        let neighbours = self.method(layer, beside(weights, format))?;
        let channels = channels(format);
        let gram = gram.map(|gram| gram.regrouped(&channels));
        let rounding = Rounding {
            group: 2 * group,
            ..rounding
        };
        let (codes, divisors) = self.rounded(layer, &neighbours, gram.as_ref(), rounding)?;
        let codes = ComplexMatrix::new(pairs, codes).map_err(|source| self.pack(layer, source))?;
        // Both parts of an input have the same inputs, and so the same divisor.
        let divisors = divisors.map(|stored| {
            let mut divisors = vec![1.0; d_input];
            for ((input, _), divisor) in channels.iter().zip(stored) {
                divisors[*input] = divisor;
            }
            divisors
        });
        Ok(scaled(Stored::Complex(codes), divisors))
    }
}

/// Complex numbers of an output that share scales.
fn group_of(work: &Quantize, numbers: usize) -> Result<usize, MethodError> {
    let group = match work.nearest_group {
        true => work.group_that_fits(numbers),
        false => work.group,
    };
    match group {
        0 => Ok(numbers),
        group if numbers.is_multiple_of(group) => Ok(group),
        _ => Err(MethodError::Shape {
            what: "number of a layer's complex inputs",
            value: numbers,
            why: format!(
                "`group` = {group} does not divide it; choose a divisor, 0 for one scale an output, or `nearest_group = true`"
            ),
        }),
    }
}

/// The weights with the parts of a group beside each other.
fn beside(weights: &Matrix, format: ComplexFormat) -> Result<Matrix, MethodError> {
    let PackedFormat {
        d_input, d_output, ..
    } = format.stored;
    let places = (0..d_input).flat_map(|row| (0..d_output).map(move |column| (row, column)));
    let values = places.map(|(row, column)| {
        let [input, output] = format.source(row, column);
        weights.row(input)[output]
    });
    Matrix::new(d_input, d_output, values.collect())
}

/// The layer's input that each stored one is, with the part of the outputs that it counts for.
fn channels(format: ComplexFormat) -> Vec<(usize, usize)> {
    let width = format.stored.d_output;
    let channel = |row: usize| {
        let [input, output] = format.source(row, 0);
        (input, output / width)
    };
    (0..format.stored.d_input).map(channel).collect()
}

#[cfg(test)]
mod tests;
