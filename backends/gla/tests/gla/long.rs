//! Long sequences: rounding must not accumulate.

use kiln_gla::Strategy;

use crate::{
    common::{
        Gates, NAMES, Problem, device, gradient_tolerance, largest_error, multiplies, on_flex,
        value_tolerance, vector,
    },
    oracle::Exact,
};

fn check(problem: &Problem, strategy: Strategy) {
    if !multiplies() {
        return; // the recurrence alone would take hours
    }
    let device = device().autodiff();
    let (values, gradients) = Exact::from(problem).sweep();
    let inputs = problem.tensors(&device).require_grad();
    let out = inputs.run(strategy);
    let found = vector(out.output.clone());
    let output = largest_error(&found, &values.output);
    let found = vector(out.state.clone());
    let state = largest_error(&found, &values.state);
    println!("{strategy:?}: output {output:.1e}, state {state:.1e}");
    assert!(output <= value_tolerance() && state <= value_tolerance());
    let found = inputs.gradients(problem.loss(out, &device));
    for ((found, expected), name) in found.iter().zip(&gradients).zip(NAMES) {
        let error = largest_error(found, expected);
        println!("{strategy:?}: {name} {error:.1e}");
        assert!(error <= gradient_tolerance(), "{name}: {error:.1e}");
    }
}

#[test]
fn of_65_536_positions() {
    for gates in [Gates::Weak, Gates::Moderate, Gates::Extreme] {
        let problem = Problem::random([1, 65_536, 1, 4, 4], gates, true);
        check(&problem, Strategy::Auto);
        if on_flex() {
            check(&problem, Strategy::Chunked { chunk: 64 });
        }
    }
}

/// A memory of a hundred thousand positions, longer than the sequence.
#[test]
fn of_65_536_positions_that_hardly_forget() {
    let mut problem = Problem::random([1, 65_536, 1, 4, 4], Gates::Weak, true);
    problem.log_decay.fill(-1e-5);
    check(&problem, Strategy::Auto);
    if on_flex() {
        check(&problem, Strategy::Chunked { chunk: 64 });
    }
}
