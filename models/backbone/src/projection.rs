//! What recurrent mixers with keys and values have around their recurrence: queries, keys and values behind a short convolution,
//! and the gated output.
//!
//! ```text
//! q, k, v = silu(conv(W x))                  as in Mamba-2 (arXiv 2405.21060) and gated DeltaNet (arXiv 2412.06464)
//! out     = W_o (silu(W_g x) * norm(y + D v))      as in GLA (arXiv 2312.06635), the norm over each head by itself; D of Mamba-2
//! ```
//! Axes: batch, seq, channels, heads, d_key, d_value.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use kiln_fused::{
    ConvolvedHeads, Gate, HeadSizes, PackedGate, add_weighted, convolved_heads, gated_readout,
    linear_side_by_side, rms_norm, swiglu, takes_convolved_heads, takes_gated_readout,
};

use crate::layers::EPSILON;
use crate::mixer::tensor_bytes;
use crate::weights::{NamedLinears, fields};
use crate::{BackboneConfig, InitRng, Linear, ShortConv, project, single};

/// silu(conv(W x)), or W x without a convolution.
#[derive(Module, Debug)]
pub struct ConvProjection {
    /// W.
    pub linear: Linear,
    /// The causal depthwise convolution, if there is one.
    pub conv: Option<ShortConv>,
}

/// The last inputs of the convolutions of queries, keys and values, `[batch, conv_width - 1, channels]`, if there are any.
#[derive(Clone, Debug, Default)]
pub struct ConvHistory([Option<Tensor<3>>; 3]);

/// What a mixer's heads take.
#[derive(Clone, Debug)]
pub struct HeadInputs {
    /// Queries, divided by sqrt(d_key), `[batch, seq, heads, d_key]`.
    pub q: Tensor<4>,
    /// Keys, `[batch, seq, heads, d_key]`.
    pub k: Tensor<4>,
    /// Values, `[batch, seq, heads, d_value]`.
    pub v: Tensor<4>,
    /// The values once more, for the readout: on some devices gradients of two readers meet without a pass of their own.
    pub own: Tensor<4>,
    /// What the gates follow from, in f32: the outputs of the further layer, `[batch, seq, its outputs]`.
    pub gates: Tensor<3>,
    /// The readout's gate, if it came from the same product.
    pub readout: Option<PackedGate>,
}

/// Sizes of [`QueryKeyValue`].
#[derive(Clone, Copy, Debug)]
pub struct QueryKeyValueConfig {
    /// Number of heads.
    pub heads: usize,
    /// Width of a head's queries and keys.
    pub d_key: usize,
    /// Width of a head's values.
    pub d_value: usize,
    /// Tokens that the convolutions see, the present one included; 0 or 1 leaves them out.
    pub conv_width: usize,
    /// Whether queries and keys are divided by their root mean square.
    pub qk_norm: bool,
}

/// The projections of queries, keys and values.
#[derive(Module, Debug)]
pub struct QueryKeyValue {
    // Three matrices that compression can treat apart; where a kernel takes all of them at once, they are put beside each other in the
    // forward pass.
    /// To `heads * d_key` channels.
    pub query: ConvProjection,
    /// To as many.
    pub key: ConvProjection,
    /// To `heads * d_value` channels.
    pub value: ConvProjection,
    heads: usize,
    d_key: usize,
    d_value: usize,
    qk_norm: bool,
}

/// From what the heads read to the mixer's output.
#[derive(Module, Debug)]
pub struct Readout {
    gate: Option<Linear>,
    /// D: weight of a position's own value, `[heads * d_value]`.
    skip: Option<Param<Tensor<1>>>,
    /// Scale of the norm of a head's output, alike for all heads, `[d_value]`.
    norm: Param<Tensor<1>>,
    /// W_o.
    pub output: Linear,
}

impl ConvProjection {
    fn forward(&self, x: Tensor<3>, history: Option<Tensor<3>>) -> (Tensor<3>, Option<Tensor<3>>) {
        let projected = project(&self.linear, x);
        match &self.conv {
            Some(conv) => conv.forward(projected, history, true),
            None => (projected, None),
        }
    }

    fn flops_per_token(&self) -> u64 {
        self.linear.flops_per_row() + self.conv.as_ref().map_or(0, ShortConv::flops_per_token)
    }
}

impl ConvHistory {
    /// Bytes of its tensors, all lanes together.
    pub fn bytes(&self) -> u64 {
        self.0.iter().flatten().map(tensor_bytes).sum()
    }
}

impl QueryKeyValue {
    /// Normal weights of unit spread, so that what follows differs between tokens from the first step on.
    pub fn init(
        config: QueryKeyValueConfig,
        backbone: &BackboneConfig,
        rng: &mut InitRng,
        device: &Device,
    ) -> Self {
        let QueryKeyValueConfig {
            heads,
            d_key,
            d_value,
            conv_width,
            qk_norm,
        } = config;
        let d_model = backbone.d_model;
        let mut projection = |channels| ConvProjection {
            linear: rng.linear(
                d_model,
                channels,
                backbone.bias,
                unit_spread(d_model),
                device,
            ),
            conv: (conv_width > 1).then(|| ShortConv::init(channels, conv_width, rng, device)),
        };
        Self {
            query: projection(heads * d_key),
            key: projection(heads * d_key),
            value: projection(heads * d_value),
            heads,
            d_key,
            d_value,
            qk_norm,
        }
    }

    /// Its linear layers.
    pub fn linears_mut(&mut self) -> NamedLinears<'_> {
        fields([
            ("query.linear", Some(&mut self.query.linear)),
            ("key.linear", Some(&mut self.key.linear)),
            ("value.linear", Some(&mut self.value.linear)),
        ])
    }

    fn all(&self) -> [&ConvProjection; 3] {
        [&self.query, &self.key, &self.value]
    }

    /// What stands before the first input.
    pub fn initial_history(&self, batch: usize, device: &Device) -> ConvHistory {
        let history = |projection: &ConvProjection| {
            let conv = projection.conv.as_ref()?;
            Some(conv.initial_history(batch, device))
        };
        ConvHistory(self.all().map(history))
    }

    /// Queries, keys and values of each head, what the layer `gates` makes of the same input, and the history after. Where one product
    /// makes all of it, that of the readout's gate is in it.
    ///
    /// # Shapes
    /// - x `[batch, seq, d_model]`; history of the same mixer, or the default for a fresh start, which leaves none
    pub fn forward(
        &self,
        x: Tensor<3>,
        gates: &Linear,
        readout: &Readout,
        history: ConvHistory,
    ) -> (HeadInputs, ConvHistory) {
        if let Some(inputs) = self.forward_packed(&x, gates, readout, &history) {
            return (inputs, ConvHistory::default());
        }
        let [batch, seq, _] = x.dims();
        let ConvHistory([q_history, k_history, v_history]) = history;
        let (q, q_history) = self.query.forward(x.clone(), q_history);
        let (k, k_history) = self.key.forward(x.clone(), k_history);
        let (v, v_history) = self.value.forward(x.clone(), v_history);
        let v = v.reshape([batch, seq, self.heads, self.d_value]);
        let inputs = HeadInputs {
            q: self.split(q, self.query_scale()),
            k: self.split(k, 1.0),
            own: v.clone(),
            v,
            gates: single(project(gates, x)),
            readout: None,
        };
        (inputs, ConvHistory([q_history, k_history, v_history]))
    }

    /// The same as one product and one pass over what comes out of it, where a kernel takes it: plain matrices, all of them behind a
    /// convolution and, but for values, a norm, from the start of a sequence.
    fn forward_packed(
        &self,
        x: &Tensor<3>,
        gates: &Linear,
        readout: &Readout,
        history: &ConvHistory,
    ) -> Option<HeadInputs> {
        let fresh = history.0.iter().all(Option::is_none);
        let [q_taps, k_taps, v_taps] = self.all().map(|projection| {
            let conv = projection.conv.as_ref()?;
            Some(conv.weight.val())
        });
        let taps = [q_taps?, k_taps?, v_taps?];
        let (gates, bias) = gates.matrix_and_bias()?;
        let gate = readout.gate_beside_others(x, self.d_value);
        let sizes = HeadSizes {
            heads: self.heads,
            d_key: self.d_key,
            d_value: self.d_value,
            gate: gate.as_ref().map_or(0, |gate| gate.dims()[1]),
            rest: gates.dims()[1],
        };
        let [_, width] = taps[0].dims();
        if !(fresh && self.qk_norm && takes_convolved_heads(x, sizes, width)) {
            return None;
        }
        let [q, k, v] = self.all().map(|projection| projection.linear.matrix());
        let matrices = [q?, k?, v?].into_iter().chain(gate).chain([gates]);
        let packed = linear_side_by_side(x.clone(), matrices.collect(), sizes.columns());
        let ConvolvedHeads {
            q,
            k,
            v,
            own,
            gate,
            rest,
        } = convolved_heads(packed, taps, sizes, self.query_scale(), EPSILON);
        let gates = match bias {
            Some(bias) => rest + bias.unsqueeze(),
            None => rest,
        };
        Some(HeadInputs {
            q,
            k,
            v,
            own,
            gates,
            readout: gate,
        })
    }

    fn query_scale(&self) -> f64 {
        (self.d_key as f64).powf(-0.5)
    }

    /// Queries or keys of each head, times `scale`: `[batch, seq, heads * d_key]` to `[batch, seq, heads, d_key]`.
    fn split(&self, x: Tensor<3>, scale: f64) -> Tensor<4> {
        let ([batch, seq, _], device) = (x.dims(), x.device());
        let x = x.reshape([batch, seq, self.heads, self.d_key]);
        match self.qk_norm {
            true => rms_norm(x, Tensor::full([self.d_key], scale, &device), EPSILON),
            false => x.mul_scalar(scale),
        }
    }

    /// Two for each weight.
    pub fn flops_per_token(&self) -> u64 {
        self.all().map(ConvProjection::flops_per_token).iter().sum()
    }

    /// Bytes of f32 history of a lane.
    pub fn state_bytes(&self) -> u64 {
        let bytes = |projection: &ConvProjection| {
            let conv = projection.conv.as_ref();
            conv.map_or(0, ShortConv::state_bytes)
        };
        self.all().map(bytes).iter().sum()
    }
}

impl Readout {
    /// Skip and norm of ones; a gate of unit spread and an output that starts small, as all that writes into the residual stream.
    pub fn init(
        [gate, skip]: [bool; 2],
        [heads, d_value]: [usize; 2],
        backbone: &BackboneConfig,
        rng: &mut InitRng,
        device: &Device,
    ) -> Self {
        let (d_model, bias) = (backbone.d_model, backbone.bias);
        let width = heads * d_value;
        let ones = |len| Param::from_tensor(Tensor::ones([len], device));
        Self {
            gate: gate.then(|| rng.linear(d_model, width, bias, unit_spread(d_model), device)),
            skip: skip.then(|| ones(width)),
            norm: ones(d_value),
            output: rng.linear(width, d_model, bias, backbone.residual_std(), device),
        }
    }

    /// Its linear layers.
    pub fn linears_mut(&mut self) -> NamedLinears<'_> {
        fields([
            ("gate", self.gate.as_mut()),
            ("output", Some(&mut self.output)),
        ])
    }

    /// The matrix of the gate, if it can be one of several beside each other on the device of x: a plain one, of a readout in one pass.
    fn gate_beside_others(&self, x: &Tensor<3>, d_value: usize) -> Option<Tensor<2>> {
        if self.skip.is_none() || !takes_gated_readout(x, d_value) {
            return None;
        }
        match self.gate.as_ref()?.matrix_and_bias()? {
            (gate, None) => Some(gate),
            (_, Some(_)) => None,
        }
    }

    /// What the heads read, in whatever element type, and, with a skip, each position's own value, normalised a head, gated by silu(W_g x) if there is a
    /// gate, and projected.
    ///
    /// # Shapes
    /// - read and values `[batch, seq, heads, d_value]`, x `[batch, seq, d_model]`; `gate` is W_g x, if it has been made
    /// - returns `[batch, seq, d_model]`
    pub fn forward(
        &self,
        read: Tensor<4>,
        values: Tensor<4>,
        gate: Option<PackedGate>,
        x: Tensor<3>,
    ) -> Tensor<3> {
        // Elsewhere the operations one by one cost as much, and keep the order in which gradients are added up.
        if let (Some(layer), Some(skip)) = (&self.gate, &self.skip)
            && takes_gated_readout(&x, read.dims()[3])
        {
            let gate = match gate {
                Some(gate) => Gate::Packed(gate),
                None => Gate::Rows(project(layer, x)),
            };
            let (skip, norm) = (skip.val(), self.norm.val());
            let y = gated_readout(read, values, skip, norm, gate, EPSILON);
            return project(&self.output, y);
        }
        let [batch, seq, heads, d_value] = read.dims();
        let read = read.cast(x.dtype());
        let read = match &self.skip {
            Some(skip) => {
                let [read, values] =
                    [read, values].map(|x| x.reshape([batch, seq, heads * d_value]));
                let sum = add_weighted(read, values, skip.val());
                sum.reshape([batch, seq, heads, d_value])
            }
            None => read,
        };
        let y = rms_norm(read, self.norm.val(), EPSILON).reshape([batch, seq, heads * d_value]);
        let y = match &self.gate {
            Some(gate) => swiglu(project(gate, x), y),
            None => y,
        };
        project(&self.output, y)
    }

    /// Two for each weight.
    pub fn flops_per_token(&self) -> u64 {
        let gate = self.gate.as_ref().map_or(0, Linear::flops_per_row);
        gate + self.output.flops_per_row()
    }
}

/// Standard deviation of weights that keep the spread of normalised inputs.
pub fn unit_spread(d_model: usize) -> f64 {
    (d_model as f64).powf(-0.5)
}
