//! The Flex implementation: single passes over `f32` slices, vectorised over heads and parallel over blocks of them.

#![allow(
    clippy::needless_range_loop,
    reason = "a lane's index runs over many arrays at once"
)]

mod diagonal;
mod left;
mod plan;
mod simd;
mod sums;

use burn::{
    backend::{Flex, TensorMetadata, tensor::FloatTensor},
    tensor::TensorData,
};

use self::{plan::Dims, sums::Parameters};
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
}
