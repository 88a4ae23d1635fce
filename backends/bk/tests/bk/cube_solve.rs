//! The CubeCL kernels of the solve, every strategy forced in turn, against the tensor forms.
#![cfg(feature = "_cube")]

use burn::tensor::Tensor;
use kiln_bk::cube::{self, Strategy};

use crate::{
    common::{GRADIENT_TOLERANCE, VALUE_TOLERANCE, assert_close, device, on_flex, vector, widen},
    solve_oracle::{ARGUMENTS, Inputs, Problem},
};

/// `d` and the gradients of features, lower, values and state under the problem's weights.
fn causal(strategy: Strategy, problem: &Problem) -> Vec<Vec<f32>> {
    let device = device();
    let Inputs {
        potential,
        upper,
        lower,
        energy,
        values,
        state,
    } = problem.tensors(&device);
    let hopping = upper * lower.clone();
    let features = cube::left(strategy, potential, hopping, energy, state.resolvent);
    let run = |features: Tensor<3>| {
        let (lower, values, state) = (lower.clone(), values.clone(), state.values.clone());
        cube::eliminate(strategy, features, lower, values, state)
    };
    let d = run(features.clone());
    let (features, lower, values, state) = cube::eliminate_adjoint(
        strategy,
        features.clone(),
        lower.clone(),
        state.values.clone(),
        d.clone(),
        problem.weights(&device),
    );
    vec![
        vector(d),
        vector(features),
        vector(lower),
        vector(values),
        vector(state),
    ]
}

/// `x` and the gradients of potential, upper, lower, energy and values.
fn full(strategy: Strategy, problem: &Problem) -> Vec<Vec<f32>> {
    let device = device();
    let inputs = problem.tensors(&device);
    let (potential, upper) = (inputs.potential.clone(), inputs.upper.clone());
    let (lower, energy) = (inputs.lower.clone(), inputs.energy.clone());
    let x = cube::solve(strategy, potential, upper, lower, energy, inputs.values);
    let (potential, upper, lower, energy, values) = cube::solve_adjoint(
        strategy,
        inputs.potential,
        inputs.upper,
        inputs.lower,
        inputs.energy,
        x.clone(),
        problem.weights(&device),
    );
    vec![
        vector(x),
        vector(potential),
        vector(upper),
        vector(lower),
        vector(energy),
        vector(values),
    ]
}

#[test]
fn every_strategy_equals_the_tensor_form() {
    if on_flex() {
        return;
    }
    for shape in [[1, 1, 1, 1], [2, 3, 3, 4], [1, 41, 2, 33]] {
        let problem = Problem::random(shape, true);
        let expected_causal = causal(Strategy::Reference, &problem);
        let expected_full = full(Strategy::Reference, &problem);
        for strategy in [
            Strategy::Auto,
            Strategy::Sequential,
            Strategy::Chunked { chunk: 7 },
        ] {
            for (found, expected) in [
                (causal(strategy, &problem), &expected_causal),
                (full(strategy, &problem), &expected_full),
            ] {
                assert_eq!(found.len(), expected.len());
                for (k, (found, expected)) in found.iter().zip(expected).enumerate() {
                    let what = format!("{strategy:?} {}: result {k}", problem.name());
                    let tolerance = match k {
                        0 => VALUE_TOLERANCE,
                        _ => GRADIENT_TOLERANCE,
                    };
                    assert_close(&what, found, &widen(expected), tolerance);
                }
            }
        }
    }
}

#[test]
fn results_repeat_to_the_bit() {
    if on_flex() {
        return;
    }
    let problem = Problem::random([20, 150, 3, 5], true);
    for strategy in [Strategy::Sequential, Strategy::Chunked { chunk: 11 }] {
        let run = || [causal(strategy, &problem), full(strategy, &problem)];
        assert_eq!(run(), run(), "{strategy:?}");
    }
}

/// Sums over more positions of the batch than one unit adds up, three levels of them.
#[test]
fn many_positions_are_summed_in_levels() {
    if on_flex() {
        return;
    }
    let problem = Problem::random([1100, 3, 2, 3], false);
    let expected = problem.gradients(true);
    let found = full(Strategy::Auto, &problem);
    for k in 0..5 {
        let what = format!("d {}", ARGUMENTS[k]);
        assert_close(&what, &found[k + 1], &expected[k], GRADIENT_TOLERANCE);
    }
}
