//! Sparse matrices as storage: the values that are not zero, and where they are.
//!
//! ```text
//! mask    a bit for each entry, row-major, from the lowest bit of the first word up; then the values in that order
//! 2:4     values first, two for each four inputs of an output: [d_input / 2, d_output] row-major; then four bits for each four
//!         inputs of an output, [d_input / 4, d_output] row-major, from the lowest bits of the first word up: the places of the
//!         two among the four, in two bits each, the first below the second
//! ```
//! Values of 16 bits are two to a word, the first in the low half. The mask is the format of any pruned matrix; 2:4 is what tensor
//! cores multiply (arXiv 2104.08378), with half of the values and an eighth of a byte for each of all entries.

use half::f16;
use serde::{Deserialize, Serialize};

use crate::{encoding::FloatType, error::QuantError, matrix::check_length};

/// Where the entries of a sparse matrix can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SparsePattern {
    /// Anywhere.
    Mask,
    /// At most two of each four consecutive inputs of an output.
    TwoOfFour,
}

/// Shape and storage of a sparse matrix: all that its words do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SparseFormat {
    /// Where entries can be.
    pub pattern: SparsePattern,
    /// Rows.
    pub d_input: usize,
    /// Columns.
    pub d_output: usize,
    /// Type of the values.
    pub values: FloatType,
}

/// A matrix `[d_input, d_output]` of which the zeros are not stored.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseMatrix {
    format: SparseFormat,
    words: Vec<u32>,
}

impl SparseFormat {
    /// Checks that such a matrix can be stored.
    ///
    /// # Errors
    /// [`QuantError::Empty`] or [`QuantError::NotFours`].
    pub fn check(&self) -> Result<(), QuantError> {
        let Self {
            d_input, d_output, ..
        } = *self;
        if d_input == 0 || d_output == 0 {
            return Err(QuantError::Empty { d_input, d_output });
        }
        if self.pattern == SparsePattern::TwoOfFour && !d_input.is_multiple_of(4) {
            return Err(QuantError::NotFours { d_input });
        }
        Ok(())
    }

    fn entries(&self) -> usize {
        self.d_input * self.d_output
    }

    /// Words of `count` values.
    fn value_words(&self, count: usize) -> usize {
        (count * self.values.bits()).div_ceil(32)
    }

    /// Values of 2:4.
    fn half(&self) -> usize {
        self.entries() / 2
    }
}

impl SparseMatrix {
    /// Stores the entries that are not zero, rounded to the format's type.
    ///
    /// # Shapes
    /// - dense `[d_input, d_output]`, row-major
    ///
    /// # Errors
    /// Those of [`SparseFormat::check`]; [`QuantError::Length`], [`QuantError::TooDense`], or [`QuantError::Value`] for the first
    /// value that is not finite in the format's type.
    pub fn pack(format: SparseFormat, dense: &[f32]) -> Result<Self, QuantError> {
        format.check()?;
        check_length("values", dense.len(), format.entries())?;
        let kind = format.values;
        if let Some(at) = dense.iter().position(|&x| !kind.round(x).is_finite()) {
            return Err(QuantError::Value {
                input: at / format.d_output,
                output: at % format.d_output,
                value: dense[at],
                kind: kind.name(),
            });
        }
        let words = match format.pattern {
            SparsePattern::Mask => mask_words(kind, dense),
            SparsePattern::TwoOfFour => two_of_four_words(format, dense)?,
        };
        Ok(Self { format, words })
    }

    /// A matrix from its words, as [`SparseMatrix::words`] gave them.
    ///
    /// # Errors
    /// Those of [`SparseFormat::check`]; [`QuantError::Length`], [`QuantError::Value`], or [`QuantError::Corrupt`] for words that
    /// [`SparseMatrix::pack`] would not have written.
    pub fn from_words(format: SparseFormat, words: Vec<u32>) -> Result<Self, QuantError> {
        format.check()?;
        let expected = match format.pattern {
            SparsePattern::Mask => {
                let mask = format.entries().div_ceil(32);
                let bits = words
                    .iter()
                    .take(mask)
                    .map(|word| word.count_ones() as usize);
                mask + format.value_words(bits.sum())
            }
            SparsePattern::TwoOfFour => {
                format.value_words(format.half()) + (format.entries() / 4).div_ceil(8)
            }
        };
        check_length("words", words.len(), expected)?;
        let sparse = Self { format, words };
        let dense = sparse.dense();
        match Self::pack(format, &dense)? == sparse {
            true => Ok(sparse),
            false => Err(QuantError::Corrupt(
                "a zero is stored as a value, or bits that stand for nothing are set",
            )),
        }
    }

    /// Its shape and storage.
    pub fn format(&self) -> SparseFormat {
        self.format
    }

    /// The words, see the top of the module.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Bytes of the words.
    pub fn bytes(&self) -> u64 {
        4 * self.words.len() as u64
    }

    /// All entries, `[d_input, d_output]` row-major.
    pub fn dense(&self) -> Vec<f32> {
        let format = self.format;
        let entries = format.entries();
        let mut dense = vec![0.0; entries];
        match format.pattern {
            SparsePattern::Mask => {
                let (mask, values) = self.words.split_at(entries.div_ceil(32));
                let places = (0..entries).filter(|at| mask[at / 32] >> (at % 32) & 1 == 1);
                for (value, at) in places.enumerate() {
                    dense[at] = read(format.values, values, value);
                }
            }
            SparsePattern::TwoOfFour => {
                let (values, places) = self.words.split_at(format.value_words(format.half()));
                for four in 0..entries / 4 {
                    let (row, output) = (four / format.d_output, four % format.d_output);
                    let bits = places[four / 8] >> (4 * (four % 8));
                    for second in 0..2 {
                        let input = 4 * row + (bits >> (2 * second) & 3) as usize;
                        let value = (2 * row + second) * format.d_output + output;
                        // Added, since places of values that are not there may point to one that is.
                        dense[input * format.d_output + output] +=
                            read(format.values, values, value);
                    }
                }
            }
        }
        dense
    }
}

fn mask_words(kind: FloatType, dense: &[f32]) -> Vec<u32> {
    let kept = |x: &f32| kind.round(*x) != 0.0;
    let mut words = vec![0; dense.len().div_ceil(32)];
    for (at, _) in dense.iter().enumerate().filter(|(_, x)| kept(x)) {
        words[at / 32] |= 1 << (at % 32);
    }
    let values: Vec<f32> = dense.iter().copied().filter(kept).collect();
    words.extend(write(kind, &values));
    words
}

fn two_of_four_words(format: SparseFormat, dense: &[f32]) -> Result<Vec<u32>, QuantError> {
    let (kind, d_output) = (format.values, format.d_output);
    let mut values = vec![0.0; format.half()];
    let mut places = vec![0; (format.entries() / 4).div_ceil(8)];
    for four in 0..format.entries() / 4 {
        let (row, output) = (four / d_output, four % d_output);
        let entry = |place: usize| dense[(4 * row + place) * d_output + output];
        let kept: Vec<usize> = (0..4).filter(|&i| kind.round(entry(i)) != 0.0).collect();
        if kept.len() > 2 {
            return Err(QuantError::TooDense {
                input: 4 * row,
                output,
                found: kept.len(),
            });
        }
        // A missing second value is stored as zero at the last place, or before it; both missing, at the first two.
        let pair = match kept[..] {
            [] => [0, 1],
            [3] => [2, 3],
            [first] => [first, 3],
            [first, second, ..] => [first, second],
        };
        for (second, place) in pair.into_iter().enumerate() {
            values[(2 * row + second) * d_output + output] = entry(place);
            places[four / 8] |= (place as u32) << (4 * (four % 8) + 2 * second);
        }
    }
    let mut words = write(kind, &values);
    words.append(&mut places);
    Ok(words)
}

fn read(kind: FloatType, words: &[u32], at: usize) -> f32 {
    match kind {
        FloatType::F32 => f32::from_bits(words[at]),
        FloatType::F16 => f16::from_bits((words[at / 2] >> (16 * (at % 2))) as u16).to_f32(),
    }
}

fn write(kind: FloatType, values: &[f32]) -> Vec<u32> {
    // Without the sign that a zero may have.
    let values = values.iter().map(|&x| if x == 0.0 { 0.0 } else { x });
    match kind {
        FloatType::F32 => values.map(f32::to_bits).collect(),
        FloatType::F16 => {
            let halves: Vec<u32> = values
                .map(|x| {
                    let half = f16::from_f32(x);
                    u32::from(if half == f16::ZERO { 0 } else { half.to_bits() })
                })
                .collect();
            let pair = |pair: &[u32]| pair[0] | pair.get(1).map_or(0, |high| high << 16);
            halves.chunks(2).map(pair).collect()
        }
    }
}
