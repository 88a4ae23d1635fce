//! Weights in the place of others: those that are computed with, and those that are stored.

use std::collections::{BTreeMap, HashMap, HashSet};

use burn::module::{ModuleMapper, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use kiln_quant::{Activations, FloatType, SparseFormat, SparseMatrix, SparsePattern};

use super::{EMBEDDING, Rounding};
use crate::TrainError;
use crate::quantize::matrix;
use crate::storage::{Storage, Stored};

/// Changes the weights that a function has something for, without autodiff.
pub(super) struct Changed<F>(pub F);

impl<F: Fn(ParamId, Tensor<2>) -> Option<Tensor<2>>> ModuleMapper for Changed<F> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D != 2 {
            return param;
        }
        let (id, value, mapper) = param.consume();
        let (tracked, on_autodiff) = (value.is_require_grad(), value.is_autodiff());
        let plain = match on_autodiff {
            true => value.clone().inner(),
            false => value.clone(),
        };
        let dims = plain.dims();
        let value = match (self.0)(id, plain.reshape([dims[0], dims[1]])) {
            None => value,
            Some(changed) => {
                let changed = changed.reshape(dims);
                match on_autodiff {
                    true => Tensor::from_inner(changed).set_require_grad(tracked),
                    false => changed,
                }
            }
        };
        Param::from_mapped_value(id, value, mapper)
    }
}

/// Plain tensors on their way to their form.
pub(super) struct Formed<'a> {
    pub roundings: HashMap<&'a str, &'a Rounding>,
    /// Tensors that became zero in training, a part of them.
    pub pruned: HashSet<&'a str>,
    pub plain: BTreeMap<String, Stored>,
    /// Logarithms of learned steps by the tensors that they are of.
    pub steps: HashMap<String, Stored>,
    pub device: Device,
}

impl Formed<'_> {
    pub fn stored(&mut self, name: &str, form: Option<&Storage>) -> Result<Stored, TrainError> {
        if let Some(Storage::LowRank { first, second }) = form {
            let down = match name {
                EMBEDDING => format!("{name}.rows"),
                _ => format!("{name}.down"),
            };
            return Ok(Stored::LowRank {
                first: Box::new(self.stored(&down, Some(first))?),
                second: Box::new(self.stored(&format!("{name}.up"), Some(second))?),
            });
        }
        let bad = |why: String| TrainError::Form {
            tensor: name.into(),
            why,
        };
        let packing = |error: kiln_quant::QuantError| bad(error.to_string());
        let plain = self.plain.remove(name);
        let plain = plain.ok_or_else(|| bad("the trained model has no such tensor".into()))?;
        if let Some(rounding) = self.roundings.get(name) {
            let shape = plain.shape();
            let weights = matrix(plain.values(), [shape[0], shape[1]], &self.device);
            let logs = self.steps.remove(name).map(|logs| {
                let data = TensorData::new(logs.values(), logs.shape());
                Tensor::from_data(data, &self.device)
            });
            let packed = rounding.round(weights, logs).packed().map_err(packing)?;
            return Ok(match rounding {
                Rounding { rows: true, .. } => Stored::PackedRows(packed),
                Rounding { signs: true, .. } => Stored::Integer {
                    activations: Activations::Signs,
                    weights: packed,
                },
                _ => Stored::Packed(packed),
            });
        }
        match form {
            _ if self.pruned.contains(name) => {
                let shape = plain.shape();
                let format = SparseFormat {
                    pattern: SparsePattern::Mask,
                    d_input: shape[0],
                    d_output: shape[1],
                    values: match form {
                        Some(Storage::Float(kind)) => *kind,
                        Some(Storage::Sparse(format)) => format.values,
                        _ => FloatType::F32,
                    },
                };
                let sparse = SparseMatrix::pack(format, &plain.values()).map_err(packing)?;
                Ok(Stored::Sparse(sparse))
            }
            Some(Storage::Sparse(format)) => {
                let sparse = SparseMatrix::pack(*format, &plain.values()).map_err(packing)?;
                Ok(Stored::Sparse(sparse))
            }
            Some(Storage::Float(kind @ FloatType::F16)) => Ok(Stored::Float {
                kind: *kind,
                shape: plain.shape(),
                values: plain.values().into_iter().map(|x| kind.round(x)).collect(),
            }),
            _ => Ok(plain),
        }
    }
}
