//! minGRU. h_t = (1 - z_t) h_{t-1} + z_t g(c_t),  z = sigmoid(W_z u),  c = W_c u,  u = conv(x),  y = W_o h
//!
//! The minimal gated unit of "Were RNNs All We Needed?" (arXiv 2410.01201): a GRU whose gate and candidate no longer see the state, so
//! that training is a linear recurrence; g(c) = c + 1/2 above zero and sigmoid(c) below keeps it positive. The paper's language models
//! have a short convolution before it. Axes: batch, seq, channels (expansion times d_model). State: h and the last conv_width - 1 inputs
//! of the convolution, constant in seq.

use burn::module::{Module, Param};
use burn::tensor::activation::{relu, sigmoid};
use burn::tensor::{DType, Device, Tensor, TensorData};
use kiln_backbone::{
    BackboneConfig, InitRng, Linear, Mixer, ModelError, NamedLinears, ShortConv, fields, project,
    tensor_bytes, unit_spread,
};
use kiln_gla::linear_recurrence;
use serde::{Deserialize, Serialize};

/// Settings of minGRU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MinGruConfig {
    /// Channels of the memory.
    pub channels: usize,
    /// Tokens that the convolution before the gates sees, the present one included; 0 or 1 leaves it out.
    pub conv_width: usize,
    /// Initial range in tokens of the first and the last channel, spaced evenly in the logarithm: over one range a memory fades to 1/e.
    /// The paper's gates start at one half, a range of 1 / ln 2.
    pub range: [f64; 2],
}

impl Default for MinGruConfig {
    fn default() -> Self {
        let half = std::f64::consts::LN_2.recip();
        Self {
            channels: 128,
            conv_width: 4,
            range: [half, half],
        }
    }
}

/// minGRU.
#[derive(Module, Debug)]
pub struct MinGruMixer {
    conv: Option<ShortConv>,
    gate: Linear,
    candidate: Linear,
    output: Linear,
    channels: usize,
}

/// What generation remembers.
#[derive(Clone, Debug)]
pub struct MinGruState {
    /// h, `[batch, channels]`.
    memory: Tensor<2>,
    /// `[batch, conv_width - 1, d_model]`; none without a convolution.
    history: Option<Tensor<3>>,
}

impl MinGruConfig {
    /// Checks every size and range.
    ///
    /// # Errors
    /// Names the first setting out of its range.
    pub fn validate(&self) -> Result<(), ModelError> {
        if self.channels == 0 {
            return Err(ModelError::TooSmall {
                name: "min_gru.channels",
                value: 0,
                least: 1,
            });
        }
        for value in self.range {
            if !(value > 0.0 && value.is_finite()) {
                return Err(ModelError::OutOfRange {
                    name: "min_gru.range",
                    value,
                    range: "(0, inf)",
                });
            }
        }
        Ok(())
    }

    /// Bias of the gate of every channel: with W_z u = 0 a memory fades to 1/e in its range.
    fn gate_bias(&self) -> Vec<f32> {
        let [first, last] = self.range.map(f64::ln);
        let bias = |channel: usize| {
            let place = channel as f64 / (self.channels - 1).max(1) as f64;
            let range = (first + (last - first) * place).exp();
            // sigmoid(b) = 1 - a and a = exp(-1 / range), so b = ln((1 - a) / a) = ln(exp(1 / range) - 1)
            range.recip().exp_m1().ln() as f32
        };
        (0..self.channels).map(bias).collect()
    }

    /// Builds the mixer for a block of `backbone`.
    ///
    /// # Errors
    /// Those of [`MinGruConfig::validate`].
    pub fn init(
        &self,
        backbone: &BackboneConfig,
        rng: &mut InitRng,
        device: &Device,
    ) -> Result<MinGruMixer, ModelError> {
        self.validate()?;
        let (d_model, channels) = (backbone.d_model, self.channels);
        let conv =
            (self.conv_width > 1).then(|| ShortConv::init(d_model, self.conv_width, rng, device));
        let std = unit_spread(d_model);
        let bias = TensorData::new(self.gate_bias(), [channels]);
        Ok(MinGruMixer {
            conv,
            gate: Linear::new(
                rng.matrix(d_model, channels, std, device),
                Some(Param::from_data(bias, device)),
            ),
            candidate: rng.linear(d_model, channels, backbone.bias, std, device),
            output: rng.linear(
                channels,
                d_model,
                backbone.bias,
                backbone.residual_std(),
                device,
            ),
            channels,
        })
    }
}

/// c + 1/2 above zero and sigmoid(c) below: continuous, with a continuous slope but for 1/4 against 1 at zero.
fn positive(candidate: Tensor<3>) -> Tensor<3> {
    // One formula for both sides: max(c, 0) + sigmoid(min(c, 0)).
    let above = relu(candidate.clone());
    sigmoid(candidate - above.clone()) + above
}

impl Mixer for MinGruMixer {
    type State = MinGruState;

    fn initial_state(&self, batch: usize, device: &Device) -> MinGruState {
        MinGruState {
            memory: Tensor::zeros([batch, self.channels], (device, DType::F32)),
            history: self
                .conv
                .as_ref()
                .map(|conv| conv.initial_history(batch, device)),
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        state: Option<MinGruState>,
    ) -> (Tensor<3>, Option<MinGruState>) {
        let operand = x.dtype();
        let continues = state.is_some();
        let (memory, history) = match state {
            Some(state) => (Some(state.memory), state.history),
            None => (None, None),
        };
        let (x, history) = match &self.conv {
            Some(conv) => conv.forward(x, history, false),
            None => (x, None),
        };
        // Gates, candidates and memory in f32, whatever the products are made in.
        let z = sigmoid(project(&self.gate, x.clone()).cast(DType::F32));
        let candidate = positive(project(&self.candidate, x).cast(DType::F32));
        let decay = -z.clone() + 1.0;
        // Shapes agree by construction, so the operation's shape errors cannot occur here.
        let states = linear_recurrence(decay, z * candidate, memory)
            .expect("mixer shapes agree by construction");
        let state = continues.then(|| {
            let last = states.dims()[1] - 1;
            MinGruState {
                memory: states.clone().narrow(1, last, 1).squeeze_dim(1),
                history,
            }
        });
        (project(&self.output, states.cast(operand)), state)
    }

    fn step(&self, x: Tensor<2>, state: MinGruState) -> (Tensor<2>, MinGruState) {
        let (y, next) = self.forward(x.unsqueeze_dim(1), Some(state.clone()));
        (y.squeeze_dim(1), next.unwrap_or(state))
    }

    fn linears_mut(&mut self) -> NamedLinears<'_> {
        fields([
            ("gate", Some(&mut self.gate)),
            ("candidate", Some(&mut self.candidate)),
            ("output", Some(&mut self.output)),
        ])
    }

    fn is_causal(&self) -> bool {
        true
    }

    /// Two for each weight, and four a channel: decay, write, and the two products of the recurrence.
    fn flops_per_token(&self, _seq: usize) -> u64 {
        let projections = [&self.gate, &self.candidate, &self.output].map(Linear::flops_per_row);
        let conv = self.conv.as_ref().map_or(0, ShortConv::flops_per_token);
        projections.iter().sum::<u64>() + conv + 4 * self.channels as u64
    }

    /// One f32 a channel and the convolution's history, whatever the length.
    fn state_bytes(&self, _seq: usize) -> u64 {
        let conv = self.conv.as_ref().map_or(0, ShortConv::state_bytes);
        (self.channels * size_of::<f32>()) as u64 + conv
    }

    fn counted_state_bytes(&self, state: &MinGruState) -> u64 {
        tensor_bytes(&state.memory) + state.history.as_ref().map_or(0, tensor_bytes)
    }
}

#[cfg(test)]
mod tests {
    use kiln_backbone::Weight;

    use super::*;

    fn backbone(d_model: usize) -> BackboneConfig {
        let (backbone, _) = (crate::MIN_GRU_PRESETS[0].config)();
        BackboneConfig {
            d_model,
            ..backbone
        }
    }

    /// Gates of one half and W_c = W_o = 1 on inputs 1 and -1: (1 + 1/2) / 2 = 0.75, then 0.75 / 2 + sigmoid(-1) / 2.
    #[test]
    fn two_tokens_by_hand() {
        let device = Device::flex();
        let config = MinGruConfig {
            channels: 1,
            conv_width: 0,
            ..Default::default()
        };
        let mut mixer = config
            .init(&backbone(1), &mut InitRng::new(1), &device)
            .unwrap();
        let weight = |value: f32| Weight::dense(Tensor::<2>::from_floats([[value]], &device));
        mixer.gate.weight = weight(0.0);
        mixer.candidate.weight = weight(1.0);
        mixer.output.weight = weight(1.0);
        let x = Tensor::<3>::from_floats([[[1.0], [-1.0]]], &device);
        let y: Vec<f32> = mixer.forward(x, None).0.into_data().try_to_vec().unwrap();
        let below = 1.0 / (1.0 + 1.0_f32.exp());
        for (found, exact) in y.into_iter().zip([0.75, 0.375 + below / 2.0]) {
            assert!((found - exact).abs() < 1e-6, "{found} {exact}");
        }
    }

    /// With nothing read by the gates, the first and the last channel fade to 1/e in their ranges.
    #[test]
    fn channels_start_with_their_ranges() {
        let config = MinGruConfig {
            channels: 3,
            range: [1.0, 16.0],
            ..Default::default()
        };
        for (bias, range) in config.gate_bias().into_iter().zip([1.0, 4.0, 16.0]) {
            let kept = 1.0 - 1.0 / (1.0 + (-f64::from(bias)).exp());
            assert!((kept.ln() * range + 1.0).abs() < 1e-5, "{kept} {range}");
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        type Change = fn(&mut MinGruConfig);
        let table: [(Change, &str); 3] = [
            (
                |c| c.channels = 0,
                "`min_gru.channels` is 0, but must be at least 1",
            ),
            (
                |c| c.range = [0.0, 1.0],
                "`min_gru.range` is 0, but must lie in (0, inf)",
            ),
            (
                |c| c.range = [1.0, f64::INFINITY],
                "`min_gru.range` is inf, but must lie in (0, inf)",
            ),
        ];
        for (change, expected) in table {
            let mut config = MinGruConfig::default();
            change(&mut config);
            assert_eq!(config.validate().unwrap_err().to_string(), expected);
        }
    }
}
