//! The CubeCL implementation: the chunk-wise form, by kernels whose products run on matrix units where the device has them
//! for the operands, elsewhere in plain tensor operations whose matrix products are the runtime's.

mod kernels;
mod launch;

use burn::{
    backend::{Cube, tensor::FloatTensor},
    tensor::Tensor,
};

pub(crate) use self::launch::empty;

use self::launch::Problem;
use crate::{
    backend::{GlaAdjoint, GlaBackend, Saved},
    plain::{self, Inputs},
    strategy::Strategy,
};

type Primitive = FloatTensor<Cube>;

fn lift<const D: usize>(primitive: Primitive) -> Tensor<D> {
    Tensor::from_primitive::<Cube>(primitive)
}

fn lower<const D: usize>(tensor: Tensor<D>) -> Primitive {
    tensor
        .try_into_primitive::<Cube>()
        .expect("a tensor of a CubeCL backend, without autodiff")
}

/// What the kernels are to compute, if they are to.
fn problem(strategy: Strategy, q: &Primitive, v: &Primitive) -> Option<Problem> {
    let [batch, seq, heads, d_key] = q.meta.shape().dims();
    let d_value = v.meta.shape()[3];
    let forgotten = strategy == Strategy::Forgotten;
    let chosen = forgotten || strategy == Strategy::Auto && seq > plain::RECURRENT_MAX_SEQ;
    Problem::new([batch, seq, heads, d_key, d_value], v, forgotten).filter(|_| chosen)
}

/// See [`crate::writes_forgotten`].
pub(crate) fn writes_forgotten(q: &Tensor<4>, v: &Tensor<4>) -> bool {
    use burn::backend::DispatchDevice;
    let DispatchDevice::Cube(device) = v.device().inner().as_dispatch().clone() else {
        return false;
    };
    let [_, seq, _, d_key] = q.dims();
    let widths = [d_key, v.dims()[3]];
    seq > plain::RECURRENT_MAX_SEQ && launch::takes(&device.client(), widths, v.dtype())
}

impl GlaBackend for Cube {
    fn gated_linear_attention(
        q: Primitive,
        k: Primitive,
        v: Primitive,
        log_decay: Primitive,
        state: Primitive,
        strategy: Strategy,
        fresh: bool,
    ) -> (Primitive, Primitive) {
        let (output, _, last) = Self::gla_forward(q, k, v, log_decay, state, strategy, fresh);
        (output, last)
    }
}

impl GlaAdjoint for Cube {
    fn gla_forward(
        q: Primitive,
        k: Primitive,
        v: Primitive,
        log_decay: Primitive,
        state: Primitive,
        strategy: Strategy,
        fresh: bool,
    ) -> (Primitive, Primitive, Primitive) {
        if let Some(problem) = problem(strategy, &q, &v) {
            let entering = (!fresh).then_some(state);
            return launch::forward(problem, [q, k, v, log_decay], entering);
        }
        let inputs = Inputs {
            q: lift(q),
            k: lift(k),
            v: lift(v),
            log_decay: lift(log_decay),
            state: lift(state),
        };
        let forward = plain::forward(strategy, inputs.started(fresh));
        forward.into_primitives(lower, lower, lower)
    }

    fn gla_adjoint(
        saved: Saved<Self>,
        d_output: Option<Primitive>,
        d_state: Option<Primitive>,
    ) -> [Primitive; 5] {
        let problem = problem(saved.strategy, &saved.q, &saved.v);
        let inputs = Inputs {
            q: lift(saved.q),
            k: lift(saved.k),
            v: lift(saved.v),
            log_decay: lift(saved.log_decay),
            state: lift(saved.state),
        };
        let (d_output, d_state) = (d_output.map(lift), d_state.map(lift));
        let gradients = match problem {
            None => plain::adjoint(
                saved.strategy,
                inputs.started(saved.fresh),
                lift(saved.states),
                d_output,
                d_state,
            ),
            Some(problem) => adjoint(problem, inputs, saved.states, d_output, d_state),
        };
        let Inputs {
            q,
            k,
            v,
            log_decay,
            state,
        } = gradients;
        [lower(q), lower(k), lower(v), lower(log_decay), lower(state)]
    }
}

/// [`plain::adjoint`] by the kernels.
fn adjoint(
    problem: Problem,
    inputs: Inputs,
    states: Primitive,
    d_output: Option<Tensor<4>>,
    d_state: Option<Tensor<4>>,
) -> Inputs {
    let d_output = lower(d_output.unwrap_or_else(|| inputs.v.zeros_like()));
    let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(lower);
    let log_decay = lower(inputs.log_decay);
    let inputs = [q, k, v, log_decay, states, d_output];
    let gradients = launch::adjoint(problem, inputs, d_state.map(lower));
    let [q, k, v, log_decay, d_state] = gradients;
    Inputs {
        q: lift(q),
        k: lift(k),
        v: lift(v),
        log_decay: lift(log_decay),
        state: lift(d_state),
    }
}
