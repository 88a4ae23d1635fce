//! The definition of the operation: one loop over positions in plain tensor operations. Everything else must equal it.
//!
//! The gradients are the same loop backwards, with `dS_i` the gradient of the state after position i:
//! ```text
//! dS_i = q_i dy_i^T + exp(g_{i+1}) dS_{i+1}
//! dq_i = S_i dy_i,   dk_i = dS_i v_i,   dv_i = dS_i^T k_i,   dg_i = exp(g_i) <S_{i-1}, dS_i>,   dS_0 = exp(g_1) dS_1
//! ```
//! Arguments are those of the public operation, unchecked. Everything is computed in `f32`; the output and the gradients
//! have the element types of their counterparts.

use burn::tensor::{DType, Tensor};

use crate::plain::{Forward, Inputs};

/// Position `i` of `[batch, seq, heads, width]` as `[batch, heads, width]`.
fn position(x: &Tensor<4>, i: usize) -> Tensor<3> {
    let [batch, _, heads, width] = x.dims();
    let position = x.clone().narrow(1, i, 1).reshape([batch, heads, width]);
    position.cast(DType::F32)
}

/// `exp(g_i)`, `[batch, heads, 1, 1]`.
fn decay(log_decay: &Tensor<3>, i: usize) -> Tensor<4> {
    let [batch, _, heads] = log_decay.dims();
    let gate = log_decay.clone().narrow(1, i, 1);
    gate.reshape([batch, heads, 1, 1]).exp()
}

/// `a b^T`, `[batch, heads, d_a, d_b]`.
fn outer(a: Tensor<3>, b: Tensor<3>) -> Tensor<4> {
    a.unsqueeze_dim::<4>(3) * b.unsqueeze_dim(2)
}

/// `S^T x` for `x [batch, heads, d_key]`.
fn from_keys(state: &Tensor<4>, x: Tensor<3>) -> Tensor<3> {
    (state.clone() * x.unsqueeze_dim(3))
        .sum_dim(2)
        .squeeze_dim(2)
}

/// `S x` for `x [batch, heads, d_value]`.
fn from_values(state: &Tensor<4>, x: Tensor<3>) -> Tensor<3> {
    (state.clone() * x.unsqueeze_dim(2))
        .sum_dim(3)
        .squeeze_dim(3)
}

/// `S_i = exp(g_i) S_{i-1} + k_i v_i^T`, `y_i = S_i^T q_i`, with the states of all positions.
///
/// # Shapes
/// - those of [`Inputs`] and, with as many chunks as positions, of [`Forward`]
pub fn forward(inputs: Inputs) -> Forward {
    let Inputs {
        q,
        k,
        v,
        log_decay,
        state,
    } = inputs;
    let mut states = vec![state];
    let mut outputs = Vec::new();
    for i in 0..q.dims()[1] {
        let written = outer(position(&k, i), position(&v, i));
        let state = states[i].clone() * decay(&log_decay, i) + written;
        outputs.push(from_keys(&state, position(&q, i)));
        states.push(state);
    }
    Forward {
        output: Tensor::stack::<4>(outputs, 1).cast(v.dtype()),
        states: Tensor::stack(states, 2),
    }
}

/// Gradients from the states of [`forward`] and the gradients of output and final state.
///
/// # Shapes
/// - d_output `[batch, seq, heads, d_value]`, d_state `[batch, heads, d_key, d_value]`; result as the inputs
pub fn adjoint(
    inputs: Inputs,
    states: Tensor<5>,
    d_output: Tensor<4>,
    d_state: Tensor<4>,
) -> Inputs {
    let [_, seq, ..] = inputs.dims();
    let Inputs {
        q, k, v, log_decay, ..
    } = inputs;
    let state = |i: usize| -> Tensor<4> { states.clone().narrow(2, i, 1).squeeze_dim(2) };
    let (mut d_q, mut d_k, mut d_v, mut d_gate) = (vec![], vec![], vec![], vec![]);
    let mut carry = d_state; // exp(g_{i+1}) dS_{i+1}
    for i in (0..seq).rev() {
        let dy = position(&d_output, i);
        let d_state = carry + outer(position(&q, i), dy.clone());
        d_q.push(from_values(&state(i + 1), dy));
        d_k.push(from_values(&d_state, position(&v, i)));
        d_v.push(from_keys(&d_state, position(&k, i)));
        carry = d_state * decay(&log_decay, i);
        let product: Tensor<4> = (carry.clone() * state(i)).sum_dims(&[2, 3]);
        let [batch, heads, ..] = product.dims();
        d_gate.push(product.reshape([batch, heads]));
    }
    let stack = |mut parts: Vec<Tensor<3>>, like: &Tensor<4>| -> Tensor<4> {
        parts.reverse();
        Tensor::stack::<4>(parts, 1).cast(like.dtype())
    };
    d_gate.reverse();
    Inputs {
        q: stack(d_q, &q),
        k: stack(d_k, &k),
        v: stack(d_v, &v),
        log_decay: Tensor::stack(d_gate, 1),
        state: carry,
    }
}
