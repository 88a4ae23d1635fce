//! Multi-head self-attention. y_i = sum_{j seen from i} softmax_j(q_i . k_j / sqrt(d_head)) v_j   (arXiv 1706.03762)
//!
//! Causal attention sees j <= i; with a window (arXiv 2004.05150) the last `window` of them and, as in StreamingLLM
//! (arXiv 2309.17453), the first `sinks` positions of the sequence, which take the weight that a query has no use for.
//! Bidirectional attention sees all. Axes: batch, seq, heads, d_head. State: keys and values of the past positions that a
//! later query can see, so it grows with seq unless there is a window.

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::{Device, Tensor};
use kiln_backbone::{
    BackboneConfig, Direction, InitRng, Linear, Mixer, ModelError, NamedLinears, dropout, fields,
    project, tensor_bytes, weight_dropout,
};
use kiln_fused::{AttentionMask, attention, attention_with_dropout, drops_in_kernel, reference};
use serde::{Deserialize, Serialize};

use crate::Rope;

/// Settings of attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionConfig {
    /// Number of heads; divides `d_model` where `d_head` follows from it.
    pub heads: usize,
    /// Width of a head; 0 is d_model / heads. A model that has lost heads keeps the width of those that stay.
    #[serde(default)]
    pub d_head: usize,
    /// Whether queries and keys are rotated by position.
    pub rope: bool,
    /// Slowest rotation: a full turn in about 2 pi * `rope_base` positions.
    pub rope_base: f64,
    /// Causal or bidirectional.
    #[serde(default)]
    pub direction: Direction,
    /// Positions that a token sees, its own included; 0 is all. Of causal attention only.
    #[serde(default)]
    pub window: usize,
    /// First positions of the sequence that every later token sees besides its window.
    #[serde(default)]
    pub sinks: usize,
}

impl Default for AttentionConfig {
    fn default() -> Self {
        Self {
            heads: 4,
            d_head: 0,
            rope: true,
            rope_base: 10_000.0,
            direction: Direction::Causal,
            window: 0,
            sinks: 0,
        }
    }
}

/// Multi-head self-attention.
#[derive(Module, Debug)]
pub struct SelfAttention {
    query_key_value: Linear,
    output: Linear,
    dropout: Dropout,
    heads: usize,
    d_head: usize,
    rope_base: Option<f64>,
    #[module(skip)]
    mask: AttentionMask,
}

/// Keys and values of the past that later queries can see; none before the first token.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    /// Positions seen so far.
    past: usize,
    /// Keys and values, `[batch, heads, held, d_head]` each.
    held: Option<(Tensor<4>, Tensor<4>)>,
}

impl KvCache {
    /// Number of positions seen so far.
    pub fn past(&self) -> usize {
        self.past
    }

    /// Number of positions held, of those that were seen.
    pub fn held(&self) -> usize {
        self.held.as_ref().map_or(0, |(keys, _)| keys.dims()[2])
    }
}

impl AttentionConfig {
    /// Checks every size and range against the backbone's.
    ///
    /// # Errors
    /// If `heads` does not divide `d_model`, rotation is asked for with an odd head, its base is not positive, or window, sinks
    /// and direction contradict each other.
    pub fn validate(&self, backbone: &BackboneConfig) -> Result<(), ModelError> {
        let (d_model, heads) = (backbone.d_model, self.heads);
        if heads == 0 {
            return Err(ModelError::TooSmall {
                name: "attention.heads",
                value: 0,
                least: 1,
            });
        }
        if self.d_head == 0 && d_model % heads != 0 {
            return Err(ModelError::NotDivisible {
                part: "attention.heads",
                part_value: heads,
                whole: "d_model",
                whole_value: d_model,
            });
        }
        self.validate_mask()?;
        if !self.rope {
            return Ok(());
        }
        let d_head = self.head_width(backbone);
        if d_head % 2 == 1 {
            let which = match self.d_head {
                0 => format!("d_model / heads = {d_model} / {heads} = {d_head}"),
                _ => format!("`attention.d_head` = {d_head}"),
            };
            return Err(ModelError::Conflict(format!(
                "`attention.rope` turns pairs, but {which} is odd; choose other heads"
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

    fn validate_mask(&self) -> Result<(), ModelError> {
        let conflict = |text: String| Err(ModelError::Conflict(text));
        match (self.direction, self.window, self.sinks) {
            (_, 0, 0) => Ok(()),
            (_, 0, sinks) => conflict(format!(
                "`attention.sinks` is {sinks}, but without a window every token sees the first ones already; set `attention.window`, or leave sinks out"
            )),
            (Direction::Bidirectional, window, _) => conflict(format!(
                "`attention.window` is {window}, but bidirectional attention has no window; set it to 0, or `attention.direction = \"causal\"`"
            )),
            (Direction::Causal, 1, _) => conflict(
                "`attention.window` is 1, where no token sees the one before it; use at least 2, or 0 for all tokens".into(),
            ),
            (Direction::Causal, _, _) => Ok(()),
        }
    }

    /// Width of a head, of a valid configuration.
    pub fn head_width(&self, backbone: &BackboneConfig) -> usize {
        match self.d_head {
            0 => backbone.d_model / self.heads,
            d_head => d_head,
        }
    }

    /// What a query sees; of a valid configuration.
    fn mask(&self) -> AttentionMask {
        match (self.direction, self.window) {
            (Direction::Bidirectional, _) => AttentionMask::Full,
            (Direction::Causal, 0) => AttentionMask::Causal,
            (Direction::Causal, window) => AttentionMask::Window {
                window,
                sinks: self.sinks,
            },
        }
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
    ) -> Result<SelfAttention, ModelError> {
        self.validate(backbone)?;
        let (d_model, heads) = (backbone.d_model, self.heads);
        let d_head = self.head_width(backbone);
        let (bias, width) = (backbone.bias, heads * d_head);
        Ok(SelfAttention {
            query_key_value: rng.linear(d_model, 3 * width, bias, backbone.init_std, device),
            output: rng.linear(width, d_model, bias, backbone.residual_std(), device),
            dropout: DropoutConfig::new(backbone.dropout).init(),
            heads,
            d_head,
            rope_base: self.rope.then_some(self.rope_base),
            mask: self.mask(),
        })
    }
}

impl SelfAttention {
    /// Queries, keys and values of all heads, `[batch, seq, 3 * heads * d_head]`, rotated for positions from `offset`.
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

    /// Whether weights are dropped, as [`Dropout`] has it: in training, of what is trained.
    fn drops_on(&self, device: &Device) -> bool {
        self.dropout.prob > 0.0 && self.dropout.training.is_enabled() && device.is_autodiff()
    }

    /// Positions out of `seq` that a query after them can see; of bidirectional attention there is no query after them.
    fn held(&self, seq: usize) -> usize {
        match self.mask {
            AttentionMask::Full => 0,
            AttentionMask::Causal => seq,
            AttentionMask::Window { window, sinks } => seq.min(sinks + window - 1),
        }
    }

    /// Keys or values without those that no later query sees: the sinks and the end of the window are left.
    fn kept(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, length, _] = x.dims();
        let held = self.held(length);
        match self.mask {
            AttentionMask::Window { sinks, .. } if held < length => {
                let last = x.clone().narrow(2, length - (held - sinks), held - sinks);
                match sinks {
                    0 => last,
                    _ => Tensor::cat(vec![x.narrow(2, 0, sinks), last], 2),
                }
            }
            _ => x,
        }
    }

    /// The cache after `past` positions, from all keys and values at hand.
    fn cache(&self, past: usize, keys: Tensor<4>, values: Tensor<4>) -> Option<KvCache> {
        let held = Some((self.kept(keys), self.kept(values)));
        self.is_causal().then_some(KvCache { past, held })
    }
}

impl Mixer for SelfAttention {
    type State = KvCache;

    fn initial_state(&self, _batch: usize, _device: &Device) -> KvCache {
        KvCache::default()
    }

    fn forward(&self, x: Tensor<3>, state: Option<KvCache>) -> (Tensor<3>, Option<KvCache>) {
        let [_, seq, _] = x.dims();
        // A bidirectional mixer has no past.
        let state = state.filter(|_| self.is_causal());
        let past = state.as_ref().map_or(0, KvCache::past);
        let drops = self.drops_on(&x.device());
        let packed = self.pack(x, past);
        let fused = !drops || drops_in_kernel(&packed, self.heads, self.mask);
        if past == 0 && fused {
            let next = state.and_then(|_| {
                let [_, k, v] = reference::unpack(packed.clone(), self.heads);
                self.cache(seq, k, v)
            });
            let mixed = match drops {
                true => {
                    let dropout = weight_dropout(self.dropout.prob, &packed.device());
                    attention_with_dropout(packed, self.heads, self.mask, dropout)
                }
                false => attention(packed, self.heads, self.mask),
            };
            return (project(&self.output, mixed), next);
        }
        let [q, k, v] = reference::unpack(packed, self.heads);
        let (k, v) = match state.and_then(|cache| cache.held) {
            Some((keys, values)) => (
                Tensor::cat(vec![keys, k], 2),
                Tensor::cat(vec![values, v], 2),
            ),
            None => (k, v),
        };
        let next = self.cache(past + seq, k.clone(), v.clone());
        let drop = |weights| dropout(&self.dropout, weights);
        let mixed = reference::attend([q, k, v], self.mask, drop);
        (project(&self.output, mixed), next)
    }

    fn step(&self, x: Tensor<2>, state: KvCache) -> (Tensor<2>, KvCache) {
        let (y, next) = self.forward(x.unsqueeze_dim(1), Some(state));
        (y.squeeze_dim(1), next.unwrap_or_default())
    }

    fn linears_mut(&mut self) -> NamedLinears<'_> {
        fields([
            ("query_key_value", Some(&mut self.query_key_value)),
            ("output", Some(&mut self.output)),
        ])
    }

    fn is_causal(&self) -> bool {
        self.mask != AttentionMask::Full
    }

    fn weights(&self, x: Tensor<3>) -> Option<Tensor<3>> {
        let [q, k, _] = reference::unpack(self.pack(x, 0), self.heads);
        let weights = reference::attention_weights([q, k], self.mask); // [batch, heads, seq, seq]
        Some(weights.mean_dim(1).squeeze_dim(1))
    }

    fn weighing_heads(&self) -> usize {
        self.heads
    }

    /// Projections: 2 for each weight. Scores and mixing: 2 * 2 * keys * d, over the whole square as kernels compute it
    /// (Chowdhery et al., arXiv 2204.02311, appendix B), or over window and sinks.
    fn flops_per_token(&self, seq: usize) -> u64 {
        let d = (self.heads * self.d_head) as u64;
        let keys = match self.mask {
            AttentionMask::Full | AttentionMask::Causal => seq,
            AttentionMask::Window { window, sinks } => seq.min(window + sinks),
        };
        let projections = self.query_key_value.flops_per_row() + self.output.flops_per_row();
        projections + 4 * d * keys as u64
    }

    /// A key and a value of heads * d_head f32 for each past token that is held.
    fn state_bytes(&self, seq: usize) -> u64 {
        (2 * self.held(seq) * self.heads * self.d_head * size_of::<f32>()) as u64
    }

    fn counted_state_bytes(&self, state: &KvCache) -> u64 {
        let bytes =
            |(keys, values): &(Tensor<4>, Tensor<4>)| tensor_bytes(keys) + tensor_bytes(values);
        state.held.as_ref().map_or(0, bytes)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    fn mixer(config: AttentionConfig) -> SelfAttention {
        let (backbone, _) = (crate::PRESETS[0].config)();
        let (rng, device) = (&mut InitRng::new(1), Device::flex());
        config.init(&backbone, rng, &device).unwrap()
    }

    fn windowed(window: usize, sinks: usize) -> SelfAttention {
        mixer(AttentionConfig {
            window,
            sinks,
            ..Default::default()
        })
    }

    /// Of one head, the weights times the values are what is projected, whatever is seen.
    #[test]
    fn weights_are_those_that_values_are_mixed_with() {
        let device = Device::flex();
        for (direction, window, sinks) in [
            (Direction::Causal, 0, 0),
            (Direction::Causal, 4, 1),
            (Direction::Bidirectional, 0, 0),
        ] {
            let mixer = mixer(AttentionConfig {
                heads: 1,
                direction,
                window,
                sinks,
                ..Default::default()
            });
            let x = InitRng::new(2).normal(2 * 9 * mixer.d_head, 1.0);
            let x = Tensor::<3>::from_data(TensorData::new(x, [2, 9, mixer.d_head]), &device);
            let [_, _, v] = reference::unpack(mixer.pack(x.clone(), 0), 1);
            let mixed = mixer.weights(x.clone()).unwrap().matmul(v.squeeze_dim(1));
            let apart = project(&mixer.output, mixed) - mixer.forward(x, None).0;
            let apart: f32 = apart.abs().max().into_scalar();
            assert!(apart < 1e-6, "{direction:?} {window}: {apart}");
        }
    }

    /// The cache holds what `state_bytes` says, however the tokens came in, and stops growing at a window.
    #[test]
    fn a_window_bounds_the_state() {
        let device = Device::flex();
        for (mixer, most) in [
            (windowed(5, 2), 6),
            (windowed(5, 0), 4),
            (windowed(2, 0), 1),
            (windowed(0, 0), usize::MAX),
        ] {
            let d_model = mixer.heads * mixer.d_head;
            for pieces in [vec![1; 12], vec![12], vec![3, 5, 1, 3], vec![9, 3]] {
                let (mut state, mut seen) = (mixer.initial_state(1, &device), 0);
                for seq in pieces {
                    let x = Tensor::ones([1, seq, d_model], &device);
                    state = mixer.forward(x, Some(state)).1.unwrap();
                    seen += seq;
                    assert_eq!((state.past(), state.held()), (seen, seen.min(most)));
                    let bytes = (2 * state.held() * d_model * size_of::<f32>()) as u64;
                    assert_eq!(mixer.state_bytes(seen), bytes);
                }
            }
        }
    }

    /// Operations stop growing with the sequence where the window and the sinks are full.
    #[test]
    fn a_window_bounds_the_operations() {
        let (whole, window) = (windowed(0, 0), windowed(16, 4));
        assert_eq!(window.flops_per_token(20), whole.flops_per_token(20));
        assert_eq!(window.flops_per_token(999), whole.flops_per_token(20));
        assert!(whole.flops_per_token(21) > whole.flops_per_token(20));
    }

    #[test]
    fn masks_that_contradict_themselves_are_named() {
        let (backbone, _) = (crate::PRESETS[0].config)();
        for (direction, window, sinks, expected) in [
            (
                Direction::Causal,
                0,
                4,
                "`attention.sinks` is 4, but without a window every token sees the first ones already; set `attention.window`, or leave sinks out",
            ),
            (
                Direction::Causal,
                1,
                0,
                "`attention.window` is 1, where no token sees the one before it; use at least 2, or 0 for all tokens",
            ),
            (
                Direction::Bidirectional,
                8,
                0,
                "`attention.window` is 8, but bidirectional attention has no window; set it to 0, or `attention.direction = \"causal\"`",
            ),
        ] {
            let config = AttentionConfig {
                direction,
                window,
                sinks,
                ..Default::default()
            };
            let error = config.validate(&backbone).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
