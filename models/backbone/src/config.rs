//! The shape of a model but for its mixers, and how it is built.

use burn::nn::DropoutConfig;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::decoder::Decoder;
use crate::embedding::Embedding;
use crate::layers::{Mlp, MlpKind, Norm, NormKind};
use crate::{Backbone, Block, InitRng, Mixer, ModelError, Precision};

/// How a block knows where a token stands, where the mixer does not know by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    /// Nothing is added: rotary attention and recurrent mixers need nothing.
    None,
    /// A trained vector for each position below `max_seq` is added to the embedding.
    Learned,
}

/// The shape of a model but for its mixers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneConfig {
    /// Tokens the model knows. Filled in from the tokenizer when a recipe leaves it 0.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Longest sequence with a learned position; the length the model is trained at otherwise.
    pub max_seq: usize,
    /// Normalisation before each sub-layer.
    pub norm: NormKind,
    /// Kind of the position-wise network.
    pub mlp: MlpKind,
    /// Width of the position-wise network; 0 means a block has a mixer only.
    pub d_hidden: usize,
    /// Position information added at the input.
    pub positions: Positions,
    /// Whether linear layers and layer norms carry biases.
    pub bias: bool,
    /// Probability of dropping an activation of the embedding and of both sub-layers' outputs in training.
    pub dropout: f64,
    /// Whether the head is the transposed embedding.
    pub tie_embeddings: bool,
    /// Standard deviation of initial weights.
    pub init_std: f64,
    /// Whether every position's scores are read out of what the model made of the last position, as tasks of compression have it.
    #[serde(default)]
    pub decoder: bool,
}

impl BackboneConfig {
    /// The shape around a mixer that knows order by itself, as current models have it: RMSNorm, SwiGLU, no biases, tied head, no
    /// positions, no dropout. `vocab_size` is left 0 for the tokenizer to fill.
    pub fn modern([d_model, n_layers]: [usize; 2], d_hidden: usize, max_seq: usize) -> Self {
        Self {
            vocab_size: 0,
            d_model,
            n_layers,
            max_seq,
            norm: NormKind::Rms,
            mlp: MlpKind::Swiglu,
            d_hidden,
            positions: Positions::None,
            bias: false,
            dropout: 0.0,
            tie_embeddings: true,
            init_std: 0.02,
            decoder: false,
        }
    }

    /// The same as nanoGPT has it, but for its positions: LayerNorm, GELU, dropout.
    pub fn nanogpt(
        width_and_depth: [usize; 2],
        d_hidden: usize,
        max_seq: usize,
        dropout: f64,
    ) -> Self {
        Self {
            norm: NormKind::Layer,
            mlp: MlpKind::Gelu,
            dropout,
            ..Self::modern(width_and_depth, d_hidden, max_seq)
        }
    }

    /// The same with RMSNorm and a head of its own.
    pub fn untied_rms(self) -> Self {
        Self {
            norm: NormKind::Rms,
            tie_embeddings: false,
            ..self
        }
    }

    /// Checks every size and range.
    ///
    /// # Errors
    /// Names the first key that cannot be built and the bound it breaks.
    pub fn validate(&self) -> Result<(), ModelError> {
        for (name, value, least) in [
            ("vocab_size", self.vocab_size, 2),
            ("d_model", self.d_model, 1),
            ("n_layers", self.n_layers, 1),
            ("max_seq", self.max_seq, 1),
        ] {
            if value < least {
                return Err(ModelError::TooSmall { name, value, least });
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(ModelError::OutOfRange {
                name: "dropout",
                value: self.dropout,
                range: "[0, 1)",
            });
        }
        if !(self.init_std > 0.0 && self.init_std.is_finite()) {
            return Err(ModelError::OutOfRange {
                name: "init_std",
                value: self.init_std,
                range: "(0, inf)",
            });
        }
        Ok(())
    }

    /// Standard deviation of the projections that write into the residual stream.
    pub fn residual_std(&self) -> f64 {
        self.init_std / (2.0 * self.n_layers as f64).sqrt()
    }

    /// Builds the model; `mixer(layer, rng)` makes the mixer of each block.
    ///
    /// # Errors
    /// Those of [`BackboneConfig::validate`], and the mixer's own.
    pub fn init<M: Mixer>(
        &self,
        mut mixer: impl FnMut(usize, &mut InitRng) -> Result<M, ModelError>,
        rng: &mut InitRng,
        device: &Device,
    ) -> Result<Backbone<M>, ModelError> {
        self.validate()?;
        let stds = [self.init_std, self.residual_std()];
        let tokens = rng.matrix(self.vocab_size, self.d_model, self.init_std, device);
        let tokens = Embedding::new(tokens);
        let positions = (self.positions == Positions::Learned)
            .then(|| rng.matrix(self.max_seq, self.d_model, self.init_std, device));
        let norm = || Norm::init(self.norm, self.d_model, self.bias, device);
        let dropout = DropoutConfig::new(self.dropout).init();
        let blocks = (0..self.n_layers)
            .map(|layer| {
                let mixer = mixer(layer, rng)?;
                let mlp = (self.d_hidden > 0).then(|| {
                    let sizes = [self.d_model, self.d_hidden];
                    Mlp::init(self.mlp, sizes, self.bias, stds, rng, device)
                });
                Ok(Block {
                    norm_mixer: norm(),
                    mixer,
                    norm_mlp: mlp.is_some().then(norm),
                    mlp,
                    dropout: dropout.clone(),
                })
            })
            .collect::<Result<_, ModelError>>()?;
        let head = (!self.tie_embeddings)
            .then(|| rng.linear(self.d_model, self.vocab_size, false, self.init_std, device));
        let decoder = self
            .decoder
            .then(|| Decoder::init(self.norm, self.d_model, self.bias, rng, device));
        Ok(Backbone {
            tokens,
            positions,
            dropout,
            blocks,
            decoder,
            norm: norm(),
            head,
            learned: Vec::new(),
            precision: Precision::F32,
        })
    }

    /// Multiplications and additions a token of a sequence of `seq` costs forward: two for each weight that
    /// multiplies it (Kaplan et al., arXiv 2001.08361, section 2.1), and what the mixers answer for themselves.
    pub fn flops_per_token<M: Mixer>(&self, model: &Backbone<M>, seq: usize) -> u64 {
        let mixers: u64 = model
            .blocks
            .iter()
            .map(|block| block.mixer.flops_per_token(seq))
            .sum();
        model.dense_flops() + mixers
    }
}
