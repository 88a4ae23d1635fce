//! Complex weights: matrices whose real and imaginary parts share scales.
//!
//! A complex matrix lies in a real one with all real parts in front: they are the first half of its inputs, or of its outputs
//! ([`Pairs`]). Parts of one number are far apart there. Those that share a scale are stored as a packed matrix in which they are
//! neighbours, so that it is one scale (and zero point) of that matrix:
//!
//! ```text
//! a group of the stored matrix    real parts of n complex numbers, then their imaginary parts
//! ```

use serde::{Deserialize, Serialize};

use crate::error::QuantError;
use crate::format::PackedFormat;
use crate::matrix::PackedMatrix;

/// The axis whose first half is real parts, and whose second half is the imaginary parts of the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairs {
    /// A layer that reads complex features: rows.
    Inputs,
    /// A layer that makes them: columns.
    Outputs,
}

/// Shape and encoding of a complex matrix whose parts share scales: all that its words do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComplexFormat {
    /// Where the parts lie in the real matrix.
    pub pairs: Pairs,
    /// The stored matrix: two rows for each complex row, in groups of both parts of `group / 2` numbers.
    pub stored: PackedFormat,
}

impl ComplexFormat {
    /// Checks that such a matrix can be packed.
    ///
    /// # Errors
    /// Those of [`PackedFormat::check`] for the stored and the real matrix; [`QuantError::Halves`].
    pub fn check(&self) -> Result<(), QuantError> {
        self.stored.check()?;
        let PackedFormat { group, d_input, .. } = self.stored;
        if !group.is_multiple_of(2) {
            return Err(QuantError::Halves { group, d_input });
        }
        self.real().check()
    }

    /// Rows and columns of the real matrix.
    pub fn dims(&self) -> [usize; 2] {
        let PackedFormat {
            d_input, d_output, ..
        } = self.stored;
        match self.pairs {
            Pairs::Inputs => [d_input, d_output],
            Pairs::Outputs => [d_input / 2, 2 * d_output],
        }
    }

    /// The real matrix with a scale for each part, as kernels read it.
    pub fn real(&self) -> PackedFormat {
        let [d_input, d_output] = self.dims();
        let half = self.stored.group / 2;
        // One scale for all inputs of an output is so for both parts together.
        let whole = self.pairs == Pairs::Inputs && self.stored.group == self.stored.d_input;
        PackedFormat {
            d_input,
            d_output,
            group: if whole { d_input } else { half },
            ..self.stored
        }
    }

    /// Row and column of the real matrix that an entry of the stored one is.
    pub fn source(&self, row: usize, column: usize) -> [usize; 2] {
        let (group, half) = (self.stored.group, self.stored.group / 2);
        let part = row % group / half;
        let number = row / group * half + row % half;
        match self.pairs {
            Pairs::Inputs => [part * (self.stored.d_input / 2) + number, column],
            Pairs::Outputs => [number, part * self.stored.d_output + column],
        }
    }

    /// From the entries of the stored matrix to those of the real one, both row-major.
    fn scattered<T: Copy + Default>(&self, stored: &[T]) -> Vec<T> {
        let [_, width] = self.dims();
        let mut real = vec![T::default(); stored.len()];
        for (at, value) in stored.iter().enumerate() {
            let [row, column] = self.source(at / self.stored.d_output, at % self.stored.d_output);
            real[row * width + column] = *value;
        }
        real
    }

    /// What groups of the real matrix have of those of the stored one, `[groups, d_output]`.
    fn spread<T: Copy>(&self, stored: &[T]) -> Vec<T> {
        let (real, width) = (self.real(), self.stored.d_output);
        let places =
            (0..real.groups()).flat_map(|group| (0..real.d_output).map(move |o| (group, o)));
        places
            .map(|(group, output)| stored[group % self.stored.groups() * width + output % width])
            .collect()
    }
}

/// A complex matrix of codes whose parts share scales and zero points.
#[derive(Clone, Debug, PartialEq)]
pub struct ComplexMatrix {
    pairs: Pairs,
    stored: PackedMatrix,
}

impl ComplexMatrix {
    /// The matrix that is stored like this.
    ///
    /// # Errors
    /// Those of [`ComplexFormat::check`].
    pub fn new(pairs: Pairs, stored: PackedMatrix) -> Result<Self, QuantError> {
        let matrix = Self { pairs, stored };
        matrix.format().check()?;
        Ok(matrix)
    }

    /// A matrix from its words, as [`ComplexMatrix::words`] gave them.
    ///
    /// # Errors
    /// Those of [`ComplexFormat::check`] and [`PackedMatrix::from_words`].
    pub fn from_words(format: ComplexFormat, words: Vec<u32>) -> Result<Self, QuantError> {
        format.check()?;
        Self::new(
            format.pairs,
            PackedMatrix::from_words(format.stored, words)?,
        )
    }

    /// Its shape and encoding.
    pub fn format(&self) -> ComplexFormat {
        ComplexFormat {
            pairs: self.pairs,
            stored: self.stored.format(),
        }
    }

    /// The words of the stored matrix.
    pub fn words(&self) -> &[u32] {
        self.stored.words()
    }

    /// Bytes of the words.
    pub fn bytes(&self) -> u64 {
        self.stored.bytes()
    }

    /// The matrix that it stands for, row-major as [`ComplexFormat::dims`] has it.
    pub fn dequantize(&self) -> Vec<f32> {
        self.format().scattered(&self.stored.dequantize())
    }

    /// The same numbers as a real matrix that kernels compute from: every part has a copy of the scale.
    ///
    /// # Errors
    /// None but those of [`PackedMatrix::pack`], whose rules the stored matrix keeps.
    pub fn to_real(&self) -> Result<PackedMatrix, QuantError> {
        let format = self.format();
        let levels = format.scattered(&self.stored.levels());
        let scales = format.spread(&self.stored.scales());
        let zeros = self.stored.zeros().map(|zeros| format.spread(&zeros));
        PackedMatrix::pack(format.real(), &levels, &scales, zeros.as_deref())
    }
}

#[cfg(test)]
mod tests;
