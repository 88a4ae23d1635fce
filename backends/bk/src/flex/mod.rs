//! The Flex implementation: single passes over `f32` slices, vectorised over heads and parallel over blocks of them.

#![allow(
    clippy::needless_range_loop,
    reason = "a lane's index runs over many arrays at once"
)]

mod diagonal;
mod left;
mod plan;
mod simd;
mod solve;
mod sums;

use burn::{
    backend::{Flex, TensorMetadata, tensor::FloatTensor},
    tensor::TensorData,
};

use self::{plan::Dims, solve::Shape, sums::Parameters};
use crate::{
    backend::{BkAdjoint, BkBackend},
    rule::GradRule,
};

type FlexTensor = FloatTensor<Flex>;

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// `[batch, seq, width]` to the dimensions of the problem.
fn dims(sequence: &FlexTensor, heads: usize) -> Dims {
    let shape = sequence.shape();
    Dims {
        batch: shape[0],
        seq: shape[1],
        heads,
    }
}

/// `[batch, seq, heads, ..]` to the dimensions of the problem.
fn solve_shape(values: &FlexTensor, columns: usize) -> Shape {
    let shape = values.shape();
    Shape {
        batch: shape[0],
        seq: shape[1],
        heads: shape[2],
        columns,
    }
}

/// `L` from a fresh state at hopping `b c`, of contiguous couplings.
fn fresh_left(
    shape: Shape,
    potential: &FlexTensor,
    upper: &FlexTensor,
    lower: &FlexTensor,
    energy: &FlexTensor,
) -> Vec<f32> {
    let (upper, lower): (&[f32], &[f32]) = (upper.storage(), lower.storage());
    let hopping: Vec<f32> = upper.iter().zip(lower).map(|(b, c)| b * c).collect();
    left::forward(
        shape.dims(),
        potential.to_contiguous().storage(),
        &hopping,
        energy.to_contiguous().storage(),
        &vec![0.0; 2 * shape.batch * shape.heads],
    )
}

/// Gradients of hopping and energy from their sums.
fn parameters(sums: Parameters, heads: usize) -> (FlexTensor, FlexTensor) {
    (
        tensor(sums.hopping, [heads]),
        tensor(sums.energy, [2, heads]),
    )
}

impl BkBackend for Flex {
    fn bk_left(
        potential: FlexTensor,
        hopping: FlexTensor,
        energy: FlexTensor,
        state: FlexTensor,
        _rule: GradRule,
    ) -> FlexTensor {
        let dims = dims(&potential, potential.shape()[2]);
        let features = left::forward(
            dims,
            potential.to_contiguous().storage(),
            hopping.to_contiguous().storage(),
            energy.to_contiguous().storage(),
            state.to_contiguous().storage(),
        );
        tensor(features, dims.features())
    }

    fn bk_diagonal(
        potential: FlexTensor,
        hopping: FlexTensor,
        energy: FlexTensor,
        _rule: GradRule,
    ) -> FlexTensor {
        let dims = dims(&potential, potential.shape()[2]);
        let features = diagonal::forward(
            dims,
            potential.to_contiguous().storage(),
            hopping.to_contiguous().storage(),
            energy.to_contiguous().storage(),
        );
        tensor(features, dims.features())
    }

    fn bk_eliminate(
        features: FlexTensor,
        lower: FlexTensor,
        values: FlexTensor,
        state: FlexTensor,
    ) -> FlexTensor {
        let shape = solve_shape(&values, values.shape()[3]);
        let solution = solve::eliminate(
            shape,
            features.to_contiguous().storage(),
            lower.to_contiguous().storage(),
            values.to_contiguous().storage(),
            state.to_contiguous().storage(),
        );
        tensor(solution, shape.complex())
    }

    fn bk_solve(
        potential: FlexTensor,
        upper: FlexTensor,
        lower: FlexTensor,
        energy: FlexTensor,
        values: FlexTensor,
    ) -> FlexTensor {
        let shape = solve_shape(&values, values.shape()[3]);
        let (upper, lower) = (upper.to_contiguous(), lower.to_contiguous());
        let solution = solve::solve(
            shape,
            &fresh_left(shape, &potential, &upper, &lower, &energy),
            upper.storage(),
            lower.storage(),
            values.to_contiguous().storage(),
        );
        tensor(solution, shape.complex())
    }
}

impl BkAdjoint for Flex {
    fn bk_left_adjoint(
        features: FlexTensor,
        hopping: FlexTensor,
        state: FlexTensor,
        grad: FlexTensor,
        rule: GradRule,
    ) -> [FlexTensor; 4] {
        let dims = dims(&features, hopping.shape()[0]);
        let (potential, sums, state) = left::backward(
            dims,
            features.to_contiguous().storage(),
            hopping.to_contiguous().storage(),
            state.to_contiguous().storage(),
            grad.to_contiguous().storage(),
            rule,
        );
        let (hopping, energy) = parameters(sums, dims.heads);
        [
            tensor(potential, [dims.batch, dims.seq, dims.heads]),
            hopping,
            energy,
            tensor(state, [dims.batch, 2 * dims.heads]),
        ]
    }

    fn bk_diagonal_adjoint(
        potential: FlexTensor,
        hopping: FlexTensor,
        energy: FlexTensor,
        grad: FlexTensor,
        rule: GradRule,
    ) -> [FlexTensor; 3] {
        let dims = dims(&potential, hopping.shape()[0]);
        let (potential, sums) = diagonal::backward(
            dims,
            potential.to_contiguous().storage(),
            hopping.to_contiguous().storage(),
            energy.to_contiguous().storage(),
            grad.to_contiguous().storage(),
            rule,
        );
        let (hopping, energy) = parameters(sums, dims.heads);
        [
            tensor(potential, [dims.batch, dims.seq, dims.heads]),
            hopping,
            energy,
        ]
    }

    fn bk_eliminate_adjoint(
        features: FlexTensor,
        lower: FlexTensor,
        state: FlexTensor,
        solution: FlexTensor,
        grad: FlexTensor,
    ) -> [FlexTensor; 4] {
        let shape = solve_shape(&solution, solution.shape()[3] / 2);
        let [features, lower, values, state] = solve::eliminate_adjoint(
            shape,
            features.to_contiguous().storage(),
            lower.to_contiguous().storage(),
            state.to_contiguous().storage(),
            solution.to_contiguous().storage(),
            grad.to_contiguous().storage(),
        );
        [
            tensor(features, shape.dims().features()),
            tensor(lower, [shape.heads]),
            tensor(values, shape.real()),
            tensor(state, [shape.batch, shape.heads, 2 * shape.columns]),
        ]
    }

    fn bk_solve_adjoint(
        potential: FlexTensor,
        upper: FlexTensor,
        lower: FlexTensor,
        energy: FlexTensor,
        solution: FlexTensor,
        grad: FlexTensor,
    ) -> [FlexTensor; 5] {
        let shape = solve_shape(&solution, solution.shape()[3] / 2);
        let (upper, lower) = (upper.to_contiguous(), lower.to_contiguous());
        let [potential, upper, lower, energy, values] = solve::solve_adjoint(
            shape,
            &fresh_left(shape, &potential, &upper, &lower, &energy),
            upper.storage(),
            lower.storage(),
            solution.to_contiguous().storage(),
            grad.to_contiguous().storage(),
        );
        let Shape {
            batch, seq, heads, ..
        } = shape;
        [
            tensor(potential, [batch, seq, heads]),
            tensor(upper, [heads]),
            tensor(lower, [heads]),
            tensor(energy, [2, heads]),
            tensor(values, shape.real()),
        ]
    }
}
