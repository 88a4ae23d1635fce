//! Mixed precision (arXiv 1710.03740): in which element type a model computes. Its parameters are f32 in any case.

use std::str::FromStr;

use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Element type of activations and of the operands of matrix products.
///
/// Parameters and their gradients, the arithmetic of norms and activations, softmax and the recurrences of mixers with their
/// states are f32 in all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// The range of f32 with 8 bits of significand.
    Bf16,
    /// 11 bits of significand, and nothing above 65,504: gradients below 6e-8 vanish unless the loss is scaled.
    F16,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// The name that recipes use.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// The element type.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }

    /// Bytes of an activation.
    pub fn bytes(self) -> usize {
        self.dtype().size()
    }

    /// Whether it is the default.
    pub fn is_f32(&self) -> bool {
        *self == Self::F32
    }
}

/// No element type that models compute in.
#[derive(Debug, Error, PartialEq)]
#[error("unknown precision `{0}`; there are f32, bf16 and f16")]
pub struct UnknownPrecision(String);

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(name: &str) -> Result<Self, UnknownPrecision> {
        let found = Self::ALL.into_iter().find(|it| it.name() == name);
        found.ok_or_else(|| UnknownPrecision(name.into()))
    }
}

/// In single precision, as recurrences want it.
pub fn single<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.dtype() == DType::F32 {
        return x;
    }
    // As one row: a cast of several pads each on CUDA devices, and whoever reads them next copies them.
    let (shape, len) = (x.dims(), x.shape().num_elements());
    x.reshape([len]).cast(DType::F32).reshape(shape)
}

/// As an operand of linear attention, which takes f32 and bf16: f16 in single precision, all else as it is.
pub fn attention_operand<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::F16 => single(x),
        _ => x,
    }
}
