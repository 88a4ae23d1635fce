//! Numbers of 16 bits as a stage: for every tensor, vectors too.

use kiln_quant::{FloatType, SparseFormat, SparseMatrix};
use kiln_train::{Stored, StoredModel};

use super::Job;
use crate::layers::{EMBEDDING, Layer, Role};
use crate::{CompressError, MethodError};

impl Job<'_> {
    /// What is in 32 bits yet, in 16.
    pub(super) fn halved(&self, layer: &Layer, stored: &Stored) -> Result<Stored, CompressError> {
        Ok(match stored {
            Stored::Float { shape, values, .. } => {
                let rounded: Vec<f32> = values.iter().map(|x| FloatType::F16.round(*x)).collect();
                if let Some(at) = rounded.iter().position(|value| !value.is_finite()) {
                    let width = shape.last().copied().unwrap_or(1);
                    let source = MethodError::OutOfRange {
                        what: "number",
                        row: at / width,
                        column: at % width,
                        value: values[at],
                        most: 65_504.0,
                    };
                    return self.method(layer, Err(source));
                }
                Stored::Float {
                    kind: FloatType::F16,
                    shape: shape.clone(),
                    values: rounded,
                }
            }
            Stored::Sparse(sparse) => {
                let format = SparseFormat {
                    values: FloatType::F16,
                    ..sparse.format()
                };
                let halved = SparseMatrix::pack(format, &sparse.dense());
                Stored::Sparse(halved.map_err(|source| self.pack(layer, source))?)
            }
            Stored::LowRank { first, second } => Stored::LowRank {
                first: Box::new(self.halved(layer, first)?),
                second: Box::new(self.halved(layer, second)?),
            },
            // Scales are of 16 bits already.
            Stored::Packed(_)
            | Stored::PackedRows(_)
            | Stored::Complex(_)
            | Stored::Scaled { .. }
            | Stored::Integer { .. } => stored.clone(),
        })
    }
}

/// Every tensor, vectors too.
pub(super) fn tensors(model: &StoredModel) -> Vec<Layer> {
    let name = |tensor: &String| tensor.strip_suffix(".weight").unwrap_or(tensor).to_string();
    let layer = |tensor: &String| Layer {
        name: name(tensor),
        tensor: tensor.clone(),
        role: match tensor == EMBEDDING {
            true => Role::Embedding,
            false => Role::Linear,
        },
        pairs: None,
    };
    model.tensors.keys().map(layer).collect()
}
