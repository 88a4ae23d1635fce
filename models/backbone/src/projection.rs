//! What recurrent mixers with keys and values have around their recurrence: projections with a short convolution, heads of
//! normalised queries and keys, and the gated output.
//!
//! ```text
//! q, k, v = silu(conv(W x))                  as in Mamba-2 (arXiv 2405.21060) and gated DeltaNet (arXiv 2412.06464)
//! out     = W_o (silu(W_g x) * norm(y + D v))      as in GLA (arXiv 2312.06635), the norm over each head by itself; D of Mamba-2
//! ```
//! Axes: batch, seq, channels, heads, d_key, d_value.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use kiln_fused::{rms_norm, swiglu};

use crate::layers::EPSILON;
use crate::{InitRng, ShortConv, project};

/// silu(conv(W x)), or W x without a convolution.
#[derive(Module, Debug)]
pub struct ConvProjection {
    /// W.
    pub linear: Linear,
    /// The causal depthwise convolution, if there is one.
    pub conv: Option<ShortConv>,
}

impl ConvProjection {
    /// Normal weights of standard deviation `std`; a convolution that sees `conv_width` tokens if that is above 1.
    pub fn init(
        [d_model, channels]: [usize; 2],
        conv_width: usize,
        bias: bool,
        std: f64,
        rng: &mut InitRng,
        device: &Device,
    ) -> Self {
        Self {
            linear: rng.linear(d_model, channels, bias, std, device),
            conv: (conv_width > 1).then(|| ShortConv::init(channels, conv_width, rng, device)),
        }
    }

    /// What stands before the first input, if there is a convolution: `[batch, conv_width - 1, channels]`.
    pub fn initial_history(&self, batch: usize, device: &Device) -> Option<Tensor<3>> {
        let conv = self.conv.as_ref()?;
        Some(conv.initial_history(batch, device))
    }

    /// Projects.
    ///
    /// # Shapes
    /// - x `[batch, seq, d_model]`, history as [`ConvProjection::initial_history`] or none for a fresh start
    /// - returns `[batch, seq, channels]` and, if one was given, the history after
    pub fn forward(
        &self,
        x: Tensor<3>,
        history: Option<Tensor<3>>,
    ) -> (Tensor<3>, Option<Tensor<3>>) {
        let projected = project(&self.linear, x);
        match &self.conv {
            Some(conv) => conv.forward(projected, history, true),
            None => (projected, None),
        }
    }

    /// Two for each weight.
    pub fn flops_per_token(&self) -> u64 {
        weight_flops(&self.linear) + self.conv.as_ref().map_or(0, ShortConv::flops_per_token)
    }

    /// Bytes of f32 history of a lane.
    pub fn state_bytes(&self) -> u64 {
        self.conv.as_ref().map_or(0, ShortConv::state_bytes)
    }
}

/// Two operations for each weight of a layer.
pub fn weight_flops(layer: &Linear) -> u64 {
    2 * layer.weight.shape().num_elements() as u64
}

/// Queries or keys of each head, times `scale` and, with `normed`, divided by their root mean square.
///
/// # Shapes
/// - x `[batch, seq, heads * d_key]`; returns `[batch, seq, heads, d_key]`
pub fn split_heads(x: Tensor<3>, heads: usize, scale: f64, normed: bool) -> Tensor<4> {
    let [batch, seq, channels] = x.dims();
    let (d_key, device) = (channels / heads, x.device());
    let x = x.reshape([batch, seq, heads, d_key]);
    match normed {
        true => rms_norm(x, Tensor::full([d_key], scale, &device), EPSILON),
        false => x.mul_scalar(scale),
    }
}

/// What the heads read and, with a skip, each position's own value, weighted a channel (D of Mamba-2).
///
/// # Shapes
/// - read and values `[batch, seq, heads, d_value]`, skip `[heads * d_value]`; returns as read
pub fn add_skip(read: Tensor<4>, values: Tensor<4>, skip: Option<&Param<Tensor<1>>>) -> Tensor<4> {
    let [_, _, heads, d_value] = values.dims();
    match skip {
        Some(skip) => read + values * skip.val().reshape([1, 1, heads, d_value]),
        None => read,
    }
}

/// What the heads read, normalised a head, gated by silu(W_g x) if there is a gate, and projected.
///
/// # Shapes
/// - read `[batch, seq, heads, d_value]`, x `[batch, seq, d_model]`, norm (the scale, alike for all heads) `[d_value]`
/// - returns `[batch, seq, d_model]`
pub fn gated_output(
    read: Tensor<4>,
    x: Tensor<3>,
    norm: &Param<Tensor<1>>,
    gate: Option<&Linear>,
    output: &Linear,
) -> Tensor<3> {
    let [batch, seq, heads, d_value] = read.dims();
    let y = rms_norm(read, norm.val(), EPSILON).reshape([batch, seq, heads * d_value]);
    let y = match gate {
        Some(gate) => swiglu(project(gate, x), y),
        None => y,
    };
    project(output, y)
}
