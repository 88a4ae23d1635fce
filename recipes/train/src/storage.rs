//! How the tensors of a run's model are stored: as plain numbers, or as a compression left them.
//!
//! `config.json` names the storage of every tensor of a compressed run, and `model.safetensors` has the parts that it names: a
//! float tensor under its own name, packed and sparse words as `NAME.words`, the two factors of a low rank as `NAME.first` and
//! `NAME.second` (each stored in its own way), the divisors of a layer's inputs as `NAME.divisors` beside `NAME.scaled`, and the step of
//! inputs that become integers as `NAME.step`.

mod file;
pub(crate) mod packed;
mod parts;
mod read;

use std::collections::BTreeMap;

use kiln_quant::{
    Activations, ComplexFormat, ComplexMatrix, Encoding, FloatType, PackedFormat, PackedMatrix,
    SparseFormat, SparseMatrix,
};
use serde::{Deserialize, Serialize};

use crate::state::{
    COMPLEX_CONFIG_VERSION, COMPRESSED_CONFIG_VERSION, EIGHT_BIT_CONFIG_VERSION,
    SIGNS_CONFIG_VERSION,
};

/// What `config.json` says of a compressed run's tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageTable {
    /// Layout of the words of packed matrices, [`kiln_quant::LAYOUT_VERSION`].
    pub layout: u32,
    /// Storage of every tensor of the model.
    pub tensors: BTreeMap<String, Storage>,
}

/// How one tensor is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Storage {
    /// Every number.
    Float(FloatType),
    /// A matrix `[d_input, d_output]` as codes and scales.
    Packed(PackedFormat),
    /// The same of the transposed matrix: an embedding, whose rows have scales of their own.
    PackedRows(PackedFormat),
    /// A matrix `[d_input, d_output]` whose real and imaginary parts share scales.
    Complex(ComplexFormat),
    /// The entries that are not zero, and where they are.
    Sparse(SparseFormat),
    /// A product of two matrices.
    LowRank {
        /// `[d_input, rank]`.
        first: Box<Storage>,
        /// `[rank, d_output]`.
        second: Box<Storage>,
    },
    /// A matrix whose row i is what is stored over divisor i.
    Scaled(Box<Storage>),
    /// A matrix `[d_input, d_output]` of int8, whose inputs become integers of 8 bits too, or of signs, whose inputs become signs.
    Integer {
        /// Codes and scales of the weights.
        weights: PackedFormat,
        /// Where the step of the inputs comes from.
        inputs: InputSteps,
    },
}

/// What inputs of a product of integers become, and where their step comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputSteps {
    /// Integers of 8 bits, by a step that is stored.
    Static,
    /// Integers of 8 bits, by the step of each row.
    Dynamic,
    /// Signs, by the mean size of each row.
    Sign,
}

/// A tensor on the host, in the form that it is stored in.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    /// See [`Storage::Float`].
    Float {
        /// Type in the file.
        kind: FloatType,
        /// Its shape.
        shape: Vec<usize>,
        /// Row-major.
        values: Vec<f32>,
    },
    /// See [`Storage::Packed`].
    Packed(PackedMatrix),
    /// See [`Storage::PackedRows`].
    PackedRows(PackedMatrix),
    /// See [`Storage::Complex`].
    Complex(ComplexMatrix),
    /// See [`Storage::Sparse`].
    Sparse(SparseMatrix),
    /// See [`Storage::LowRank`].
    LowRank {
        /// `[d_input, rank]`.
        first: Box<Stored>,
        /// `[rank, d_output]`.
        second: Box<Stored>,
    },
    /// See [`Storage::Scaled`].
    Scaled {
        /// What each input is divided by, `[d_input]`.
        divisors: Vec<f32>,
        /// `[d_input, d_output]`.
        weights: Box<Stored>,
    },
    /// See [`Storage::Integer`].
    Integer {
        /// How inputs become integers.
        activations: Activations,
        /// `[d_input, d_output]`.
        weights: PackedMatrix,
    },
}

/// All tensors of a model by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredModel {
    /// Names are the module's paths without enum variants.
    pub tensors: BTreeMap<String, Stored>,
}

impl Stored {
    /// What `config.json` says of it.
    pub fn storage(&self) -> Storage {
        match self {
            Self::Float { kind, .. } => Storage::Float(*kind),
            Self::Packed(matrix) => Storage::Packed(matrix.format()),
            Self::PackedRows(matrix) => Storage::PackedRows(matrix.format()),
            Self::Complex(matrix) => Storage::Complex(matrix.format()),
            Self::Sparse(matrix) => Storage::Sparse(matrix.format()),
            Self::LowRank { first, second } => Storage::LowRank {
                first: Box::new(first.storage()),
                second: Box::new(second.storage()),
            },
            Self::Scaled { weights, .. } => Storage::Scaled(Box::new(weights.storage())),
            Self::Integer {
                activations,
                weights,
            } => Storage::Integer {
                weights: weights.format(),
                inputs: match activations {
                    Activations::Static { .. } => InputSteps::Static,
                    Activations::Dynamic => InputSteps::Dynamic,
                    Activations::Signs => InputSteps::Sign,
                },
            },
        }
    }

    /// Shape of the tensor that it stands for.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Float { shape, .. } => shape.clone(),
            Self::Packed(matrix)
            | Self::Integer {
                weights: matrix, ..
            } => vec![matrix.format().d_input, matrix.format().d_output],
            Self::PackedRows(matrix) => vec![matrix.format().d_output, matrix.format().d_input],
            Self::Complex(matrix) => matrix.format().dims().to_vec(),
            Self::Sparse(matrix) => vec![matrix.format().d_input, matrix.format().d_output],
            Self::LowRank { first, second } => vec![first.shape()[0], second.shape()[1]],
            Self::Scaled { weights, .. } => weights.shape(),
        }
    }

    /// The numbers that it stands for, row-major.
    pub fn values(&self) -> Vec<f32> {
        match self {
            Self::Float { values, .. } => values.clone(),
            Self::Packed(matrix)
            | Self::Integer {
                weights: matrix, ..
            } => matrix.dequantize(),
            Self::PackedRows(matrix) => transposed(&matrix.dequantize(), matrix.format().d_output),
            Self::Complex(matrix) => matrix.dequantize(),
            Self::Sparse(matrix) => matrix.dense(),
            Self::LowRank { first, second } => product(first, second),
            Self::Scaled { divisors, weights } => {
                let mut values = weights.values();
                let width = values.len() / divisors.len();
                for (row, divisor) in values.chunks_exact_mut(width).zip(divisors) {
                    row.iter_mut().for_each(|value| *value /= divisor);
                }
                values
            }
        }
    }

    /// Bytes of its parts in the file, without their names.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Float { kind, values, .. } => (values.len() * kind.bits() / 8) as u64,
            Self::Packed(matrix) | Self::PackedRows(matrix) => matrix.bytes(),
            Self::Complex(matrix) => matrix.bytes(),
            Self::Sparse(matrix) => matrix.bytes(),
            Self::LowRank { first, second } => first.bytes() + second.bytes(),
            Self::Scaled { divisors, weights } => 4 * divisors.len() as u64 + weights.bytes(),
            Self::Integer {
                activations,
                weights,
            } => match activations {
                Activations::Static { .. } => 4 + weights.bytes(),
                Activations::Dynamic | Activations::Signs => weights.bytes(),
            },
        }
    }

    /// Whether any part of it is in codes.
    pub fn is_packed(&self) -> bool {
        match self {
            Self::Packed(_) | Self::PackedRows(_) | Self::Complex(_) | Self::Integer { .. } => true,
            Self::Scaled { weights, .. } => weights.is_packed(),
            Self::LowRank { first, second } => first.is_packed() || second.is_packed(),
            Self::Float { .. } | Self::Sparse(_) => false,
        }
    }

    /// The same with the numbers that codes stand for in their place.
    pub(crate) fn unpacked(&self) -> Self {
        match self {
            Self::LowRank { first, second } => Self::LowRank {
                first: Box::new(first.unpacked()),
                second: Box::new(second.unpacked()),
            },
            other => Self::Float {
                kind: FloatType::F32,
                shape: other.shape(),
                values: other.values(),
            },
        }
    }

    /// Whether a model computes from it as it is.
    fn is_kept(&self) -> bool {
        match self {
            Self::Packed(_)
            | Self::PackedRows(_)
            | Self::Complex(_)
            | Self::LowRank { .. }
            | Self::Integer { .. } => true,
            Self::Scaled { weights, .. } => matches!(
                **weights,
                Self::Packed(_) | Self::Complex(_) | Self::Integer { .. }
            ),
            Self::Float { .. } | Self::Sparse(_) => false,
        }
    }
}

impl StorageTable {
    /// The layout version of a `config.json` with this table: the least that a Kiln has to know to read it.
    pub fn config_version(&self) -> u32 {
        let all = self.tensors.values().map(Storage::config_version);
        all.max().unwrap_or(COMPRESSED_CONFIG_VERSION)
    }
}

impl Storage {
    /// The first version of `config.json` whose readers know it.
    fn config_version(&self) -> u32 {
        match self {
            Self::Complex(_) => COMPLEX_CONFIG_VERSION,
            Self::Integer { inputs, .. } => match inputs {
                InputSteps::Sign => SIGNS_CONFIG_VERSION,
                InputSteps::Static | InputSteps::Dynamic => EIGHT_BIT_CONFIG_VERSION,
            },
            Self::Packed(format) | Self::PackedRows(format)
                if format.encoding == Encoding::E4m3 =>
            {
                EIGHT_BIT_CONFIG_VERSION
            }
            Self::Scaled(weights) => weights.config_version(),
            Self::LowRank { first, second } => first.config_version().max(second.config_version()),
            Self::Packed(_) | Self::PackedRows(_) | Self::Float(_) | Self::Sparse(_) => {
                COMPRESSED_CONFIG_VERSION
            }
        }
    }
}

/// Rows of `width` become columns.
fn transposed(values: &[f32], width: usize) -> Vec<f32> {
    (0..width)
        .flat_map(|column| values.iter().skip(column).step_by(width).copied())
        .collect()
}

/// The product of two factors; sums in f64, as one large matrix is not worth a dependency.
fn product(first: &Stored, second: &Stored) -> Vec<f32> {
    let (a, b) = (first.values(), second.values());
    let (rank, width) = (second.shape()[0], second.shape()[1]);
    let mut row = vec![0.0_f64; width];
    let mut values = Vec::with_capacity(a.len() / rank * width);
    for factors in a.chunks_exact(rank) {
        row.fill(0.0);
        for (factor, b) in factors.iter().zip(b.chunks_exact(width)) {
            for (sum, b) in row.iter_mut().zip(b) {
                *sum += f64::from(*factor) * f64::from(*b);
            }
        }
        values.extend(row.iter().map(|sum| *sum as f32));
    }
    values
}

#[cfg(test)]
mod tests;
