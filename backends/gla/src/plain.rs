//! What the forms in plain tensor operations have in common: their arguments, and the choice between them.

use burn::tensor::{DType, Tensor};

use crate::{chunked, reference, strategy::Strategy};

/// Positions in a chunk where nobody asked for another number: the matrices inside a chunk are then about as large as the
/// states between chunks for keys and values of 32 to 64.
const CHUNK: usize = 64;
/// Up to this many positions the recurrence has fewer operations than one chunk.
pub(crate) const RECURRENT_MAX_SEQ: usize = 2;

/// The arguments of the operation, or the gradients of each.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Queries, `[batch, seq, heads, d_key]`.
    pub q: Tensor<4>,
    /// Keys, `[batch, seq, heads, d_key]`.
    pub k: Tensor<4>,
    /// Values, `[batch, seq, heads, d_value]`.
    pub v: Tensor<4>,
    /// Logarithms of the forget gates, `[batch, seq, heads]`.
    pub log_decay: Tensor<3>,
    /// The entering state, `[batch, heads, d_key, d_value]`.
    pub state: Tensor<4>,
}

impl Inputs {
    /// With a state of zeros if nothing enters and another tensor stands for it.
    pub(crate) fn started(mut self, fresh: bool) -> Self {
        if fresh {
            let [batch, _, heads, d_key, d_value] = self.dims();
            let options = (&self.v.device(), DType::F32);
            self.state = Tensor::zeros([batch, heads, d_key, d_value], options);
        }
        self
    }

    /// `[batch, seq, heads, d_key, d_value]`
    pub(crate) fn dims(&self) -> [usize; 5] {
        let [batch, seq, heads, d_key] = self.q.dims();
        [batch, seq, heads, d_key, self.v.dims()[3]]
    }
}

/// Values of the operation, with what its gradients need.
#[derive(Clone, Debug)]
pub struct Forward {
    /// `[batch, seq, heads, d_value]`
    pub output: Tensor<4>,
    /// The state before every chunk, and after the last: `[batch, heads, chunks + 1, d_key, d_value]`.
    pub states: Tensor<5>,
}

impl Forward {
    /// Output, states and final state as primitives of their backend.
    pub(crate) fn into_primitives<P>(
        self,
        output: fn(Tensor<4>) -> P,
        states: fn(Tensor<5>) -> P,
        last: fn(Tensor<4>) -> P,
    ) -> (P, P, P) {
        let state = self.state();
        (output(self.output), states(self.states), last(state))
    }

    /// The state after the last position, `[batch, heads, d_key, d_value]`.
    pub fn state(&self) -> Tensor<4> {
        let chunks = self.states.dims()[2] - 1;
        self.states.clone().narrow(2, chunks, 1).squeeze_dim(2)
    }
}

/// `None` is the recurrence.
fn chunk(strategy: Strategy, seq: usize) -> Option<usize> {
    match strategy {
        Strategy::Auto if seq <= RECURRENT_MAX_SEQ => None,
        Strategy::Auto => Some(CHUNK.min(seq)),
        Strategy::Recurrent => None,
        Strategy::Forgotten => unreachable!("asked for where there are kernels only"),
        Strategy::Chunked { chunk } => Some(chunk.min(seq)),
    }
}

/// Values by the strategy.
pub(crate) fn forward(strategy: Strategy, inputs: Inputs) -> Forward {
    match chunk(strategy, inputs.dims()[1]) {
        None => reference::forward(inputs),
        Some(chunk) => chunked::forward(inputs, chunk),
    }
}

/// Gradients by the strategy that computed the states. A cotangent that is absent is zero.
pub(crate) fn adjoint(
    strategy: Strategy,
    inputs: Inputs,
    states: Tensor<5>,
    d_output: Option<Tensor<4>>,
    d_state: Option<Tensor<4>>,
) -> Inputs {
    let d_output = d_output.unwrap_or_else(|| inputs.v.zeros_like());
    let d_state = d_state.unwrap_or_else(|| inputs.state.zeros_like());
    match chunk(strategy, inputs.dims()[1]) {
        None => reference::adjoint(inputs, states, d_output, d_state),
        Some(chunk) => chunked::adjoint(inputs, states, d_output, d_state, chunk),
    }
}
