//! Passes that a device has written down and repeats: boards and counters have to be new in every repetition.
#![cfg(feature = "_cube")]

use kiln_bk::{
    GradRule,
    cube::{self, Strategy},
};
use kiln_graph::{Places, record};

use crate::{
    common::{
        GRADIENT_TOLERANCE, Problem, VALUE_TOLERANCE, assert_close, device, on_flex,
        relative_error, vector, widen,
    },
    cube::has_look_back,
    oracle::Exact,
};

/// Other potentials in every repetition, of sequences of many tiles.
#[test]
fn repetitions_of_left_follow_their_inputs() {
    if on_flex() {
        return;
    }
    let mut strategies = vec![Strategy::Auto];
    if has_look_back() {
        strategies.extend(
            [[32, 4, 4], [2, 16, 3], [4, 128, 16]].map(|[lanes, subs, count]| Strategy::LookBack {
                lanes,
                subs,
                count,
            }),
        );
    }
    let device = device();
    for strategy in strategies {
        let mut problem = Problem::random(2, 1_500, 3, true);
        let mut inputs = problem.tensors(&device);
        let weights = problem.weights(&device);
        let places = |potential| {
            let mut places = Places::default();
            places.add(potential);
            places
        };
        let work = || {
            let features = cube::left(
                strategy,
                inputs.potential.clone(),
                inputs.hopping.clone(),
                inputs.energy.clone(),
                inputs.state.clone(),
            );
            let gradients = cube::left_adjoint(
                strategy,
                features.clone(),
                inputs.hopping.clone(),
                inputs.state.clone(),
                weights.clone(),
                GradRule::Exact,
            );
            (features, gradients)
        };
        let ((features, gradients), graph) =
            record(&device, places(inputs.potential.clone()), work).unwrap();
        for repetition in 0..4 {
            let name = format!("{strategy:?}, repetition {repetition}");
            graph.replay(&places(inputs.potential.clone())).unwrap();
            let exact = Exact::from(&problem);
            let values = vector(features.clone());
            let error = relative_error(&values, &exact.left(), 2 * problem.heads);
            assert!(error <= VALUE_TOLERANCE, "{name}: {error:.1e}");
            let (potential, hopping, energy, state) = gradients.clone();
            let found = [
                vector(potential),
                vector(hopping),
                vector(energy),
                vector(state),
            ];
            let expected = exact.left_gradients(&widen(&problem.weights));
            for (found, (what, expected)) in found.iter().zip(expected.each()) {
                assert_close(
                    &format!("{name}: {what}"),
                    found,
                    expected,
                    GRADIENT_TOLERANCE,
                );
            }
            // In place, as the graph reads them.
            inputs.potential = inputs.potential.mul_scalar(-0.75);
            problem.potential.iter_mut().for_each(|a| *a *= -0.75);
        }
    }
}
