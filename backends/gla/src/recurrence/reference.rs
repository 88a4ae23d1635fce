//! The definition: one loop over positions in plain tensor operations. Everything else must equal it.
//!
//! Backward, with `g_t` the gradient of `h_t` by everything after it:
//! ```text
//! g_t = dy_t + a_{t+1} g_{t+1},   dx_t = g_t,   da_t = g_t h_{t-1},   dh_0 = a_1 g_1
//! ```

use burn::tensor::Tensor;

/// Position `t`, `[batch, channels]`.
fn position(x: &Tensor<3>, t: usize) -> Tensor<2> {
    x.clone().narrow(1, t, 1).squeeze_dim(1)
}

/// `h_t = a_t h_{t-1} + x_t`; shapes as those of [`linear_recurrence`](crate::linear_recurrence), unchecked.
pub fn forward(decay: Tensor<3>, input: Tensor<3>, entering: Tensor<2>) -> Tensor<3> {
    let mut state = entering;
    let mut states = Vec::new();
    for t in 0..decay.dims()[1] {
        state = position(&decay, t) * state + position(&input, t);
        states.push(state.clone());
    }
    Tensor::stack(states, 1)
}

/// Gradients of decay, input and entering state.
pub fn adjoint(
    decay: Tensor<3>,
    states: Tensor<3>,
    entering: Tensor<2>,
    d_states: Tensor<3>,
) -> (Tensor<3>, Tensor<3>, Tensor<2>) {
    let mut carry = entering.zeros_like();
    let (mut d_decay, mut d_input) = (Vec::new(), Vec::new());
    for t in (0..decay.dims()[1]).rev() {
        let gradient = position(&d_states, t) + carry;
        let before = match t {
            0 => entering.clone(),
            t => position(&states, t - 1),
        };
        d_decay.push(gradient.clone() * before);
        d_input.push(gradient.clone());
        carry = position(&decay, t) * gradient;
    }
    d_decay.reverse();
    d_input.reverse();
    (Tensor::stack(d_decay, 1), Tensor::stack(d_input, 1), carry)
}
