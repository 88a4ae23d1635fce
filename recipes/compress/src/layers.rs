//! The layers of a stored model that can be compressed, and the matrices they are made of.

use kiln_quant::Pairs;
use kiln_train::{Stored, StoredModel};

use crate::{Matrix, MethodError};

/// The embedding, which is the transposed head where the model ties them.
pub const EMBEDDING: &str = "tokens";

/// Ends the names of linear layers' weights.
const WEIGHT: &str = ".weight";
/// Ends the names of short convolutions, whose few weights a channel are no matrix product.
const CONVOLUTION: &str = ".conv.weight";

/// What a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// y = x W.
    Linear,
    /// A row for each token.
    Embedding,
}

/// A layer that can be compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its name, as recipes select it: `blocks.0.mlp.up`, `tokens`.
    pub name: String,
    /// Name of its tensor.
    pub tensor: String,
    /// What it is.
    pub role: Role,
    /// Where the real and imaginary parts of its complex numbers lie, if it has some.
    pub pairs: Option<Pairs>,
}

/// Every layer of a model, in the order of their names.
pub fn layers(model: &StoredModel) -> Vec<Layer> {
    let layer = |(tensor, stored): (&String, &Stored)| {
        if tensor == EMBEDDING {
            return Some(Layer {
                name: tensor.clone(),
                tensor: tensor.clone(),
                role: Role::Embedding,
                pairs: None,
            });
        }
        let is_matrix = stored.shape().len() == 2 && !tensor.ends_with(CONVOLUTION);
        let name = tensor.strip_suffix(WEIGHT).filter(|_| is_matrix)?;
        Some(Layer {
            name: name.into(),
            tensor: tensor.clone(),
            role: Role::Linear,
            pairs: pairs(name, model),
        })
    };
    model.tensors.iter().filter_map(layer).collect()
}

/// The parts of complex features that a layer of a BK mixer makes (its gate) or reads (its output): real ones of all heads, then the
/// imaginary ones. Such a mixer has energies beside these layers, as no other has.
fn pairs(name: &str, model: &StoredModel) -> Option<Pairs> {
    let (mixer, pairs) = match name.rsplit_once('.')? {
        (mixer, "gate") => (mixer, Pairs::Outputs),
        (mixer, "output") => (mixer, Pairs::Inputs),
        _ => return None,
    };
    let has_energies = model.tensors.contains_key(&format!("{mixer}.energy"));
    has_energies.then_some(pairs)
}

/// The dense weights of a tensor of rank two, as they stand.
pub(crate) fn matrix(stored: &Stored) -> Result<Matrix, MethodError> {
    let shape = stored.shape();
    Matrix::new(shape[0], shape[1], stored.values())
}

/// Rows become columns: of an embedding the head that it is, and back.
pub(crate) fn transposed(matrix: &Matrix) -> Result<Matrix, MethodError> {
    let (rows, cols) = (matrix.d_input(), matrix.d_output());
    let values = (0..cols).flat_map(|col| (0..rows).map(move |row| matrix.row(row)[col]));
    Matrix::new(cols, rows, values.collect())
}

/// How a stored tensor is called in messages.
pub(crate) fn form(stored: &Stored) -> &'static str {
    match stored {
        Stored::Float { .. } => "dense",
        Stored::Packed(_)
        | Stored::PackedRows(_)
        | Stored::Complex(_)
        | Stored::Scaled { .. }
        | Stored::Integer { .. } => "quantized",
        Stored::Sparse(_) => "pruned",
        Stored::LowRank { .. } => "factorised",
    }
}
