//! Embedding -> blocks(norm -> mixer, norm -> MLP) -> norm -> head, with residuals around both sub-layers.
//!
//! The pre-norm arrangement of GPT-2 (Radford et al. 2019); residual projections start smaller by
//! 1/sqrt(2 * n_layers), as there.

use burn::module::{Module, Param};
use burn::nn::Dropout;
use burn::tensor::{Device, Int, Tensor};

use crate::decoder::Decoder;
use crate::dropout::dropout;
use crate::embedding::Embedding;
use crate::layers::Norm;
use crate::linear::{Linear, project};
use crate::{Block, Mixer, ModelError, Precision};

/// A language model: tokens in, scores of the next (or the masked) token out.
#[derive(Module, Debug)]
pub struct Backbone<M: Mixer> {
    pub(crate) tokens: Embedding,
    pub(crate) positions: Option<Param<Tensor<2>>>,
    pub(crate) dropout: Dropout,
    /// The residual blocks, first to last.
    pub blocks: Vec<Block<M>>,
    pub(crate) decoder: Option<Decoder>,
    pub(crate) norm: Norm,
    pub(crate) head: Option<Linear>,
    /// What training learns beside the weights and the model does not compute with, such as the steps of rounded weights: kept here, so
    /// that optimizers and checkpoints have it as they have the weights. Empty but for a training that fills it.
    pub learned: Vec<Param<Tensor<1>>>,
    #[module(skip)]
    pub(crate) precision: Precision,
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
