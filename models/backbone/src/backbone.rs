//! Embedding -> blocks(norm -> mixer, norm -> MLP) -> norm -> head, with residuals around both sub-layers.
//!
//! The pre-norm arrangement of GPT-2 (Radford et al. 2019); residual projections start smaller by
//! 1/sqrt(2 * n_layers), as there.

use burn::module::{Module, Param};
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::{Device, Int, Tensor};
use kiln_fused::add_residual;
use serde::{Deserialize, Serialize};

use crate::decoder::Decoder;
use crate::dropout::dropout;
use crate::embedding::Embedding;
use crate::layers::{Mlp, MlpKind, Norm, NormKind};
use crate::linear::{Linear, project};
use crate::weights::{NamedLinears, below};
use crate::{InitRng, Mixer, ModelError, Precision};

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

/// One residual block.
#[derive(Module, Debug)]
pub struct Block<M: Mixer> {
    norm_mixer: Norm,
    /// The token mixer.
    pub mixer: M,
    norm_mlp: Option<Norm>,
    pub(crate) mlp: Option<Mlp>,
    dropout: Dropout,
}

impl<M: Mixer> Block<M> {
    fn forward(&self, x: Tensor<3>, state: Option<M::State>) -> (Tensor<3>, Option<M::State>) {
        let (x, state) = self.mixed(x, state);
        (self.mlp(x), state)
    }

    fn mixed(&self, x: Tensor<3>, state: Option<M::State>) -> (Tensor<3>, Option<M::State>) {
        let (mixed, state) = self
            .mixer
            .forward(self.norm_mixer.forward(x.clone()), state);
        (add_residual(x, dropout(&self.dropout, mixed)), state)
    }

    /// Whether it has a position-wise network behind its mixer.
    pub fn has_mlp(&self) -> bool {
        self.mlp.is_some()
    }

    /// What the mixer makes of the residual stream before the block, without dropout.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]`; returns the same
    pub fn mix(&self, x: Tensor<3>) -> Tensor<3> {
        self.mixer.forward(self.norm_mixer.forward(x), None).0
    }

    fn step(&self, x: Tensor<2>, state: M::State) -> (Tensor<2>, M::State) {
        let (mixed, state) = self.mixer.step(self.norm_mixer.forward(x.clone()), state);
        (self.mlp(x + mixed), state)
    }

    /// Its linear layers.
    pub(crate) fn linears_mut(&mut self) -> NamedLinears<'_> {
        let mut layers = below("mixer", self.mixer.linears_mut());
        if let Some(mlp) = &mut self.mlp {
            layers.extend(below("mlp", mlp.linears_mut()));
        }
        layers
    }

    /// Its norms with the linear layers that read them.
    pub(crate) fn norm_readers(&mut self) -> Vec<(&'static str, Vec<String>)> {
        let mixer = self.mixer.readers().into_iter();
        let mixer = mixer.map(|path| format!("mixer.{path}")).collect();
        let mut all = vec![("norm_mixer", mixer)];
        if let Some(mlp) = &mut self.mlp {
            let layers = mlp.readers().into_iter();
            all.push((
                "norm_mlp",
                layers.map(|path| format!("mlp.{path}")).collect(),
            ));
        }
        all
    }

    fn mlp<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match (&self.norm_mlp, &self.mlp) {
            (Some(norm), Some(mlp)) => {
                let y = mlp.forward(norm.forward(x.clone()));
                add_residual(x, dropout(&self.dropout, y))
            }
            _ => x,
        }
    }
}

/// A language model: tokens in, scores of the next (or the masked) token out.
#[derive(Module, Debug)]
pub struct Backbone<M: Mixer> {
    pub(crate) tokens: Embedding,
    positions: Option<Param<Tensor<2>>>,
    dropout: Dropout,
    /// The residual blocks, first to last.
    pub blocks: Vec<Block<M>>,
    pub(crate) decoder: Option<Decoder>,
    pub(crate) norm: Norm,
    pub(crate) head: Option<Linear>,
    /// What training learns beside the weights and the model does not compute with, such as the steps of rounded weights: kept here, so
    /// that optimizers and checkpoints have it as they have the weights. Empty but for a training that fills it.
    pub learned: Vec<Param<Tensor<1>>>,
    #[module(skip)]
    precision: Precision,
}

/// What generation remembers: the number of tokens seen and each mixer's own state.
#[derive(Clone, Debug)]
pub struct BackboneState<S> {
    /// Tokens seen so far, the same for every lane.
    pub position: usize,
    /// One state a block.
    pub mixers: Vec<S>,
}

impl<M: Mixer> Backbone<M> {
    /// The model computing in another element type, with the same weights. A new model computes in f32.
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// What it computes in: the element type of its residual stream and of its scores.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Scores over the vocabulary at every position.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, seq]`, ids below `vocab_size`
    /// - returns `[batch, seq, vocab]`
    ///
    /// # Errors
    /// [`ModelError::TooLong`] if positions are learned and `seq` passes `max_seq`.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Result<Tensor<3>, ModelError> {
        Ok(self.logits(self.hidden(tokens)?))
    }

    /// The residual stream after the last block, and after the decoder if there is one. Where few positions are asked for, their rows are enough for
    /// [`Backbone::logits`], and with a large vocabulary that saves most of the work.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, seq]`, ids below `vocab_size`
    /// - returns `[batch, seq, d_model]`
    ///
    /// # Errors
    /// As [`Backbone::forward`].
    pub fn hidden(&self, tokens: Tensor<2, Int>) -> Result<Tensor<3>, ModelError> {
        let x = self.embed(tokens, 0)?;
        let blocks = self.blocks.iter();
        let x = blocks.fold(x, |x, block| block.forward(x, None).0);
        Ok(self.decoded(x))
    }

    fn decoded(&self, x: Tensor<3>) -> Tensor<3> {
        match &self.decoder {
            Some(decoder) => decoder.forward(x),
            None => x,
        }
    }

    /// The residual stream before the first block.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, seq]`, ids below `vocab_size`
    /// - returns `[batch, seq, d_model]`
    ///
    /// # Errors
    /// As [`Backbone::forward`].
    pub fn embedded(&self, tokens: Tensor<2, Int>) -> Result<Tensor<3>, ModelError> {
        self.embed(tokens, 0)
    }

    /// The residual stream between mixer and MLP of block `number`, from that before the block.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]`; returns the same
    ///
    /// # Panics
    /// If there is no such block.
    pub fn after_mixer(&self, number: usize, x: Tensor<3>) -> Tensor<3> {
        self.blocks[number].mixed(x, None).0
    }

    /// The residual stream after block `number`, from that between its mixer and its MLP; the same where it has none.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]`; returns the same
    ///
    /// # Panics
    /// If there is no such block.
    pub fn after_mlp(&self, number: usize, x: Tensor<3>) -> Tensor<3> {
        self.blocks[number].mlp(x)
    }

    /// The residual stream before every block and after the last, which is [`Backbone::hidden`].
    ///
    /// # Shapes
    /// - `tokens`: `[batch, seq]`, ids below `vocab_size`
    /// - returns `n_layers + 1` of `[batch, seq, d_model]`
    ///
    /// # Errors
    /// As [`Backbone::forward`].
    pub fn trace(&self, tokens: Tensor<2, Int>) -> Result<Vec<Tensor<3>>, ModelError> {
        let mut trace = Vec::with_capacity(self.blocks.len() + 1);
        let mut x = self.embed(tokens, 0)?;
        for block in &self.blocks {
            let next = block.forward(x.clone(), None).0;
            trace.push(std::mem::replace(&mut x, next));
        }
        trace.push(self.decoded(x));
        Ok(trace)
    }

    /// [`Backbone::forward`] from a state, returning the state after the piece: feeds long prompts at once.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, seq]`
    /// - returns `[batch, seq, vocab]`
    ///
    /// # Errors
    /// [`ModelError::Bidirectional`] if a mixer has no left-to-right state; [`ModelError::TooLong`] as above.
    pub fn forward_with_state(
        &self,
        tokens: Tensor<2, Int>,
        state: BackboneState<M::State>,
    ) -> Result<(Tensor<3>, BackboneState<M::State>), ModelError> {
        let [_, seq] = tokens.dims();
        let mut x = self.embed(tokens, state.position)?;
        let mut mixers = Vec::with_capacity(self.blocks.len());
        for (block, mixer) in self.blocks.iter().zip(state.mixers) {
            let (y, next) = block.forward(x, Some(mixer));
            x = y;
            mixers.push(next.ok_or(ModelError::Bidirectional)?);
        }
        let position = state.position + seq;
        Ok((self.logits(x), BackboneState { position, mixers }))
    }

    /// The state before the first token.
    ///
    /// # Errors
    /// [`ModelError::Bidirectional`] if the model is not causal.
    pub fn initial_state(
        &self,
        batch: usize,
        device: &Device,
    ) -> Result<BackboneState<M::State>, ModelError> {
        if !self.is_causal() {
            return Err(ModelError::Bidirectional);
        }
        let mixers = self
            .blocks
            .iter()
            .map(|block| block.mixer.initial_state(batch, device))
            .collect();
        Ok(BackboneState {
            position: 0,
            mixers,
        })
    }

    /// One token a lane in, scores of the next out.
    ///
    /// # Shapes
    /// - `tokens`: `[batch]`
    /// - returns `[batch, vocab]`
    ///
    /// # Errors
    /// [`ModelError::TooLong`] if positions are learned and all are used.
    pub fn step(
        &self,
        tokens: Tensor<1, Int>,
        state: BackboneState<M::State>,
    ) -> Result<(Tensor<2>, BackboneState<M::State>), ModelError> {
        let mut x = self
            .embed(tokens.unsqueeze_dim(1), state.position)?
            .squeeze_dim(1); // [batch, d_model]
        let mut mixers = Vec::with_capacity(self.blocks.len());
        for (block, mixer) in self.blocks.iter().zip(state.mixers) {
            let (y, next) = block.step(x, mixer);
            x = y;
            mixers.push(next);
        }
        let position = state.position + 1;
        Ok((self.logits(x), BackboneState { position, mixers }))
    }

    /// Whether the output at a position depends on tokens up to it only.
    pub fn is_causal(&self) -> bool {
        self.decoder.is_none() && self.blocks.iter().all(|block| block.mixer.is_causal())
    }

    /// Bytes of f32 state a lane holds after `seq` tokens.
    pub fn state_bytes(&self, seq: usize) -> u64 {
        self.blocks
            .iter()
            .map(|block| block.mixer.state_bytes(seq))
            .sum()
    }

    /// Bytes of the tensors in a state, all lanes together.
    pub fn counted_state_bytes(&self, state: &BackboneState<M::State>) -> u64 {
        let mixers = self.blocks.iter().zip(&state.mixers);
        mixers
            .map(|(block, state)| block.mixer.counted_state_bytes(state))
            .sum()
    }

    fn embed(&self, tokens: Tensor<2, Int>, offset: usize) -> Result<Tensor<3>, ModelError> {
        let [_, seq] = tokens.dims();
        let mut x = self.tokens.forward(tokens); // [batch, seq, d_model]
        if let Some(positions) = &self.positions {
            let [max_seq, _] = positions.shape().dims();
            if offset + seq > max_seq {
                return Err(ModelError::TooLong {
                    position: offset.max(max_seq),
                    max_seq,
                });
            }
            x = x + positions.val().narrow(0, offset, seq).unsqueeze_dim(0);
        }
        Ok(dropout(&self.dropout, x.cast(self.precision.dtype())))
    }

    /// Scores over the vocabulary: the last norm and the head.
    ///
    /// # Shapes
    /// - `x`: `[.., d_model]`, rows of [`Backbone::hidden`]
    /// - returns `[.., vocab]`
    pub fn logits<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let x = self.head_inputs(x);
        match &self.head {
            Some(head) => project(head, x),
            None => self.tokens.scores(x),
        }
    }
}
