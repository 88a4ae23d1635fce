//! Gated short convolution. y_t = W_o (silu(W_g x_t) * sum_j w_j (W_v x)_{t - (width - 1) + j})
//!
//! The gated convolutional network of arXiv 1612.08083 with the depthwise short filter of H3 (arXiv 2212.14052): a mixer that
//! sees the last `width` tokens a layer and nothing before. Axes: batch, seq, d_model. State: the last width - 1 values W_v x,
//! `[batch, width - 1, d_model]`, constant in seq.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_backbone::{
    BackboneConfig, InitRng, Linear, Mixer, ModelError, NamedLinears, ShortConv, fields, project,
    tensor_bytes,
};
use kiln_fused::swiglu;
use serde::{Deserialize, Serialize};

/// Settings of the gated short convolution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvConfig {
    /// Tokens that an output sees, the present one included; at least 2.
    pub width: usize,
}

impl Default for ConvConfig {
    fn default() -> Self {
        Self { width: 3 }
    }
}

/// The gated short convolution.
#[derive(Module, Debug)]
pub struct ConvMixer {
    value: Linear,
    gate: Linear,
    conv: ShortConv,
    output: Linear,
}

impl ConvConfig {
    /// Checks the width.
    ///
    /// # Errors
    /// If it is below 2, where no position would see another.
    pub fn validate(&self) -> Result<(), ModelError> {
        match self.width {
            value @ 0..2 => Err(ModelError::TooSmall {
                name: "conv.width",
                value,
                least: 2,
            }),
            _ => Ok(()),
        }
    }

    /// Builds the mixer for a block of `backbone`.
    ///
    /// # Errors
    /// Those of [`ConvConfig::validate`].
    pub fn init(
        &self,
        backbone: &BackboneConfig,
        rng: &mut InitRng,
        device: &Device,
    ) -> Result<ConvMixer, ModelError> {
        self.validate()?;
        let (d_model, bias) = (backbone.d_model, backbone.bias);
        // Unit spread, as the projections of the mixers that are compared with this one.
        let std = (d_model as f64).powf(-0.5);
        Ok(ConvMixer {
            value: rng.linear(d_model, d_model, bias, std, device),
            gate: rng.linear(d_model, d_model, bias, std, device),
            conv: ShortConv::init(d_model, self.width, rng, device),
            output: rng.linear(d_model, d_model, bias, backbone.residual_std(), device),
        })
    }
}

impl Mixer for ConvMixer {
    /// The last width - 1 values, `[batch, width - 1, d_model]`.
    type State = Tensor<3>;

    fn initial_state(&self, batch: usize, device: &Device) -> Tensor<3> {
        self.conv.initial_history(batch, device)
    }

    fn forward(&self, x: Tensor<3>, state: Option<Tensor<3>>) -> (Tensor<3>, Option<Tensor<3>>) {
        let values = project(&self.value, x.clone());
        let (mixed, state) = self.conv.forward(values, state, false);
        let gated = swiglu(project(&self.gate, x), mixed);
        (project(&self.output, gated), state)
    }

    fn step(&self, x: Tensor<2>, state: Tensor<3>) -> (Tensor<2>, Tensor<3>) {
        let (y, next) = self.forward(x.unsqueeze_dim(1), Some(state.clone()));
        (y.squeeze_dim(1), next.unwrap_or(state))
    }

    fn linears_mut(&mut self) -> NamedLinears<'_> {
        fields([
            ("value", Some(&mut self.value)),
            ("gate", Some(&mut self.gate)),
            ("output", Some(&mut self.output)),
        ])
    }

    fn is_causal(&self) -> bool {
        true
    }

    /// Two for each weight of the three projections and of the convolution.
    fn flops_per_token(&self, _seq: usize) -> u64 {
        let projections = [&self.value, &self.gate, &self.output].map(Linear::flops_per_row);
        projections.iter().sum::<u64>() + self.conv.flops_per_token()
    }

    fn state_bytes(&self, _seq: usize) -> u64 {
        self.conv.state_bytes()
    }

    fn counted_state_bytes(&self, state: &Tensor<3>) -> u64 {
        tensor_bytes(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// W_v = W_o = 1, W_g = 10 and taps (1, 2) on inputs 0.5 and 1: silu(5) * 2 * 0.5, then silu(10) (0.5 + 2).
    #[test]
    fn two_tokens_by_hand() {
        let device = Device::flex();
        let (backbone, _) = (crate::CONV_PRESETS[0].config)();
        let backbone = BackboneConfig {
            d_model: 1,
            ..backbone
        };
        let config = ConvConfig { width: 2 };
        let mut mixer = config
            .init(&backbone, &mut InitRng::new(1), &device)
            .unwrap();
        let matrix = |value: f32| Tensor::<2>::from_floats([[value]], &device);
        for (layer, value) in [
            (&mut mixer.value, 1.0),
            (&mut mixer.gate, 10.0),
            (&mut mixer.output, 1.0),
        ] {
            layer.weight = kiln_backbone::Weight::dense(matrix(value));
        }
        let taps = Tensor::from_floats([[1.0, 2.0]], &device);
        mixer.conv.weight = burn::module::Param::from_tensor(taps);
        let x = Tensor::<3>::from_floats([[[0.5], [1.0]]], &device);
        let y: Vec<f32> = mixer.forward(x, None).0.into_data().try_to_vec().unwrap();
        let silu = |u: f32| u / (1.0 + (-u).exp());
        for (found, exact) in y.into_iter().zip([silu(5.0), silu(10.0) * 2.5]) {
            assert!((found - exact).abs() < 1e-5 * exact, "{found} {exact}");
        }
    }

    #[test]
    fn widths_without_a_past_are_named() {
        for width in [0, 1] {
            assert_eq!(
                ConvConfig { width }.validate().unwrap_err().to_string(),
                format!("`conv.width` is {width}, but must be at least 2")
            );
        }
    }
}
