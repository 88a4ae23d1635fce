//! CubeCL backends: no kernels of their own yet, so values come from the reference and gradients from the tensor sweeps.

use burn::{
    backend::{Cube, tensor::FloatTensor},
    tensor::Tensor,
};

use crate::{
    adjoint,
    backend::{BkAdjoint, BkBackend},
    reference,
    rule::GradRule,
};

type Primitive = FloatTensor<Cube>;

fn lift<const D: usize>(primitive: Primitive) -> Tensor<D> {
    Tensor::from_primitive::<Cube>(primitive)
}

fn lower<const D: usize>(tensor: Tensor<D>) -> Primitive {
    tensor
        .try_into_primitive::<Cube>()
        .expect("operations on tensors of one backend stay on it")
}

impl BkBackend for Cube {
    fn bk_left(
        potential: Primitive,
        hopping: Primitive,
        energy: Primitive,
        state: Primitive,
        _rule: GradRule,
    ) -> Primitive {
        lower(reference::left(
            lift(potential),
            lift(hopping),
            lift(energy),
            lift(state),
        ))
    }

    fn bk_diagonal(
        potential: Primitive,
        hopping: Primitive,
        energy: Primitive,
        _rule: GradRule,
    ) -> Primitive {
        lower(reference::diagonal(
            lift(potential),
            lift(hopping),
            lift(energy),
        ))
    }
}

impl BkAdjoint for Cube {
    fn bk_left_adjoint(
        features: Primitive,
        hopping: Primitive,
        state: Primitive,
        grad: Primitive,
        rule: GradRule,
    ) -> [Primitive; 4] {
        let (potential, hopping, energy, state) =
            adjoint::left(lift(features), lift(hopping), lift(state), lift(grad), rule);
        [
            lower(potential),
            lower(hopping),
            lower(energy),
            lower(state),
        ]
    }

    fn bk_diagonal_adjoint(
        potential: Primitive,
        hopping: Primitive,
        energy: Primitive,
        grad: Primitive,
        rule: GradRule,
    ) -> [Primitive; 3] {
        let (potential, hopping, energy) = adjoint::diagonal(
            lift(potential),
            lift(hopping),
            lift(energy),
            lift(grad),
            rule,
        );
        [lower(potential), lower(hopping), lower(energy)]
    }
}
