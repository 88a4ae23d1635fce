//! The CubeCL implementation: the chunk-wise form in plain tensor operations, whose matrix products are the runtime's.

use burn::{
    backend::{Cube, tensor::FloatTensor},
    tensor::Tensor,
};

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

impl GlaBackend for Cube {
    fn gated_linear_attention(
        q: Primitive,
        k: Primitive,
        v: Primitive,
        log_decay: Primitive,
        state: Primitive,
        strategy: Strategy,
    ) -> (Primitive, Primitive) {
        let inputs = Inputs {
            q: lift(q),
            k: lift(k),
            v: lift(v),
            log_decay: lift(log_decay),
            state: lift(state),
        };
        let forward = plain::forward(strategy, inputs);
        let state = forward.state();
        (lower(forward.output), lower(state))
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
    ) -> (Primitive, Primitive) {
        let inputs = Inputs {
            q: lift(q),
            k: lift(k),
            v: lift(v),
            log_decay: lift(log_decay),
            state: lift(state),
        };
        let forward = plain::forward(strategy, inputs);
        (lower(forward.output), lower(forward.states))
    }

    fn gla_adjoint(
        saved: Saved<Self>,
        d_output: Option<Primitive>,
        d_state: Option<Primitive>,
    ) -> [Primitive; 5] {
        let inputs = Inputs {
            q: lift(saved.q),
            k: lift(saved.k),
            v: lift(saved.v),
            log_decay: lift(saved.log_decay),
            state: lift(saved.state),
        };
        let gradients = plain::adjoint(
            saved.strategy,
            inputs,
            lift(saved.states),
            d_output.map(lift),
            d_state.map(lift),
        );
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
