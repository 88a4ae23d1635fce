//! What a token mixer must do to sit in the backbone.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::weights::NamedLinears;

/// Which tokens the output at a position depends on, for mixers that can be built either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Those up to it, for next-token models.
    #[default]
    Causal,
    /// All of them, for masked-token models.
    Bidirectional,
}

/// A layer that moves information between positions.
///
/// `forward` over a sequence equals `step` repeated over its positions with the state passed along, and
/// `forward` over two pieces with the state passed equals `forward` over the whole. A causal mixer's output at
/// position t depends on inputs up to t only.
pub trait Mixer: Module {
    /// All that generation has to remember of the past, for a batch of lanes.
    type State: Clone + Send;

    /// The state before the first token, for `batch` lanes.
    fn initial_state(&self, batch: usize, device: &Device) -> Self::State;

    /// Mixes a sequence.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]`, already normalised
    /// - returns `[batch, seq, d_model]` and the state after the last position
    ///
    /// Training passes no state and needs none back, so both are optional: without one the mixer starts from the initial state, and
    /// returns none unless it can be continued from. A bidirectional mixer ignores the state and returns none.
    fn forward(&self, x: Tensor<3>, state: Option<Self::State>)
    -> (Tensor<3>, Option<Self::State>);

    /// Mixes one token a lane: the recurrent form of [`Mixer::forward`].
    ///
    /// # Shapes
    /// - `x`: `[batch, d_model]`
    /// - returns `[batch, d_model]` and the next state
    fn step(&self, x: Tensor<2>, state: Self::State) -> (Tensor<2>, Self::State);

    /// Whether outputs depend on the past only.
    fn is_causal(&self) -> bool;

    /// Its linear layers with their paths below the mixer, in the order in which a token passes them.
    fn linears_mut(&mut self) -> NamedLinears<'_>;

    /// Paths of the linear layers that read what the mixer is given; nothing else of it does. By convention these are all but the one
    /// that writes the mixer's output, whose path ends with `output`.
    fn readers(&mut self) -> Vec<String> {
        let paths = self.linears_mut().into_iter().map(|(path, _)| path);
        paths.filter(|path| !path.ends_with("output")).collect()
    }

    /// How strongly each position is read at each, the mean over heads: not negative, and rows add up to one. For comparing mixers with
    /// each other, at a cost quadratic in seq; none where the mixer has no such weights.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]`, already normalised
    /// - returns `[batch, seq, seq]` in f32: the position that reads, the position that is read
    fn weights(&self, _x: Tensor<3>) -> Option<Tensor<3>> {
        None
    }

    /// Heads that [`Mixer::weights`] is the mean of; 0 where there are no weights.
    fn weighing_heads(&self) -> usize {
        0
    }

    /// Multiplications and additions a token in a sequence of `seq` tokens costs forward.
    fn flops_per_token(&self, seq: usize) -> u64;

    /// Bytes of f32 state a lane holds after `seq` tokens.
    fn state_bytes(&self, seq: usize) -> u64;

    /// Bytes of the tensors in a state, all lanes together, counted off the tensors themselves. After `seq` tokens it is the number
    /// of lanes times [`Mixer::state_bytes`].
    fn counted_state_bytes(&self, state: &Self::State) -> u64;
}

/// Bytes of a tensor's numbers.
pub fn tensor_bytes<const D: usize>(tensor: &Tensor<D>) -> u64 {
    (tensor.shape().num_elements() * tensor.dtype().size()) as u64
}
