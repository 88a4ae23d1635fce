//! Causal multi-head attention. y_i = sum_{j<=i} softmax_j(q_i . k_j / sqrt(d_head)) v_j   (arXiv 1706.03762)
//!
//! Axes: batch, seq, heads, d_head. State: keys and values of all past positions, so it grows with seq.

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Linear};
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Device, Tensor};
use kiln_backbone::{BackboneConfig, InitRng, Mixer, ModelError};
use serde::{Deserialize, Serialize};

use crate::Rope;

/// Settings of attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionConfig {
    /// Number of heads; divides `d_model`.
    pub heads: usize,
    /// Whether queries and keys are rotated by position.
    pub rope: bool,
    /// Slowest rotation: a full turn in about 2 pi * `rope_base` positions.
    pub rope_base: f64,
}

impl Default for AttentionConfig {
    fn default() -> Self {
        Self {
            heads: 4,
            rope: true,
            rope_base: 10_000.0,
        }
    }
}

/// Causal multi-head attention.
#[derive(Module, Debug)]
pub struct CausalSelfAttention {
    query_key_value: Linear,
    output: Linear,
    dropout: Dropout,
    heads: usize,
    d_head: usize,
    rope_base: Option<f64>,
}

/// Keys and values of the past, `[batch, heads, past, d_head]` each; none before the first token.
#[derive(Clone, Debug, Default)]
pub struct KvCache(Option<(Tensor<4>, Tensor<4>)>);

impl KvCache {
    /// Number of positions held.
    pub fn past(&self) -> usize {
        self.0.as_ref().map_or(0, |(keys, _)| keys.dims()[2])
    }
}

impl AttentionConfig {
    /// Builds the mixer for a block of `backbone`.
    ///
    /// # Errors
    /// If `heads` does not divide `d_model`, or rotation is asked for with an odd head.
    pub fn init(
        &self,
        backbone: &BackboneConfig,
        rng: &mut InitRng,
        device: &Device,
    ) -> Result<CausalSelfAttention, ModelError> {
        let (d_model, heads) = (backbone.d_model, self.heads);
        if heads == 0 {
            return Err(ModelError::TooSmall {
                name: "attention.heads",
                value: 0,
                least: 1,
            });
        }
        if d_model % heads != 0 {
            return Err(ModelError::NotDivisible {
                part: "attention.heads",
                part_value: heads,
                whole: "d_model",
                whole_value: d_model,
            });
        }
        let d_head = d_model / heads;
        if self.rope && d_head % 2 == 1 {
            return Err(ModelError::Conflict(format!(
                "`attention.rope` turns pairs, but d_model / heads = {d_model} / {heads} = {d_head} is odd; choose other heads"
            )));
        }
        let bias = backbone.bias;
        Ok(CausalSelfAttention {
            query_key_value: rng.linear(d_model, 3 * d_model, bias, backbone.init_std, device),
            output: rng.linear(d_model, d_model, bias, backbone.residual_std(), device),
            dropout: DropoutConfig::new(backbone.dropout).init(),
            heads,
            d_head,
            rope_base: self.rope.then_some(self.rope_base),
        })
    }
}

impl CausalSelfAttention {
    /// Queries, keys and values, each `[batch, heads, seq, d_head]`, rotated for positions from `offset`.
    fn project(&self, x: Tensor<3>, offset: usize) -> [Tensor<4>; 3] {
        let [batch, seq, _] = x.dims();
        let device = x.device();
        let all = self
            .query_key_value
            .forward(x)
            .reshape([batch, seq, 3 * self.heads, self.d_head])
            .swap_dims(1, 2); // [batch, 3 * heads, seq, d_head]
        let mut parts = all.chunk(3, 1);
        let [v, k, q] = [(); 3].map(|()| parts.pop().expect("three parts were asked for"));
        match self.rope_base {
            Some(base) => {
                let rope = Rope::new(base, self.d_head, offset, seq, &device);
                [rope.apply(q), rope.apply(k), v]
            }
            None => [q, k, v],
        }
    }

    /// Scores, softmax and mixing; `past` keys stand before the first query.
    fn attend(&self, [q, k, v]: [Tensor<4>; 3], past: usize) -> Tensor<3> {
        let [batch, _, seq, _] = q.dims();
        let scale = (self.d_head as f64).powf(-0.5);
        let mut scores = q.mul_scalar(scale).matmul(k.swap_dims(2, 3)); // [batch, heads, seq, past + seq]
        if seq > 1 {
            // tril_mask is true above the diagonal: those are the future.
            let future =
                Tensor::<2, Bool>::tril_mask([seq, past + seq], past as i64, &scores.device());
            scores = scores.mask_fill(future.unsqueeze(), f32::NEG_INFINITY);
        }
        let weights = self.dropout.forward(softmax(scores, 3));
        let mixed = weights.matmul(v).swap_dims(1, 2); // [batch, seq, heads, d_head]
        self.output
            .forward(mixed.reshape([batch, seq, self.heads * self.d_head]))
    }
}

impl Mixer for CausalSelfAttention {
    type State = KvCache;

    fn initial_state(&self, _batch: usize, _device: &Device) -> KvCache {
        KvCache::default()
    }

    fn forward(&self, x: Tensor<3>, state: Option<KvCache>) -> (Tensor<3>, Option<KvCache>) {
        let past = state.as_ref().map_or(0, KvCache::past);
        let [q, k, v] = self.project(x, past);
        let (k, v) = match state.and_then(|cache| cache.0) {
            Some((keys, values)) => (
                Tensor::cat(vec![keys, k], 2),
                Tensor::cat(vec![values, v], 2),
            ),
            None => (k, v),
        };
        let next = KvCache(Some((k.clone(), v.clone())));
        (self.attend([q, k, v], past), Some(next))
    }

    fn step(&self, x: Tensor<2>, state: KvCache) -> (Tensor<2>, KvCache) {
        let (y, next) = self.forward(x.unsqueeze_dim(1), Some(state));
        (y.squeeze_dim(1), next.unwrap_or_default())
    }

    fn is_causal(&self) -> bool {
        true
    }

    /// Projections: 2 * 4 d^2. Scores and mixing: 2 * 2 * seq * d, over the whole square as kernels compute it
    /// (Chowdhery et al., arXiv 2204.02311, appendix B).
    fn flops_per_token(&self, seq: usize) -> u64 {
        let d = (self.heads * self.d_head) as u64;
        8 * d * d + 4 * d * seq as u64
    }

    /// A key and a value of d_model f32 for each past token.
    fn state_bytes(&self, seq: usize) -> u64 {
        (2 * seq * self.heads * self.d_head * size_of::<f32>()) as u64
    }
}
