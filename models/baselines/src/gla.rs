//! Gated linear attention. S_t = a_t S_{t-1} + k_t v_t^T,  y_t = S_t^T q_t,  a_t = sigmoid(W_f x_t + b)^(1 / temperature)
//!
//! One forget gate a head, computed from the token: the scalar gate of Mamba-2's state space dual (arXiv 2405.21060), which is
//! retention (arXiv 2307.08621) with gates that see the token, in the parametrisation of GLA (arXiv 2312.06635): the temperature
//! keeps gates near one. (GLA has a gate for each key channel, from a projection of low rank; a gate a head is of rank heads
//! already.) Gates start with a range of their own in each head, as the decays of retention. Around it stands the block of the
//! resolvent mixer, so that two models differ in their gates: q, k, v = silu(conv(W x)), q and k normalised, the value itself,
//! an RMSNorm of each head's output and a gate, out = W_o (silu(W_g x) * norm(y + D v)).
//!
//! Axes: batch, seq, heads, d_key, d_value (d_model / heads unless said otherwise). State: S and the last conv_width - 1 inputs of the convolution,
//! constant in seq.

use burn::module::{Module, Param};
use burn::tensor::activation::log_sigmoid;
use burn::tensor::{Device, Tensor, TensorData};
use kiln_backbone::{
    BackboneConfig, ConvHistory, InitRng, Linear, Mixer, ModelError, NamedLinears, QueryKeyValue,
    QueryKeyValueConfig, Readout, attention_operand, below, fields, inverse_softplus, tensor_bytes,
    unit_spread,
};
use kiln_gla::gated_linear_attention;
use serde::{Deserialize, Serialize};

/// Settings of gated linear attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlaConfig {
    /// Number of heads, each with its own forget gate; divides `d_model` where `d_value` follows from it.
    pub heads: usize,
    /// Width of a head's queries and keys.
    pub d_key: usize,
    /// Width of a head's values; 0 is d_model / heads. A model that has lost heads keeps the width of those that stay.
    #[serde(default)]
    pub d_value: usize,
    /// Tokens that the convolution of queries, keys and values sees, the present one included; 0 or 1 leaves it out.
    pub conv_width: usize,
    /// Initial range in tokens of the shortest and the longest head, spaced evenly in the logarithm: over one range a state
    /// fades to 1/e.
    pub range: [f64; 2],
    /// Root that is taken of the gate.
    pub temperature: f64,
    /// Whether queries and keys are divided by their root mean square.
    pub qk_norm: bool,
    /// Whether a position's own value, weighted a channel, is added to what it reads.
    pub skip: bool,
    /// Whether the output is gated by silu(W_g x).
    pub gate: bool,
}

impl Default for GlaConfig {
    fn default() -> Self {
        Self {
            heads: 4,
            d_key: 32,
            d_value: 0,
            conv_width: 4,
            range: [4.0, 256.0],
            temperature: 16.0,
            qk_norm: true,
            skip: true,
            gate: true,
        }
    }
}

/// Gated linear attention.
#[derive(Module, Debug)]
pub struct GlaMixer {
    inputs: QueryKeyValue,
    /// W_f and b: `[d_model, heads]` and `[heads]`.
    forget: Linear,
    readout: Readout,
    heads: usize,
    d_key: usize,
    d_value: usize,
    temperature: f64,
}

/// What generation remembers.
#[derive(Clone, Debug)]
pub struct GlaState {
    /// S of every head, `[batch, heads, d_key, d_value]`.
    memory: Tensor<4>,
    history: ConvHistory,
}

impl GlaConfig {
    /// Checks every size and range against the backbone's.
    ///
    /// # Errors
    /// If `heads` does not divide `d_model`; else names the first setting out of its range.
    pub fn validate(&self, backbone: &BackboneConfig) -> Result<(), ModelError> {
        for (name, value) in [("gla.heads", self.heads), ("gla.d_key", self.d_key)] {
            if value == 0 {
                let least = 1;
                return Err(ModelError::TooSmall { name, value, least });
            }
        }
        if self.d_value == 0 && !backbone.d_model.is_multiple_of(self.heads) {
            return Err(ModelError::NotDivisible {
                part: "gla.heads",
                part_value: self.heads,
                whole: "d_model",
                whole_value: backbone.d_model,
            });
        }
        let [short, long] = self.range;
        for (name, value) in [
            ("gla.range", short),
            ("gla.range", long),
            ("gla.temperature", self.temperature),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                let range = "(0, inf)";
                return Err(ModelError::OutOfRange { name, value, range });
            }
        }
        Ok(())
    }

    /// Width of a head's values, of a valid configuration.
    pub fn value_width(&self, backbone: &BackboneConfig) -> usize {
        match self.d_value {
            0 => backbone.d_model / self.heads,
            d_value => d_value,
        }
    }

    /// b of every head: with W_f x = 0 a head fades to 1/e in its range.
    fn forget_bias(&self) -> Vec<f32> {
        let [short, long] = self.range.map(f64::ln);
        let bias = |head: usize| {
            let place = match self.heads {
                1 => 0.5,
                heads => head as f64 / (heads - 1) as f64,
            };
            let range = (short + (long - short) * place).exp();
            // log sigmoid(b) = -softplus(-b) = -temperature / range
            -inverse_softplus(self.temperature / range) as f32
        };
        (0..self.heads).map(bias).collect()
    }

    /// Builds the mixer for a block of `backbone`.
    ///
    /// # Errors
    /// Those of [`GlaConfig::validate`].
    pub fn init(
        &self,
        backbone: &BackboneConfig,
        rng: &mut InitRng,
        device: &Device,
    ) -> Result<GlaMixer, ModelError> {
        self.validate(backbone)?;
        let (d_model, heads) = (backbone.d_model, self.heads);
        let d_value = self.value_width(backbone);
        let sizes = QueryKeyValueConfig {
            heads,
            d_key: self.d_key,
            d_value,
            conv_width: self.conv_width,
            qk_norm: self.qk_norm,
        };
        let forget_bias = TensorData::new(self.forget_bias(), [heads]);
        Ok(GlaMixer {
            inputs: QueryKeyValue::init(sizes, backbone, rng, device),
            forget: Linear::new(
                rng.matrix(d_model, heads, unit_spread(d_model), device),
                Some(Param::from_data(forget_bias, device)),
            ),
            readout: Readout::init(
                [self.gate, self.skip],
                [heads, d_value],
                backbone,
                rng,
                device,
            ),
            heads,
            d_key: self.d_key,
            d_value,
            temperature: self.temperature,
        })
    }
}

impl GlaMixer {
    /// ln a of every head, `[batch, seq, heads]`, from what the forget gate's layer makes of the input.
    fn log_decay(&self, forget: Tensor<3>) -> Tensor<3> {
        log_sigmoid(forget).div_scalar(self.temperature)
    }
}

impl Mixer for GlaMixer {
    type State = GlaState;

    fn initial_state(&self, batch: usize, device: &Device) -> GlaState {
        GlaState {
            memory: Tensor::zeros([batch, self.heads, self.d_key, self.d_value], device),
            history: self.inputs.initial_history(batch, device),
        }
    }

    fn forward(&self, x: Tensor<3>, state: Option<GlaState>) -> (Tensor<3>, Option<GlaState>) {
        let continues = state.is_some();
        let (memory, history) = match state {
            Some(state) => (Some(state.memory), state.history),
            None => (None, ConvHistory::default()),
        };
        let (inputs, history) =
            self.inputs
                .forward(x.clone(), &self.forget, &self.readout, history);
        // Shapes agree by construction, so the operation's shape errors cannot occur here.
        let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(attention_operand);
        let mixed = gated_linear_attention(q, k, v, self.log_decay(inputs.gates), memory)
            .expect("mixer shapes agree by construction");
        let y = self
            .readout
            .forward(mixed.output, inputs.own, inputs.readout, x);
        let state = GlaState {
            memory: mixed.state,
            history,
        };
        // Without a history to extend the convolutions return none, and a state without it could not be continued from.
        (y, continues.then_some(state))
    }

    fn step(&self, x: Tensor<2>, state: GlaState) -> (Tensor<2>, GlaState) {
        let (y, next) = self.forward(x.unsqueeze_dim(1), Some(state.clone()));
        (y.squeeze_dim(1), next.unwrap_or(state))
    }

    fn linears_mut(&mut self) -> NamedLinears<'_> {
        let mut layers = below("inputs", self.inputs.linears_mut());
        layers.extend(fields([("forget", Some(&mut self.forget))]));
        layers.extend(below("readout", self.readout.linears_mut()));
        layers
    }

    fn is_causal(&self) -> bool {
        true
    }

    /// Two for each weight; in the recurrent form five for each entry of S: decay, write, read.
    fn flops_per_token(&self, _seq: usize) -> u64 {
        let projections = self.inputs.flops_per_token()
            + self.forget.flops_per_row()
            + self.readout.flops_per_token();
        projections + (5 * self.heads * self.d_key * self.d_value) as u64
    }

    /// S of each head in f32, and the convolutions' histories, whatever the length.
    fn state_bytes(&self, _seq: usize) -> u64 {
        let memory = self.heads * self.d_key * self.d_value * size_of::<f32>();
        memory as u64 + self.inputs.state_bytes()
    }

    fn counted_state_bytes(&self, state: &GlaState) -> u64 {
        tensor_bytes(&state.memory) + state.history.bytes()
    }
}

#[cfg(test)]
mod tests {
    use kiln_backbone::Weight;

    use super::*;

    fn backbone(d_model: usize) -> BackboneConfig {
        let (backbone, _) = (crate::GLA_PRESETS[0].config)();
        BackboneConfig {
            d_model,
            ..backbone
        }
    }

    /// One head that forgets half a token, q = k = 1 and v = x: the second token reads half of the first and all of itself.
    /// Divided by their root mean squares, (1, 0) is (sqrt(2), 0) and (1/2, 1) is (1, 2) sqrt(2/5).
    #[test]
    fn two_tokens_by_hand() {
        let device = Device::flex();
        let range = 1.0 / std::f64::consts::LN_2;
        let config = GlaConfig {
            heads: 1,
            d_key: 1,
            conv_width: 0,
            range: [range, range],
            qk_norm: false,
            skip: false,
            gate: false,
            ..Default::default()
        };
        let mut mixer = config
            .init(&backbone(2), &mut InitRng::new(1), &device)
            .unwrap();
        let matrix = |rows: [&[f32]; 2]| {
            let (values, cols) = (rows.concat(), rows[0].len());
            Weight::dense(Tensor::from_data(
                TensorData::new(values, [2, cols]),
                &device,
            ))
        };
        mixer.inputs.query.linear.weight = matrix([&[1.0], &[1.0]]);
        mixer.inputs.key.linear.weight = matrix([&[1.0], &[1.0]]);
        mixer.inputs.value.linear.weight = matrix([&[1.0, 0.0], &[0.0, 1.0]]);
        mixer.forget.weight = matrix([&[0.0], &[0.0]]);
        mixer.readout.output.weight = matrix([&[1.0, 0.0], &[0.0, 1.0]]);
        let x = Tensor::<3>::from_floats([[[1.0, 0.0], [0.0, 1.0]]], &device);
        let y: Vec<f32> = mixer.forward(x, None).0.into_data().try_to_vec().unwrap();
        let (root_two, root) = (2.0_f32.sqrt(), 0.4_f32.sqrt());
        for (found, exact) in y.iter().zip([root_two, 0.0, root, 2.0 * root]) {
            // The norm's epsilon takes 1e-5 of mean squares of 0.5 and 0.6.
            assert!((found - exact).abs() < 5e-5, "{y:?}");
        }
    }

    /// Ranges are spaced evenly in the logarithm, whatever the temperature; one head stands in the middle.
    #[test]
    fn heads_start_with_their_ranges() {
        for temperature in [1.0, 16.0] {
            for (heads, expected) in [(3, vec![4.0, 32.0, 256.0]), (1, vec![32.0])] {
                let config = GlaConfig {
                    heads,
                    temperature,
                    ..Default::default()
                };
                let range = |b: &f32| temperature / (-f64::from(*b)).exp().ln_1p();
                let found: Vec<f64> = config.forget_bias().iter().map(range).collect();
                for (found, expected) in found.iter().zip(&expected) {
                    // Biases are f32: half a rounding of 3 moves the longest range by 1e-7 of it.
                    assert!((found / expected - 1.0).abs() < 1e-6, "{found} {expected}");
                }
            }
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        type Change = fn(&mut GlaConfig);
        let table: [(Change, &str); 5] = [
            (|c| c.heads = 0, "`gla.heads` is 0, but must be at least 1"),
            (
                |c| c.heads = 5,
                "`gla.heads` = 5 does not divide `d_model` = 64; choose a divisor of 64",
            ),
            (|c| c.d_key = 0, "`gla.d_key` is 0, but must be at least 1"),
            (
                |c| c.range = [4.0, f64::NAN],
                "`gla.range` is NaN, but must lie in (0, inf)",
            ),
            (
                |c| c.temperature = 0.0,
                "`gla.temperature` is 0, but must lie in (0, inf)",
            ),
        ];
        for (change, expected) in table {
            let mut config = GlaConfig::default();
            change(&mut config);
            let error = config.validate(&backbone(64)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
