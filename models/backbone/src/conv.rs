//! Short causal depthwise convolution: u_t = sum_j w_j x_{t - (width - 1) + j} a channel, w_{width - 1} for the present.
//!
//! Axes: batch, seq, channels, width. State: the last width - 1 inputs, `[batch, width - 1, channels]`.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use kiln_fused::causal_conv;

use crate::InitRng;

/// A causal depthwise convolution without bias.
#[derive(Module, Debug)]
pub struct ShortConv {
    /// `[channels, width]`, the present last.
    pub weight: Param<Tensor<2>>,
}

impl ShortConv {
    /// Weights uniform in +-1/sqrt(width), as for any convolution of that fan-in (PyTorch's default); `width` is at least 2.
    pub fn init(channels: usize, width: usize, rng: &mut InitRng, device: &Device) -> Self {
        let bound = (width as f64).powf(-0.5);
        let weight = rng.uniform(channels * width, -bound, bound);
        Self {
            weight: Param::from_data(TensorData::new(weight, [channels, width]), device),
        }
    }

    /// Zeros, as stand before the first input: `[batch, width - 1, channels]`.
    pub fn initial_history(&self, batch: usize, device: &Device) -> Tensor<3> {
        let [channels, width] = self.weight.shape().dims();
        Tensor::zeros([batch, width - 1, channels], device)
    }

    /// Convolves; with `silu`, silu(u) instead of u.
    ///
    /// # Shapes
    /// - x `[batch, seq, channels]`, history `[batch, width - 1, channels]` or none for a fresh start
    /// - returns `[batch, seq, channels]` and, if one was given, the history after
    pub fn forward(
        &self,
        x: Tensor<3>,
        history: Option<Tensor<3>>,
        silu: bool,
    ) -> (Tensor<3>, Option<Tensor<3>>) {
        causal_conv(x, self.weight.val(), history, silu)
    }

    /// Two for each weight.
    pub fn flops_per_token(&self) -> u64 {
        2 * self.weight.shape().num_elements() as u64
    }

    /// Bytes of f32 history of a lane.
    pub fn state_bytes(&self) -> u64 {
        let [channels, width] = self.weight.shape().dims();
        ((width - 1) * channels * size_of::<f32>()) as u64
    }
}
