//! Causal multi-head attention. y_i = sum_{j<=i} softmax_j(q_i . k_j / sqrt(d_head)) v_j   (arXiv 1706.03762)
//!
//! Axes: batch, seq, heads, d_head. State: keys and values of all past positions, so it grows with seq.

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Linear};
use burn::tensor::{Device, Tensor};
use kiln_backbone::{BackboneConfig, InitRng, Mixer, ModelError, project, tensor_bytes};
use kiln_fused::{causal_attention, reference};
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
    /// Checks every size and range against the backbone's.
    ///
    /// # Errors
    /// If `heads` does not divide `d_model`, rotation is asked for with an odd head, or its base is not positive.
    pub fn validate(&self, backbone: &BackboneConfig) -> Result<(), ModelError> {
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
        if !self.rope {
            return Ok(());
        }
        let d_head = d_model / heads;
        if d_head % 2 == 1 {
            return Err(ModelError::Conflict(format!(
                "`attention.rope` turns pairs, but d_model / heads = {d_model} / {heads} = {d_head} is odd; choose other heads"
            )));
        }
        if !(self.rope_base > 0.0 && self.rope_base.is_finite()) {
            return Err(ModelError::OutOfRange {
                name: "attention.rope_base",
                value: self.rope_base,
                range: "(0, inf)",
            });
        }
        Ok(())
    }

    /// Builds the mixer for a block of `backbone`.
    ///
    /// # Errors
    /// Those of [`AttentionConfig::validate`].
    pub fn init(
        &self,
        backbone: &BackboneConfig,
        rng: &mut InitRng,
        device: &Device,
    ) -> Result<CausalSelfAttention, ModelError> {
        self.validate(backbone)?;
        let (d_model, heads) = (backbone.d_model, self.heads);
        let d_head = d_model / heads;
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
    /// Queries, keys and values of all heads, `[batch, seq, 3 * d_model]`, rotated for positions from `offset`.
    fn pack(&self, x: Tensor<3>, offset: usize) -> Tensor<3> {
        let [_, seq, _] = x.dims();
        let device = x.device();
        let packed = project(&self.query_key_value, x);
        match self.rope_base {
            Some(base) => {
                Rope::new(base, self.d_head, offset, seq, &device).apply(packed, self.heads)
            }
            None => packed,
        }
    }
}

impl Mixer for CausalSelfAttention {
    type State = KvCache;

    fn initial_state(&self, _batch: usize, _device: &Device) -> KvCache {
        KvCache::default()
    }

    fn forward(&self, x: Tensor<3>, state: Option<KvCache>) -> (Tensor<3>, Option<KvCache>) {
        let past = state.as_ref().map_or(0, KvCache::past);
        let drops = self.dropout.prob > 0.0 && x.device().is_autodiff();
        let packed = self.pack(x, past);
        if past == 0 && !drops {
            let next = state.map(|_| {
                let [_, k, v] = reference::unpack(packed.clone(), self.heads);
                KvCache(Some((k, v)))
            });
            let mixed = causal_attention(packed, self.heads);
            return (project(&self.output, mixed), next);
        }
        let [q, k, v] = reference::unpack(packed, self.heads);
        let (k, v) = match state.and_then(|cache| cache.0) {
            Some((keys, values)) => (
                Tensor::cat(vec![keys, k], 2),
                Tensor::cat(vec![values, v], 2),
            ),
            None => (k, v),
        };
        let next = KvCache(Some((k.clone(), v.clone())));
        let drop = |weights| self.dropout.forward(weights);
        let mixed = reference::attention([q, k, v], past, drop);
        (project(&self.output, mixed), Some(next))
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

    fn counted_state_bytes(&self, state: &KvCache) -> Option<u64> {
        let bytes =
            |(keys, values): &(Tensor<4>, Tensor<4>)| tensor_bytes(keys) + tensor_bytes(values);
        Some(state.0.as_ref().map_or(0, bytes))
    }
}
