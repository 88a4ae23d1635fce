//! The CubeCL implementation: kernels of its own, the same on CUDA, ROCm, Vulkan, WebGPU and Metal.
//!
//! A sequence is the positions of one (batch row, head) pair. Where there are many, one unit walks each of them and all
//! reads and writes are coalesced, heads being innermost ([`Strategy::Sequential`]). Where there are few and long ones,
//! they are cut into chunks ([`Strategy::Chunked`]). Every sweep is a chain of Moebius maps `x -> (p x + q) / (r x + s)`:
//! `L` and `R` by `1 / (alpha - beta x)`, and the reverse sweeps by `m x + v`. So one unit composes the maps of a chunk,
//! rescaling them as it goes; a scan over the chunks' maps finds what enters every chunk; and one unit walks the chunk again
//! from there, in the ratio form that keeps rounding bounded. On CUDA and ROCm `left` does all of it in one pass over memory
//! ([`Strategy::LookBack`]).
//!
//! These functions are the operations and their gradients with the strategy chosen by hand, for tests and benchmarks. Like
//! [`reference`](mod@crate::reference), they do not check their arguments; they panic on tensors of other backends.

mod born;
mod energies;
mod kernels;
mod launch;
mod plan;
mod solve;

use burn::{
    backend::{Cube, tensor::FloatTensor},
    tensor::Tensor,
};

pub use self::{
    born::{born_gates, born_gates_adjoint},
    plan::Strategy,
    solve::{eliminate, eliminate_adjoint, solve, solve_adjoint},
};
use self::{
    kernels::Born,
    plan::{Pass, Plan, Tiles},
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
        .expect("a tensor of a CubeCL backend, without autodiff")
}

fn plan(strategy: Strategy, shape: [usize; 3], device: &Primitive) -> Option<Plan> {
    let hardware = &device.client.properties().hardware;
    Plan::new(strategy, shape, hardware.num_streaming_multiprocessors)
}

/// The tiles of a problem, if it is to be computed in one pass. `pass`: the one at hand.
fn tiles(strategy: Strategy, shape: [usize; 3], pass: Pass, device: &Primitive) -> Option<Tiles> {
    let properties = device.client.properties();
    let one_pass = properties.features.device_memory_scope;
    match strategy {
        Strategy::LookBack { lanes, subs, count } => {
            assert!(
                one_pass,
                "Strategy::LookBack needs a device whose cubes see each other's writes"
            );
            let units = properties.hardware.max_units_per_cube as usize;
            assert!(
                lanes.is_power_of_two() && subs.is_power_of_two() && count > 0,
                "{strategy:?}: lanes and subs must be powers of two, count at least 1"
            );
            let tiles = Tiles::new(shape, [lanes, subs, count]);
            assert!(
                tiles.tiling.units() <= units,
                "{strategy:?} asks for {} units of a cube, of {units}",
                tiles.tiling.units()
            );
            Some(tiles)
        }
        // Runtimes that count their processors are CUDA and ROCm, whose cubes start in order and run on once they started;
        // elsewhere waiting for another cube is not worth the risk.
        Strategy::Auto if one_pass => {
            properties.hardware.num_streaming_multiprocessors?;
            Tiles::auto(shape, pass)
        }
        _ => None,
    }
}

/// [`reference::left`].
pub fn left(
    strategy: Strategy,
    potential: Tensor<3>,
    hopping: Tensor<1>,
    energy: Tensor<2>,
    state: Tensor<2>,
) -> Tensor<3> {
    let shape = potential.dims();
    let hopping_primitive = lower(hopping.clone());
    let tiles = tiles(strategy, shape, Pass::Forward, &hopping_primitive);
    let Some(plan) = plan(strategy, shape, &hopping_primitive) else {
        return reference::left(potential, hopping, energy, state);
    };
    let inputs = [
        lower(potential),
        hopping_primitive,
        lower(energy),
        lower(state),
    ];
    lift(match tiles {
        Some(tiles) => {
            let [features, _] = launch::left_look_back(tiles, inputs, Born::default(), 0.0);
            features
        }
        None => launch::left(plan, inputs),
    })
}

/// [`adjoint::left`].
pub fn left_adjoint(
    strategy: Strategy,
    features: Tensor<3>,
    hopping: Tensor<1>,
    state: Tensor<2>,
    grad: Tensor<3>,
    rule: GradRule,
) -> (Tensor<3>, Tensor<1>, Tensor<2>, Tensor<2>) {
    let ([batch, seq, _], [heads]) = (features.dims(), hopping.dims());
    let hopping_primitive = lower(hopping.clone());
    let shape = [batch, seq, heads];
    let tiles = tiles(strategy, shape, Pass::Backward, &hopping_primitive);
    let Some(plan) = plan(strategy, shape, &hopping_primitive) else {
        return adjoint::left(features, hopping, state, grad, rule);
    };
    let inputs = [
        lower(features),
        hopping_primitive,
        lower(state),
        lower(grad),
    ];
    if let Some(tiles) = tiles {
        let [potential, hopping, energy, state] =
            launch::left_adjoint_look_back(tiles, inputs, rule);
        return (lift(potential), lift(hopping), lift(energy), lift(state));
    }
    let [potential, hopping, energy, carry] = launch::left_adjoint(plan, inputs, rule);
    let carry: Tensor<3> = lift::<3>(carry).reshape([batch, plan.chunks, 2 * heads]);
    (
        lift(potential),
        lift::<2>(hopping).reshape([heads]),
        lift::<2>(energy).reshape([2, heads]),
        carry.narrow(1, 0, 1).squeeze_dim(1),
    )
}

/// [`reference::diagonal`].
pub fn diagonal(
    strategy: Strategy,
    potential: Tensor<3>,
    hopping: Tensor<1>,
    energy: Tensor<2>,
) -> Tensor<3> {
    let shape = potential.dims();
    let hopping_primitive = lower(hopping.clone());
    match plan(strategy, shape, &hopping_primitive) {
        None => reference::diagonal(potential, hopping, energy),
        Some(plan) => {
            let inputs = [lower(potential), hopping_primitive, lower(energy)];
            lift(launch::diagonal(plan, inputs))
        }
    }
}

/// [`adjoint::diagonal`].
pub fn diagonal_adjoint(
    strategy: Strategy,
    potential: Tensor<3>,
    hopping: Tensor<1>,
    energy: Tensor<2>,
    grad: Tensor<3>,
    rule: GradRule,
) -> (Tensor<3>, Tensor<1>, Tensor<2>) {
    let [heads] = hopping.dims();
    let shape = potential.dims();
    let hopping_primitive = lower(hopping.clone());
    let Some(plan) = plan(strategy, shape, &hopping_primitive) else {
        return adjoint::diagonal(potential, hopping, energy, grad, rule);
    };
    let inputs = [
        lower(potential),
        hopping_primitive,
        lower(energy),
        lower(grad),
    ];
    let [potential, hopping, energy] = launch::diagonal_adjoint(plan, inputs, rule);
    (
        lift(potential),
        lift::<2>(hopping).reshape([heads]),
        lift::<2>(energy).reshape([2, heads]),
    )
}

impl BkBackend for Cube {
    fn bk_left(
        potential: Primitive,
        hopping: Primitive,
        energy: Primitive,
        state: Primitive,
        _rule: GradRule,
    ) -> Primitive {
        lower(left(
            Strategy::Auto,
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
        lower(diagonal(
            Strategy::Auto,
            lift(potential),
            lift(hopping),
            lift(energy),
        ))
    }

    fn bk_eliminate(
        features: Primitive,
        lower: Primitive,
        values: Primitive,
        state: Primitive,
    ) -> Primitive {
        solve::primitive::eliminate([features, lower, values, state])
    }

    fn bk_solve(
        potential: Primitive,
        upper: Primitive,
        lower: Primitive,
        energy: Primitive,
        values: Primitive,
    ) -> Primitive {
        solve::primitive::solve([potential, upper, lower, energy, values])
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
        let (potential, hopping, energy, state) = left_adjoint(
            Strategy::Auto,
            lift(features),
            lift(hopping),
            lift(state),
            lift(grad),
            rule,
        );
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
        let (potential, hopping, energy) = diagonal_adjoint(
            Strategy::Auto,
            lift(potential),
            lift(hopping),
            lift(energy),
            lift(grad),
            rule,
        );
        [lower(potential), lower(hopping), lower(energy)]
    }

    fn bk_eliminate_adjoint(
        features: Primitive,
        lower: Primitive,
        state: Primitive,
        solution: Primitive,
        grad: Primitive,
    ) -> [Primitive; 4] {
        solve::primitive::eliminate_adjoint([features, lower, state, solution, grad])
    }

    fn bk_solve_adjoint(
        potential: Primitive,
        upper: Primitive,
        lower: Primitive,
        energy: Primitive,
        solution: Primitive,
        grad: Primitive,
    ) -> [Primitive; 5] {
        solve::primitive::solve_adjoint([potential, upper, lower, energy, solution, grad])
    }
}
