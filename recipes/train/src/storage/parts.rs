//! Stored tensors as the parts of a file.

use std::borrow::Cow;
use std::collections::BTreeMap;

use half::f16;
use kiln_quant::{Activations, FloatType};
use safetensors::{Dtype, View};

use super::Stored;

/// A tensor of the file.
pub(super) struct Part {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Part {
    pub fn of(kind: FloatType, shape: Vec<usize>, values: &[f32]) -> Self {
        let (dtype, data) = match kind {
            FloatType::F32 => {
                let bytes = values.iter().flat_map(|value| value.to_le_bytes());
                (Dtype::F32, bytes.collect())
            }
            FloatType::F16 => {
                let bytes = values
                    .iter()
                    .flat_map(|value| f16::from_f32(*value).to_le_bytes());
                (Dtype::F16, bytes.collect())
            }
        };
        Self { dtype, shape, data }
    }
}

impl View for &Part {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.data)
    }

    fn data_len(&self) -> usize {
        self.data.len()
    }
}

impl Stored {
    /// Adds its parts under their names.
    pub(super) fn parts(&self, name: &str, parts: &mut BTreeMap<String, Part>) {
        let words = |words: &[u32]| Part {
            dtype: Dtype::U32,
            shape: vec![words.len()],
            data: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        };
        match self {
            Self::Float {
                kind,
                shape,
                values,
            } => {
                parts.insert(name.into(), Part::of(*kind, shape.clone(), values));
            }
            Self::Packed(matrix) | Self::PackedRows(matrix) => {
                parts.insert(format!("{name}.words"), words(matrix.words()));
            }
            Self::Complex(matrix) => {
                parts.insert(format!("{name}.words"), words(matrix.words()));
            }
            Self::Sparse(matrix) => {
                parts.insert(format!("{name}.words"), words(matrix.words()));
            }
            Self::LowRank { first, second } => {
                first.parts(&format!("{name}.first"), parts);
                second.parts(&format!("{name}.second"), parts);
            }
            Self::Integer {
                activations,
                weights,
            } => {
                parts.insert(format!("{name}.words"), words(weights.words()));
                if let Activations::Static { step } = activations {
                    let part = Part::of(FloatType::F32, vec![1], &[*step]);
                    parts.insert(format!("{name}.step"), part);
                }
            }
            Self::Scaled { divisors, weights } => {
                let part = Part::of(FloatType::F32, vec![divisors.len()], divisors);
                parts.insert(format!("{name}.divisors"), part);
                weights.parts(&format!("{name}.scaled"), parts);
            }
        }
    }
}
