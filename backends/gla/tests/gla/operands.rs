//! q, k and v in `bf16`: gates, states and sums stay in single precision.

use burn::tensor::DType;

use crate::{
    common::{Gates, NAMES, Problem, assert_close, auto, device, strategies, vector},
    oracle::Exact,
};

/// Operands, weights of the mixture, and results each are rounded to 8 bits: 2^-9 a rounding, several of them in a chain.
const TOLERANCE: f64 = 2e-2;

#[test]
fn bf16_operands() {
    let device = device().autodiff();
    if !device.supports_dtype(DType::BF16) {
        return;
    }
    let mut problem = Problem::random([2, 150, 2, 16, 16], Gates::Weak, true);
    for x in [&mut problem.q, &mut problem.k, &mut problem.v] {
        for x in x.iter_mut() {
            *x = f32::from_bits(x.to_bits() & 0xffff_0000);
        }
    }
    let (values, gradients) = Exact::from(&problem).sweep();
    for strategy in strategies() {
        let leaves = problem.tensors(&device).require_grad();
        let mut inputs = leaves.clone();
        inputs.q = inputs.q.cast(DType::BF16);
        inputs.k = inputs.k.cast(DType::BF16);
        inputs.v = inputs.v.cast(DType::BF16);
        let mut out = inputs.run(strategy);
        assert_eq!(out.output.dtype(), DType::BF16, "{strategy:?}");
        assert_eq!(out.state.dtype(), DType::F32, "{strategy:?}");
        out.output = out.output.cast(DType::F32);
        assert_close(
            "output",
            &vector(out.output.clone()),
            &values.output,
            TOLERANCE,
        );
        assert_close(
            "state",
            &vector(out.state.clone()),
            &values.state,
            TOLERANCE,
        );
        let found = leaves.gradients(problem.loss(out, &device));
        for ((found, expected), name) in found.iter().zip(&gradients).zip(NAMES) {
            assert_close(name, found, expected, TOLERANCE);
        }
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
    assert_close("output", &vector(out.output), &expected, 1e-6);
}
