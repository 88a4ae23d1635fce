//! Layers that compute from weights as they are stored.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use kiln_backbone::{Embedding, Factorised, LowRank, Matrix, PackedWeight, Rows, Weight};
use kiln_zoo::LanguageModel;

use super::{Stored, StoredModel};

/// The name of the embedding's tensor.
const EMBEDDING: &str = "tokens";

/// Puts every packed and factorised tensor in the place of the layer that has its name.
///
/// # Errors
/// In words, a tensor of another shape than its layer's, and one that belongs to no layer.
pub(crate) fn replace(
    model: &mut LanguageModel,
    stored: &StoredModel,
    device: &Device,
) -> Result<(), String> {
    let mut left: Vec<&str> = stored.kept().collect();
    for (name, layer) in model.linears_mut() {
        let name = format!("{name}.weight");
        let Some(weight) = stored.tensors.get(&name).filter(|tensor| tensor.is_kept()) else {
            continue;
        };
        check(&name, &weight.shape(), layer.dims())?;
        layer.weight = match weight {
            Stored::LowRank { first, second } => Weight::LowRank(LowRank {
                down: matrix(&name, first, device)?,
                up: matrix(&name, second, device)?,
            }),
            Stored::Scaled { divisors, weights } => {
                let scale: Vec<f32> = divisors.iter().map(|divisor| 1.0 / divisor).collect();
                let scale = Tensor::from_data(TensorData::new(scale, [divisors.len()]), device);
                let scale = Param::<Tensor<1>>::from_tensor(scale);
                layer.input_scale = Some(scale.set_require_grad(false));
                Weight::Matrix(matrix(&name, weights, device)?)
            }
            other => Weight::Matrix(matrix(&name, other, device)?),
        };
        left.retain(|other| *other != name);
    }
    if let Some(weights) = stored.tensors.get(EMBEDDING).filter(|all| all.is_kept()) {
        check(EMBEDDING, &weights.shape(), model.embedding().dims())?;
        *model.embedding_mut() = match weights {
            Stored::LowRank { first, second } => Embedding::Factorised(Factorised {
                rows: rows(first, device)?,
                up: numbers(EMBEDDING, second, device)?,
            }),
            other => Embedding::Rows(rows(other, device)?),
        };
        left.retain(|other| *other != EMBEDDING);
    }
    match left.first() {
        None => Ok(()),
        Some(name) => Err(unlike(name)),
    }
}

fn unlike(name: &str) -> String {
    format!("`{name}` is stored in a way that its layer does not have")
}

/// A vector for each token.
fn rows(stored: &Stored, device: &Device) -> Result<Rows, String> {
    match stored {
        Stored::PackedRows(rows) => Ok(Rows::Packed(PackedWeight::new(rows, device))),
        other => Ok(Rows::Dense(numbers(EMBEDDING, other, device)?)),
    }
}

/// A matrix that is dense in memory.
fn numbers(name: &str, stored: &Stored, device: &Device) -> Result<Param<Tensor<2>>, String> {
    match stored {
        Stored::Float { .. } | Stored::Sparse(_) | Stored::Scaled { .. } => {
            let data = TensorData::new(stored.values(), stored.shape());
            Ok(Param::from_tensor(Tensor::from_data(data, device)))
        }
        _ => Err(unlike(name)),
    }
}

fn check(name: &str, found: &[usize], expected: [usize; 2]) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!(
            "`{name}` is {found:?}, but the model of config.json has {expected:?} there"
        )),
    }
}

/// A matrix of a layer. One that nothing computes from as it is stored is dense.
fn matrix(name: &str, stored: &Stored, device: &Device) -> Result<Matrix, String> {
    match stored {
        Stored::Packed(packed) => Ok(Matrix::Packed(PackedWeight::new(packed, device))),
        Stored::Complex(matrix) => {
            let real = matrix.to_real();
            let real = real.map_err(|error| format!("`{name}`: {error}"))?;
            Ok(Matrix::Packed(PackedWeight::new(&real, device)))
        }
        Stored::Integer {
            activations,
            weights,
        } => {
            let weights = PackedWeight::new(weights, device).with_activations(*activations);
            let weights = weights.map_err(|error| format!("`{name}`: {error}"))?;
            Ok(Matrix::Packed(weights))
        }
        other => Ok(Matrix::Dense(numbers(name, other, device)?)),
    }
}
