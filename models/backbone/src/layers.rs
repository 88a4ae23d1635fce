//! The layers around the mixer: norms and MLPs.
//!
//! RMSNorm (arXiv 1910.07467), LayerNorm (arXiv 1607.06450), the GELU MLP of GPT-2 and SwiGLU (arXiv 2002.05202).

use burn::module::Module;
use burn::nn::{LayerNorm, RmsNorm};
use burn::tensor::{Device, Tensor};
use kiln_fused::{gelu, layer_norm, rms_norm, swiglu};
use serde::{Deserialize, Serialize};

use crate::init::{InitRng, constant};
use crate::linear::{Linear, project};
use crate::weights::{NamedLinears, fields};

/// Added to variances before the root is taken, as PyTorch's default.
pub(crate) const EPSILON: f64 = 1e-5;

/// Which normalisation stands before every sub-layer and before the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormKind {
    /// Divide by the root mean square; scale only.
    Rms,
    /// Subtract the mean, divide by the standard deviation; scale, and shift if biases are on.
    Layer,
}

/// A normalisation over `d_model`.
#[derive(Module, Debug)]
pub enum Norm {
    /// See [`NormKind::Rms`].
    Rms(RmsNorm),
    /// See [`NormKind::Layer`].
    Layer(LayerNorm),
}

impl Norm {
    pub(crate) fn init(kind: NormKind, d_model: usize, bias: bool, device: &Device) -> Self {
        let gamma = constant(d_model, 1.0, device);
        match kind {
            NormKind::Rms => Norm::Rms(RmsNorm {
                gamma,
                epsilon: EPSILON,
            }),
            NormKind::Layer => {
                let mut layer = burn::nn::LayerNormConfig::new(d_model)
                    .with_epsilon(EPSILON)
                    .with_bias(bias)
                    .init(device);
                layer.gamma = gamma;
                Norm::Layer(layer)
            }
        }
    }

    /// Normalises the last axis: `[..., d_model]` to `[..., d_model]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Norm::Rms(norm) => rms_norm(x, norm.gamma.val(), EPSILON),
            Norm::Layer(norm) => {
                let beta = norm.beta.as_ref().map(|beta| beta.val());
                layer_norm(x, norm.gamma.val(), beta, EPSILON)
            }
        }
    }
}

/// The position-wise network of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MlpKind {
    /// `down(gelu(up(x)))`
    Gelu,
    /// `down(silu(gate(x)) * up(x))`
    Swiglu,
}

/// A position-wise network `[..., d_model] -> [..., d_model]` through `d_hidden`.
#[derive(Module, Debug)]
pub struct Mlp {
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
}

impl Mlp {
    pub(crate) fn init(
        kind: MlpKind,
        [d_model, d_hidden]: [usize; 2],
        bias: bool,
        [std, std_out]: [f64; 2],
        rng: &mut InitRng,
        device: &Device,
    ) -> Self {
        Self {
            gate: (kind == MlpKind::Swiglu)
                .then(|| rng.linear(d_model, d_hidden, bias, std, device)),
            up: rng.linear(d_model, d_hidden, bias, std, device),
            down: rng.linear(d_hidden, d_model, bias, std_out, device),
        }
    }

    /// `[..., d_model]` to `[..., d_model]`, each position by itself.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let hidden = match &self.gate {
            Some(gate) => swiglu(project(gate, x.clone()), project(&self.up, x)),
            None => gelu(project(&self.up, x)),
        };
        project(&self.down, hidden)
    }

    /// Its linear layers.
    pub(crate) fn linears_mut(&mut self) -> NamedLinears<'_> {
        fields([
            ("gate", self.gate.as_mut()),
            ("up", Some(&mut self.up)),
            ("down", Some(&mut self.down)),
        ])
    }

    /// The layers that read what it is given.
    pub(crate) fn readers(&mut self) -> Vec<String> {
        let paths = self.linears_mut().into_iter().map(|(path, _)| path);
        paths.filter(|path| path != "down").collect()
    }

    /// Two for each weight.
    pub(crate) fn flops_per_token(&self) -> u64 {
        let gate = self.gate.as_ref().map_or(0, Linear::flops_per_row);
        gate + self.up.flops_per_row() + self.down.flops_per_row()
    }
}
