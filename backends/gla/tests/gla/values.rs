//! Values, final states and all gradients against the oracle; strategies and pieces against each other.

use kiln_gla::Strategy;

use crate::{
    common::{
        Gates, NAMES, Problem, assert_close, auto, device, gradient_tolerance, on_flex, strategies,
        value_tolerance, vector, widen,
    },
    oracle::Exact,
};

/// Output, final state and gradients of a problem by a strategy.
fn check(problem: &Problem, strategy: Strategy) {
    let device = device().autodiff();
    let exact = Exact::from(problem);
    let (_, gradients) = exact.sweep();
    let values = exact.quadratic();
    let inputs = problem.tensors(&device).require_grad();
    let out = inputs.run(strategy);
    let of = |what: &str| {
        let [batch, seq, heads, d_key] = problem.keys();
        let d_value = problem.d_value;
        format!("{what} of {batch} x {seq} x {heads} x {d_key} x {d_value} by {strategy:?}")
    };
    let found = vector(out.output.clone());
    assert_close(&of("output"), &found, &values.output, value_tolerance());
    let found = vector(out.state.clone());
    assert_close(&of("state"), &found, &values.state, value_tolerance());
    let found = inputs.gradients(problem.loss(out, &device));
    assert_eq!(found.len(), 4 + usize::from(problem.with_state));
    for ((found, expected), name) in found.iter().zip(&gradients).zip(NAMES) {
        assert_close(&of(name), found, expected, gradient_tolerance());
    }
}

#[test]
fn lengths_around_the_chunk() {
    let lengths: &[usize] = if on_flex() {
        &[1, 2, 3, 7, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200]
    } else {
        &[1, 2, 3, 64, 65, 150] // every length compiles its own matrix products
    };
    for &seq in lengths {
        for with_state in [false, true] {
            let problem = Problem::random([2, seq, 3, 4, 6], Gates::Moderate, with_state);
            check(&problem, auto());
        }
    }
}

#[test]
fn widths() {
    for [d_key, d_value] in [
        [1, 1],
        [1, 5],
        [7, 2],
        [32, 32],
        [16, 64],
        [64, 24],
        [33, 17],
    ] {
        let problem = Problem::random([1, 70, 2, d_key, d_value], Gates::Moderate, true);
        check(&problem, auto());
    }
}

#[test]
fn strategies_agree_with_the_oracle() {
    for strategy in strategies() {
        for seq in [1, 3, 16, 37] {
            check(
                &Problem::random([2, seq, 2, 4, 3], Gates::Moderate, true),
                strategy,
            );
        }
    }
}

/// Gates that forget everything next to gates that forget nothing: sums of gates are then large, their differences small.
#[test]
fn extreme_gates() {
    for strategy in strategies() {
        check(
            &Problem::random([1, 150, 2, 4, 4], Gates::Extreme, true),
            strategy,
        );
    }
    for gate in [0.0, -50.0] {
        let mut problem = Problem::random([1, 150, 2, 4, 4], Gates::Extreme, true);
        problem.log_decay.fill(gate);
        for strategy in strategies() {
            check(&problem, strategy);
        }
    }
}

/// Gates beyond what single precision can exponentiate are an empty memory, in values and in gradients.
#[test]
fn gates_without_bottom() {
    let mut problem = Problem::random([1, 70, 1, 4, 4], Gates::Moderate, true);
    problem.log_decay.fill(-1e30);
    let device = device().autodiff();
    for strategy in strategies() {
        let inputs = problem.tensors(&device).require_grad();
        let out = inputs.run(strategy);
        let found = inputs.gradients(problem.loss(out, &device));
        for (gradient, name) in found.iter().zip(NAMES) {
            assert!(
                gradient.iter().all(|x| x.is_finite()),
                "{name} by {strategy:?}"
            );
        }
        assert!(found[3].iter().all(|x| x.abs() < 1e-20), "{strategy:?}");
    }
}

/// Gradients that flow into one output only are those of that output.
#[test]
fn each_output_alone() {
    let whole = Problem::random([2, 70, 2, 5, 3], Gates::Weak, true);
    for strategy in strategies() {
        let mut problem = whole.clone();
        problem.weights.fill(0.0);
        let exact = Exact::from(&problem).sweep().1;
        let device = device().autodiff();
        let inputs = problem.tensors(&device).require_grad();
        let out = inputs.run(strategy);
        let weights = crate::common::tensor(&problem.state_weights, problem.states(), &device);
        let found = inputs.gradients((out.state * weights).sum());
        for ((found, expected), name) in found.iter().zip(&exact).zip(NAMES) {
            assert_close(name, found, expected, gradient_tolerance());
        }
        let mut problem = whole.clone();
        problem.state_weights.fill(0.0);
        let exact = Exact::from(&problem).sweep().1;
        let inputs = problem.tensors(&device).require_grad();
        let out = inputs.run(strategy);
        let weights = crate::common::tensor(&problem.weights, problem.values(), &device);
        let found = inputs.gradients((out.output * weights).sum());
        for ((found, expected), name) in found.iter().zip(&exact).zip(NAMES) {
            assert_close(name, found, expected, gradient_tolerance());
        }
    }
}

/// Two pieces with the state passed on are the whole, in values and in gradients through the state.
#[test]
fn pieces_equal_the_whole() {
    let device = device().autodiff();
    for (seq, cut) in [(2, 1), (70, 1), (70, 69), (130, 64), (130, 77)] {
        let problem = Problem::random([2, seq, 2, 5, 3], Gates::Weak, true);
        let (values, gradients) = Exact::from(&problem).sweep();
        let inputs = problem.tensors(&device).require_grad();
        let first = inputs.piece(0, cut).run(auto());
        let mut second = inputs.piece(cut, seq - cut);
        second.state = first.state;
        let mut out = second.run(auto());
        out.output = burn::tensor::Tensor::cat(vec![first.output, out.output], 1);
        let found = vector(out.output.clone());
        assert_close("output", &found, &values.output, value_tolerance());
        let found = vector(out.state.clone());
        assert_close("state", &found, &values.state, value_tolerance());
        let found = inputs.gradients(problem.loss(out, &device));
        for ((found, expected), name) in found.iter().zip(&gradients).zip(NAMES) {
            assert_close(name, found, expected, gradient_tolerance());
        }
    }
}

/// Arguments may be views: transposed, narrowed, and from a larger buffer.
#[test]
fn views() {
    let device = device();
    let problem = Problem::random([3, 40, 2, 4, 4], Gates::Moderate, true);
    let inputs = problem.tensors(&device);
    let expected = inputs.piece(3, 30).run(auto());
    let mut viewed = inputs.clone();
    let through = |x: burn::tensor::Tensor<4>| {
        let copy = x.swap_dims(1, 2) * 1.0; // heads before positions in memory
        copy.swap_dims(1, 2)
    };
    viewed.q = through(viewed.q);
    viewed.k = through(viewed.k);
    viewed.v = through(viewed.v);
    let found = viewed.piece(3, 30).run(auto());
    let (found, expected) = (vector(found.output), widen(&vector(expected.output)));
    assert_close("output", &found, &expected, 1e-6);
}

/// On Flex a run repeats to the bit, whatever the threads do.
#[test]
fn repeats_to_the_bit() {
    if !on_flex() {
        return;
    }
    let problem = Problem::random([4, 130, 4, 32, 32], Gates::Moderate, true);
    let device = device().autodiff();
    let run = || {
        let inputs = problem.tensors(&device).require_grad();
        let out = inputs.run(auto());
        let output = vector(out.output.clone());
        (output, inputs.gradients(problem.loss(out, &device)))
    };
    let first = run();
    for _ in 0..3 {
        assert!(run() == first);
    }
}
