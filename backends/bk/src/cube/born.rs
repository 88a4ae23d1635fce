//! The gates of resolvent attention's Born form: one pass forward and one backward where cubes see each other's writes, elsewhere the
//! passes of `left`, its gates and its bound one after the other.

use burn::{
    backend::{Cube, TensorMetadata},
    tensor::{DType, Tensor},
};

use super::{
    Primitive, Strategy, kernels::Born, launch, left, left_adjoint, lift, lower, plan::Pass, tiles,
};
use crate::{
    born::{BornAdjoint, BornBackend, BornSaved, BornSettings, bounded},
    gates::LEAST_KEPT,
    rule::GradRule,
};

impl BornBackend for Cube {
    fn bk_born_gates(
        potential: Primitive,
        hopping: Primitive,
        energy: Primitive,
        state: Primitive,
        settings: BornSettings,
    ) -> (Primitive, Primitive) {
        let inputs = [potential, hopping, energy, state];
        gates(Strategy::Auto, inputs, settings)
    }
}

impl BornAdjoint for Cube {
    fn bk_born_gates_adjoint(
        saved: BornSaved<Self>,
        d_kept: Option<Primitive>,
        d_features: Option<Primitive>,
    ) -> [Primitive; 4] {
        gates_adjoint(Strategy::Auto, saved, d_kept, d_features)
    }
}

/// Gates `ln(1 - p_i)`, `[batch, seq, heads]`, and features, `[batch, seq, 2 * heads]`, of potentials before their bound; without a state
/// nothing enters.
pub fn born_gates(
    strategy: Strategy,
    potential: Tensor<3>,
    bound: Option<f64>,
    hopping: Tensor<1>,
    energy: Tensor<2>,
    state: Option<Tensor<2>>,
) -> (Tensor<3>, Tensor<3>) {
    let (inputs, settings) = lowered(potential, bound, hopping, energy, state);
    let (kept, features) = gates(strategy, inputs, settings);
    (lift(kept), lift(features))
}

/// Gradients of potential, hopping, energy and state (no meaning without one) of [`born_gates`], from those of the gates and, if they
/// have any, the features.
pub fn born_gates_adjoint(
    strategy: Strategy,
    (potential, bound): (Tensor<3>, Option<f64>),
    hopping: Tensor<1>,
    energy: Tensor<2>,
    state: Option<Tensor<2>>,
    d_kept: Tensor<3>,
    d_features: Option<Tensor<3>>,
) -> (Tensor<3>, Tensor<1>, Tensor<2>, Tensor<2>) {
    let (inputs, settings) = lowered(potential, bound, hopping, energy, state);
    let (_, features) = gates(strategy, inputs.clone(), settings);
    let [potential, hopping, energy, state] = inputs;
    let saved = BornSaved {
        potential,
        hopping,
        energy,
        state,
        features,
        settings,
    };
    let [potential, hopping, energy, state] =
        gates_adjoint(strategy, saved, Some(lower(d_kept)), d_features.map(lower));
    (lift(potential), lift(hopping), lift(energy), lift(state))
}

fn lowered(
    potential: Tensor<3>,
    bound: Option<f64>,
    hopping: Tensor<1>,
    energy: Tensor<2>,
    state: Option<Tensor<2>>,
) -> ([Primitive; 4], BornSettings) {
    let settings = BornSettings {
        bound: bound.unwrap_or(0.0) as f32,
        fresh: state.is_none(),
    };
    let hopping = lower(hopping);
    let state = state.map_or_else(|| hopping.clone(), lower);
    ([lower(potential), hopping, lower(energy), state], settings)
}

fn born(settings: BornSettings) -> Born {
    Born {
        gates: true,
        bounded: settings.bound > 0.0,
        fresh: settings.fresh,
    }
}

fn gates(
    strategy: Strategy,
    inputs: [Primitive; 4],
    settings: BornSettings,
) -> (Primitive, Primitive) {
    let shape = inputs[0].shape().dims();
    if let Some(tiles) = tiles(strategy, shape, Pass::Forward, &inputs[1]) {
        let [features, log_kept] =
            launch::left_look_back(tiles, inputs, born(settings), settings.bound);
        return (log_kept, features);
    }
    let [potential, hopping, energy, state] = inputs;
    let state = entered(state, shape, settings);
    let features = lower(left(
        strategy,
        bounded(lift(potential), bound(settings)),
        lift(hopping.clone()),
        lift(energy.clone()),
        lift(state.clone()),
    ));
    let log_kept = launch::log_kept([features.clone(), state, hopping, energy]);
    (log_kept, features)
}

fn gates_adjoint(
    strategy: Strategy,
    saved: BornSaved<Cube>,
    d_kept: Option<Primitive>,
    d_features: Option<Primitive>,
) -> [Primitive; 4] {
    let shape: [usize; 3] = saved.potential.shape().dims();
    let tiles = tiles(strategy, shape, Pass::Backward, &saved.hopping);
    if let (Some(tiles), Some(d_kept), None) = (tiles, &d_kept, &d_features) {
        let born = born(saved.settings);
        return launch::born_adjoint(tiles, saved, d_kept.clone(), born);
    }
    let BornSaved {
        potential,
        hopping,
        energy,
        state,
        features,
        settings,
    } = saved;
    let state = entered(state, shape, settings);
    let mut d_features = d_features.map(lift::<3>);
    let mut own = None;
    if let Some(d_kept) = d_kept {
        let d_state = d_left(
            lift(state.clone()),
            lift::<1>(hopping.clone()).unsqueeze(),
            lift(energy.clone()),
            lift(d_kept.clone()),
        );
        let inputs = [&features, &state, &hopping, &energy, &d_kept].map(Clone::clone);
        let [of_features, d_hopping, d_energy] = launch::log_kept_adjoint(inputs);
        let of_features = lift::<3>(of_features);
        d_features = Some(match d_features {
            Some(others) => others + of_features,
            None => of_features,
        });
        own = Some((lift::<1>(d_hopping), lift::<2>(d_energy), d_state));
    }
    let [batch, seq, heads] = shape;
    let options = (&lift::<1>(hopping.clone()).device(), DType::F32);
    let d_features = d_features.unwrap_or_else(|| Tensor::zeros([batch, seq, 2 * heads], options));
    let (d_potential, mut d_hopping, mut d_energy, mut d_state) = left_adjoint(
        strategy,
        lift(features),
        lift(hopping),
        lift(state),
        d_features,
        GradRule::Exact,
    );
    if let Some((hopping, energy, state)) = own {
        d_hopping = d_hopping + hopping;
        d_energy = d_energy + energy;
        d_state = d_state + state;
    }
    let d_potential = match bound(settings) {
        Some(bound) => {
            let t = (lift::<3>(potential) / bound).tanh();
            d_potential * ((-t.clone() + 1.0) * (t + 1.0))
        }
        None => d_potential,
    };
    [
        lower(d_potential),
        lower(d_hopping),
        lower(d_energy),
        lower(d_state),
    ]
}

fn bound(settings: BornSettings) -> Option<f64> {
    (settings.bound > 0.0).then_some(f64::from(settings.bound))
}

/// What entered, zeros of a fresh start.
fn entered(state: Primitive, [batch, _, heads]: [usize; 3], settings: BornSettings) -> Primitive {
    if settings.fresh {
        launch::zeros(&state, [batch, 2 * heads])
    } else {
        state
    }
}

/// The gradient of what entered, of which the first gate alone depends.
fn d_left(left: Tensor<2>, hopping: Tensor<2>, energy: Tensor<2>, grad: Tensor<3>) -> Tensor<2> {
    let [batch, width] = left.dims();
    let heads = width / 2;
    let ratio = hopping / energy.narrow(0, 1, 1);
    let x = left.clone().narrow(1, heads, heads) * ratio.clone() + LEAST_KEPT;
    let grad = grad.narrow(1, 0, 1).squeeze_dim::<2>(1);
    let im = grad / (x.clone() * (x + 1.0)) * ratio;
    Tensor::cat(
        vec![
            Tensor::zeros([batch, heads], (&left.device(), DType::F32)),
            im,
        ],
        1,
    )
}
