//! The chunk-wise form in plain tensor operations: the work inside a chunk is batched matrix products, and only one state a
//! chunk is passed on (arXiv 2307.08621, 2312.06635, 2405.21060).
//!
//! With `A_t` the sum of the gates of a chunk up to and including position t, `D_tj = exp(A_t - A_j)` for `j <= t` and zero
//! above, `S` the state before the chunk and `S'` the one after it:
//! ```text
//! P = (q k^T) * D,   y_t = sum_j P_tj v_j + exp(A_t) S^T q_t,   S' = exp(A_C) S + sum_j exp(A_C - A_j) k_j v_j^T
//! ```
//! Backward, with `dS'` the gradient of `S'`, and `M = D * (q k^T) * (dy v^T)`:
//! ```text
//! dq_t = sum_j (dy v^T * D)_tj k_j + exp(A_t) S dy_t                dS = exp(A_C) dS' + sum_t exp(A_t) q_t dy_t^T
//! dk_j = sum_t (dy v^T * D)_tj q_t + exp(A_C - A_j) dS' v_j         dv_j = sum_t P_tj dy_t + exp(A_C - A_j) dS'^T k_j
//! dg_i = sum_{t >= i > j} M_tj + sum_{t >= i} q_t . exp(A_t) S dy_t + sum_{j < i} k_j . exp(A_C - A_j) dS' v_j
//!        + exp(A_C) <S, dS'>
//! ```
//! The last is every path that passes through gate i, each counted once and with its own sign: the shorter form, running
//! sums of `q . dq - k . dk` over the sequence, subtracts numbers that grow with its length.
//!
//! Exponents are differences of gates' sums, masked before the exponential: none is positive, so nothing overflows.

use burn::tensor::{Bool, DType, Tensor};

use crate::{
    decay::{Decay, cumulative, scan},
    plain::{Forward, Inputs},
};

/// A sequence in chunks.
struct Chunks {
    batch: usize,
    seq: usize,
    heads: usize,
    /// Positions of a chunk, and chunks of the sequence; the last is filled up with zeros.
    chunk: usize,
    count: usize,
}

impl Chunks {
    fn new(inputs: &Inputs, chunk: usize) -> Self {
        let [batch, seq, heads, ..] = inputs.dims();
        Self {
            batch,
            seq,
            heads,
            chunk,
            count: seq.div_ceil(chunk),
        }
    }

    /// `[batch, seq, heads, width]` to `[batch * heads, count, chunk, width]`.
    fn split(&self, x: Tensor<4>) -> Tensor<4> {
        let width = x.dims()[3];
        let missing = self.count * self.chunk - self.seq;
        let x = match missing {
            0 => x,
            _ => {
                let shape = [self.batch, missing, self.heads, width];
                let zeros = Tensor::zeros(shape, (&x.device(), x.dtype()));
                Tensor::cat(vec![x, zeros], 1)
            }
        };
        x.reshape([self.batch, self.count, self.chunk, self.heads, width])
            .permute([0, 3, 1, 2, 4]) // [batch, heads, count, chunk, width]
            .reshape([self.batch * self.heads, self.count, self.chunk, width])
    }

    /// The inverse of [`Self::split`].
    fn join(&self, x: Tensor<4>) -> Tensor<4> {
        let width = x.dims()[3];
        let padded = self.count * self.chunk;
        x.reshape([self.batch, self.heads, self.count, self.chunk, width])
            .permute([0, 2, 3, 1, 4]) // [batch, count, chunk, heads, width]
            .reshape([self.batch, padded, self.heads, width])
            .narrow(1, 0, self.seq)
    }

    /// `[batch, seq, heads]` to the decays of every chunk.
    fn decay(&self, log_decay: &Tensor<3>) -> Decay {
        let gates = self.split(log_decay.clone().unsqueeze_dim(3));
        Decay::new(gates.squeeze_dim(3))
    }

    /// `[batch * heads, count, d_key, d_value]`: `len` states from number `first` on.
    fn states(&self, states: &Tensor<5>, first: usize, len: usize) -> Tensor<4> {
        let [_, _, _, d_key, d_value] = states.dims();
        let rows = self.batch * self.heads;
        let states = states.clone().narrow(2, first, len);
        states.reshape([rows, len, d_key, d_value])
    }
}

/// The factor that each row is multiplied with, in single precision, and back to the element type of x.
fn scaled(x: &Tensor<4>, factor: Tensor<3>) -> Tensor<4> {
    (single(x.clone()) * factor.unsqueeze_dim(3)).cast(x.dtype())
}

fn single(x: Tensor<4>) -> Tensor<4> {
    x.cast(DType::F32)
}

/// A product of the operands' element type (products of `bf16` are added up in single precision), then `f32`.
fn product(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    single(a.matmul(b))
}

/// `sum_w a_w b_w`, `[.., width]` to `[..]`.
fn dot(a: &Tensor<4>, b: &Tensor<4>) -> Tensor<3> {
    (single(a.clone()) * b.clone()).sum_dim(3).squeeze_dim(3)
}

/// Values, and the states between chunks of `chunk` positions.
///
/// # Shapes
/// - those of [`Inputs`] and [`Forward`]
pub fn forward(inputs: Inputs, chunk: usize) -> Forward {
    let chunks = Chunks::new(&inputs, chunk);
    let [batch, _, heads, d_key, d_value] = inputs.dims();
    let decay = chunks.decay(&inputs.log_decay);
    let operand = inputs.v.dtype();
    let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(|x| chunks.split(x));

    let written = product(scaled(&k, decay.leaving()).swap_dims(2, 3), v.clone());
    let entering = inputs.state.reshape([batch * heads, d_key, d_value]);
    let states = scan(decay.whole(), written, entering);
    let states: Tensor<5> = states.reshape([batch, heads, chunks.count + 1, d_key, d_value]);

    let before = chunks.states(&states, 0, chunks.count).cast(operand);
    let weights = product(q.clone(), k.swap_dims(2, 3)) * decay.within();
    let output = product(weights.cast(operand), v) + product(scaled(&q, decay.entering()), before);
    Forward {
        output: chunks.join(output).cast(operand),
        states,
    }
}

/// Gradients from the states of [`forward`] with the same chunk, and the gradients of output and final state.
///
/// # Shapes
/// - d_output `[batch, seq, heads, d_value]`, d_state `[batch, heads, d_key, d_value]`; result as the inputs
pub fn adjoint(
    inputs: Inputs,
    states: Tensor<5>,
    d_output: Tensor<4>,
    d_state: Tensor<4>,
    chunk: usize,
) -> Inputs {
    let chunks = Chunks::new(&inputs, chunk);
    let [batch, _, heads, d_key, d_value] = inputs.dims();
    let (rows, count) = (batch * heads, chunks.count);
    let decay = chunks.decay(&inputs.log_decay);
    let operand = inputs.v.dtype();
    let [q, k, v, dy] = [inputs.q, inputs.k, inputs.v, d_output].map(|x| chunks.split(x));

    // The same recurrence as the states', from the last chunk to the first.
    let read = product(scaled(&q, decay.entering()).swap_dims(2, 3), dy.clone());
    let d_last = d_state.reshape([rows, d_key, d_value]);
    let d_states = scan(decay.whole().flip([1]), read.flip([1]), d_last).flip([1]);
    let d_first = d_states.clone().narrow(1, 0, 1);
    let after = d_states.narrow(1, 1, count); // dS' of every chunk
    let before = chunks.states(&states, 0, count); // S of every chunk

    let scores = product(q.clone(), k.clone().swap_dims(2, 3));
    let within = decay.within();
    let weights = (scores.clone() * within.clone()).cast(operand);
    let d_scores = product(dy.clone(), v.clone().swap_dims(2, 3)) * within;
    let paths = scores * d_scores.clone(); // M
    let d_scores = d_scores.cast(operand);

    let before_t = before.clone().swap_dims(2, 3).cast(operand);
    let after_t = after.clone().swap_dims(2, 3).cast(operand);
    let d_q_before = product(scaled(&dy, decay.entering()), before_t);
    let d_k_after = product(scaled(&v, decay.leaving()), after_t);
    let through_q = dot(&q, &d_q_before);
    let through_k = dot(&k, &d_k_after);
    let through_state = (before * after.clone()).sum_dims(&[2, 3]);
    let through_state =
        through_state.reshape([rows, count, 1]) * decay.whole().exp().unsqueeze_dim(2);
    let d_gate = crossing(paths)
        + shift(cumulative(through_k))
        + cumulative(through_q.flip([2])).flip([2])
        + through_state;

    let d_v_after = product(scaled(&k, decay.leaving()), after.cast(operand));
    let d_q = product(d_scores.clone(), k) + d_q_before;
    let d_k = product(d_scores.swap_dims(2, 3), q) + d_k_after;
    let d_v = product(weights.swap_dims(2, 3), dy) + d_v_after;
    let [q, k, v] = [d_q, d_k, d_v].map(|x| chunks.join(x).cast(operand));
    let d_gate = chunks.join(d_gate.unsqueeze_dim(3));
    Inputs {
        q,
        k,
        v,
        log_decay: d_gate.squeeze_dim(3),
        state: d_first.reshape([batch, heads, d_key, d_value]),
    }
}

/// `sum_{t >= i > j} M_tj` for every i, `[rows, count, chunk, chunk]` to `[rows, count, chunk]`.
fn crossing(paths: Tensor<4>) -> Tensor<3> {
    let [_, _, chunk, _] = paths.dims();
    // Sums over j' <= j at (t, j), those with t > j added up over t: what passes through gate j + 1.
    let upper = Tensor::<2, Bool>::tril_mask([chunk; 2], -1, &paths.device());
    let prefix = paths.cumsum(3).mask_fill(upper.unsqueeze(), 0.0);
    shift(prefix.sum_dim(2).squeeze_dim(2))
}

/// One position later, with zero first.
fn shift(x: Tensor<3>) -> Tensor<3> {
    let [_, _, chunk] = x.dims();
    let zero = x.clone().narrow(2, 0, 1).zeros_like();
    if chunk == 1 {
        return zero;
    }
    Tensor::cat(vec![zero, x.narrow(2, 0, chunk - 1)], 2)
}
