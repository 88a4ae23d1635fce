//! Long sequences: rounding must not accumulate.

use kiln_bk::{bk_diagonal, bk_left};

use crate::{
    common::{
        GRADIENT_TOLERANCE, Problem, VALUE_TOLERANCE, assert_close, device, relative_error, vector,
        widen,
    },
    oracle::Exact,
};

fn left(problem: &Problem, tolerance: f64) {
    let device = device().autodiff();
    let (batch, seq, heads) = (problem.batch, problem.seq, problem.heads);
    let exact = Exact::from(problem);
    let inputs = problem.tensors(&device).require_grad();
    let out = bk_left(
        inputs.potential.clone(),
        inputs.hopping.clone(),
        inputs.energy.clone(),
        Some(inputs.state.clone()),
    );
    let features = out.unwrap().features;
    let error = relative_error(&vector(features.clone()), &exact.left(), 2 * heads);
    println!("left {batch} x {seq} x {heads}: relative error {error:.1e}");
    assert!(error <= VALUE_TOLERANCE, "{error:.1e}");
    let expected = exact.left_gradients(&widen(&problem.weights));
    let found = inputs.gradients((features * problem.weights(&device)).sum());
    for (found, (what, expected)) in found.iter().zip(expected.each()) {
        assert_close(what, found, expected, tolerance);
    }
}

fn diagonal(problem: &Problem, tolerance: f64) {
    let device = device().autodiff();
    let (batch, seq, heads) = (problem.batch, problem.seq, problem.heads);
    let exact = Exact::from(problem);
    let inputs = problem.tensors(&device).require_grad();
    let features = bk_diagonal(
        inputs.potential.clone(),
        inputs.hopping.clone(),
        inputs.energy.clone(),
    )
    .unwrap();
    let error = relative_error(&vector(features.clone()), &exact.diagonal(), 2 * heads);
    println!("diagonal {batch} x {seq} x {heads}: relative error {error:.1e}");
    assert!(error <= VALUE_TOLERANCE, "{error:.1e}");
    let expected = exact.diagonal_gradients(&widen(&problem.weights));
    let found = inputs.gradients((features * problem.weights(&device)).sum());
    for (found, (what, expected)) in found.iter().zip(expected.each()) {
        assert_close(what, found, expected, tolerance);
    }
}

#[test]
fn left_of_65_536_and_a_million() {
    left(&Problem::random(1, 65_536, 1, true), GRADIENT_TOLERANCE);
    left(&Problem::random(1, 1_048_576, 1, true), GRADIENT_TOLERANCE);
}

#[test]
fn diagonal_of_65_536_and_a_million() {
    diagonal(&Problem::random(1, 65_536, 1, false), GRADIENT_TOLERANCE);
    diagonal(&Problem::random(1, 1_048_576, 1, false), GRADIENT_TOLERANCE);
}

/// A constant gradient makes the parameters' sums grow steadily. Totals kept in single precision throughout would miss
/// this tolerance; short sums, and sums of those, stay within a few roundings.
#[test]
fn steady_sums_over_a_million_positions() {
    let mut problem = Problem::random(1, 1_048_576, 1, false);
    problem.weights.fill(1.0);
    left(&problem, 3e-6);
    diagonal(&problem, 3e-6);
}

#[test]
fn many_heads_in_parallel() {
    for (batch, seq, heads) in [(4, 512, 64), (1, 1024, 130)] {
        left(
            &Problem::random(batch, seq, heads, true),
            GRADIENT_TOLERANCE,
        );
        diagonal(
            &Problem::random(batch, seq, heads, false),
            GRADIENT_TOLERANCE,
        );
    }
}
