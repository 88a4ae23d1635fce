//! The Flex implementation: the chunk-wise form with small matrix products that stay in the cache, parallel over batch rows
//! and heads. It computes in `f32`; other operands are cast, and so are the results.

mod backward;
mod forward;
mod kernel;
mod output;
mod product;
mod simd;

use burn::{
    backend::{Flex, TensorMetadata, ops::FloatTensorOps, tensor::FloatTensor},
    tensor::{DType, FloatDType, Tensor, TensorData},
};

pub(crate) use self::output::Output;

use self::kernel::Problem;
use crate::{
    backend::{GlaAdjoint, GlaBackend, Saved},
    plain::{self, Forward, Inputs},
    strategy::Strategy,
};

type FlexTensor = FloatTensor<Flex>;

fn lift<const D: usize>(primitive: FlexTensor) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(primitive)
}

fn lower<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    tensor
        .try_into_primitive::<Flex>()
        .expect("a tensor of the Flex backend, without autodiff")
}

/// The values in `operand`.
pub(crate) fn tensor<const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    operand: DType,
) -> FlexTensor {
    let single = FlexTensor::from_data(TensorData::new(values, shape));
    match operand {
        DType::F32 => single,
        other => lower(lift::<D>(single).cast(other)),
    }
}

fn zeros(shape: [usize; 4]) -> FlexTensor {
    tensor(vec![0.0; shape.iter().product()], shape, DType::F32)
}

/// Row-major without gaps, in `f32`.
fn single(primitive: &FlexTensor) -> FlexTensor {
    match primitive.dtype() {
        DType::F32 => primitive.to_contiguous(),
        _ => Flex::float_cast(primitive.clone(), FloatDType::F32).to_contiguous(),
    }
}

fn problem(q: &FlexTensor, v: &FlexTensor) -> Problem {
    let (q, v) = (q.shape(), v.shape());
    Problem {
        batch: q[0],
        seq: q[1],
        heads: q[2],
        d_key: q[3],
        d_value: v[3],
    }
}

impl Problem {
    fn keys(self) -> [usize; 4] {
        [self.batch, self.seq, self.heads, self.d_key]
    }

    fn values(self) -> [usize; 4] {
        [self.batch, self.seq, self.heads, self.d_value]
    }

    fn states(self) -> [usize; 4] {
        [self.batch, self.heads, self.d_key, self.d_value]
    }
}

/// Output, and states with or without those between chunks: `[batch, heads, chunks + 1 or 1, d_key, d_value]`.
fn forward(
    [q, k, v, log_decay, state]: [FlexTensor; 5],
    fresh: bool,
    keep: bool,
) -> (FlexTensor, FlexTensor) {
    let (problem, operand) = (problem(&q, &v), v.dtype());
    let state = if fresh {
        zeros(problem.states())
    } else {
        state
    };
    let [q, k, v, log_decay, state] = [q, k, v, log_decay, state].map(|x| single(&x));
    let inputs = kernel::Inputs {
        q: q.storage(),
        k: k.storage(),
        v: v.storage(),
        log_decay: log_decay.storage(),
    };
    let (output, states) = forward::forward(problem, inputs, state.storage(), keep);
    let [batch, heads, d_key, d_value] = problem.states();
    let kept = states.len() / (batch * heads * problem.state());
    (
        tensor(output, problem.values(), operand),
        tensor(states, [batch, heads, kept, d_key, d_value], DType::F32),
    )
}

impl GlaBackend for Flex {
    fn gated_linear_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        log_decay: FlexTensor,
        state: FlexTensor,
        strategy: Strategy,
        fresh: bool,
    ) -> (FlexTensor, FlexTensor) {
        if strategy == Strategy::Auto {
            let shape = problem(&q, &v).states();
            let (output, states) = forward([q, k, v, log_decay, state], fresh, false);
            return (output, Flex::float_reshape(states, shape.into()));
        }
        let inputs = Inputs {
            q: lift(q),
            k: lift(k),
            v: lift(v),
            log_decay: lift(log_decay),
            state: lift(state),
        };
        let forward = plain::forward(strategy, inputs.started(fresh));
        let state = forward.state();
        (lower(forward.output), lower(state))
    }
}

impl GlaAdjoint for Flex {
    fn gla_forward(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        log_decay: FlexTensor,
        state: FlexTensor,
        strategy: Strategy,
        fresh: bool,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        if strategy == Strategy::Auto {
            let (output, states) = forward([q, k, v, log_decay, state], fresh, true);
            let forward = Forward {
                output: lift(output),
                states: lift(states),
            };
            return forward.into_primitives(lower, lower, lower);
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
        d_output: Option<FlexTensor>,
        d_state: Option<FlexTensor>,
    ) -> [FlexTensor; 5] {
        if saved.strategy == Strategy::Auto {
            return backward(&saved, d_output, d_state);
        }
        let inputs = Inputs {
            q: lift(saved.q),
            k: lift(saved.k),
            v: lift(saved.v),
            log_decay: lift(saved.log_decay),
            state: lift(saved.state),
        };
        let gradients = plain::adjoint(
            saved.strategy,
            inputs.started(saved.fresh),
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

fn backward(
    saved: &Saved<Flex>,
    d_output: Option<FlexTensor>,
    d_state: Option<FlexTensor>,
) -> [FlexTensor; 5] {
    let (problem, operand) = (problem(&saved.q, &saved.v), saved.v.dtype());
    let [q, k, v] = [&saved.q, &saved.k, &saved.v].map(single);
    let [log_decay, states] = [&saved.log_decay, &saved.states].map(single);
    let inputs = kernel::Inputs {
        q: q.storage(),
        k: k.storage(),
        v: v.storage(),
        log_decay: log_decay.storage(),
    };
    // A training step that makes no use of the final state comes without its gradient, and one that uses nothing else
    // without the output's.
    let d_output = d_output.map_or_else(|| zeros(problem.values()), |x| single(&x));
    let d_state = d_state.map_or_else(|| zeros(problem.states()), |x| single(&x));
    let gradients = backward::backward(
        problem,
        inputs,
        states.storage(),
        d_output.storage(),
        d_state.storage(),
    );
    let [batch, seq, heads, _] = problem.keys();
    [
        tensor(gradients.q, problem.keys(), operand),
        tensor(gradients.k, problem.keys(), operand),
        tensor(gradients.v, problem.values(), operand),
        tensor(gradients.log_decay, [batch, seq, heads], DType::F32),
        tensor(gradients.state, problem.states(), DType::F32),
    ]
}
