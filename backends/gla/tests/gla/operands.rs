//! q, k and v in `bf16`: gates, states and sums stay in single precision.

use burn::tensor::DType;
use kiln_gla::Strategy;

use crate::{
    common::{
        Gates, NAMES, Problem, assert_close, auto, device, rounds_operands, strategies,
        value_tolerance, vector,
    },
    oracle::Exact,
};

/// Operands, weights of the mixture, and results each are rounded to 8 bits: 2^-9 a rounding, several of them in a chain.
const TOLERANCE: f64 = 2e-2;

/// All results by a strategy; nothing is checked where the device has no `bf16`.
fn check(mut problem: Problem, strategy: Strategy) {
    let device = device().autodiff();
    if !device.supports_dtype(DType::BF16) {
        return;
    }
    for x in [&mut problem.q, &mut problem.k, &mut problem.v] {
        for x in x.iter_mut() {
            *x = f32::from_bits(x.to_bits() & 0xffff_0000);
        }
    }
    let (values, gradients) = Exact::from(&problem).sweep();
    let [batch, seq, heads, d_key] = problem.keys();
    let of = |what: &str| {
        let d_value = problem.d_value;
        format!("{what} of {batch} x {seq} x {heads} x {d_key} x {d_value} by {strategy:?}")
    };
    let leaves = problem.tensors(&device).require_grad();
    let mut inputs = leaves.clone();
    inputs.q = inputs.q.cast(DType::BF16);
    inputs.k = inputs.k.cast(DType::BF16);
    inputs.v = inputs.v.cast(DType::BF16);
    let mut out = inputs.run(strategy);
    assert_eq!(out.output.dtype(), DType::BF16, "{strategy:?}");
    assert_eq!(out.state.dtype(), DType::F32, "{strategy:?}");
    out.output = out.output.cast(DType::F32);
    let found = vector(out.output.clone());
    assert_close(&of("output"), &found, &values.output, TOLERANCE);
    let found = vector(out.state.clone());
    assert_close(&of("state"), &found, &values.state, TOLERANCE);
    let found = leaves.gradients(problem.loss(out, &device));
    for ((found, expected), name) in found.iter().zip(&gradients).zip(NAMES) {
        assert_close(&of(name), found, expected, TOLERANCE);
    }
}

#[test]
fn bf16_operands() {
    for strategy in strategies() {
        let problem = Problem::random([2, 150, 2, 16, 16], Gates::Weak, true);
        check(problem, strategy);
    }
}

/// The widths for which matrix units have kernels of their own, at lengths around their chunk.
#[test]
fn bf16_widths_of_the_kernels() {
    for (d_key, d_value) in [(32, 32), (64, 64), (128, 64), (64, 128), (32, 128)] {
        for seq in [3, 64, 150] {
            let problem = Problem::random([2, seq, 3, d_key, d_value], Gates::Weak, true);
            check(problem, auto());
        }
    }
    for seq in [63, 65, 128, 700] {
        check(
            Problem::random([1, seq, 2, 32, 64], Gates::Moderate, false),
            auto(),
        );
    }
}

/// Gates that forget everything next to gates that forget nothing.
#[test]
fn bf16_extreme_gates() {
    let problem = Problem::random([1, 150, 2, 32, 32], Gates::Extreme, true);
    check(problem.clone(), auto());
    for gate in [0.0, -50.0, -1e30] {
        let mut problem = problem.clone();
        problem.log_decay.fill(gate);
        check(problem, auto());
    }
}

/// A single-precision problem is not touched by the rounding above.
#[test]
fn f32_operands_stay_f32() {
    let device = device();
    let problem = Problem::random([1, 5, 1, 2, 2], Gates::Weak, false);
    let out = problem.tensors(&device).run(auto());
    assert_eq!(out.output.dtype(), DType::F32);
    let expected = Exact::from(&problem).quadratic().output;
    let tolerance = if rounds_operands() {
        value_tolerance()
    } else {
        1e-6
    };
    assert_close("output", &vector(out.output), &expected, tolerance);
}
