//! A memory that writes as much as it forgets: the kernels against the same with keys that were scaled before, in values, final state and all
//! gradients. Only devices that multiply matrices in hardware have them.

use burn::tensor::{DType, Tensor};
use kiln_gla::{
    GatedAttention, GlaError, gated_linear_attention, gated_linear_attention_forgotten,
    writes_forgotten,
};

use crate::common::{backend, device, tensor};

/// Of the largest value: roundings of TF32 and of bf16, as of the kernels with whole keys.
const TOLERANCES: [(DType, f32); 2] = [(DType::F32, 3e-3), (DType::BF16, 3e-2)];

/// Numbers of about unit size that follow from their place.
fn numbers(len: usize, seed: f32) -> Vec<f32> {
    let number = |i: usize| ((i as f32 * 0.737 + seed) * 1.618).sin() * 1.3;
    (0..len).map(number).collect()
}

#[track_caller]
fn assert_near<const D: usize>(what: &str, found: Tensor<D>, expected: Tensor<D>, tolerance: f32) {
    let [found, expected] = [found, expected].map(|x| {
        let values: Vec<f32> = x.cast(DType::F32).into_data().try_to_vec().unwrap();
        values
    });
    let largest = expected.iter().fold(1e-6_f32, |m, x| m.max(x.abs()));
    for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
        let error = (f - e).abs() / largest;
        assert!(
            error <= tolerance,
            "{what}[{i}]: {f}, not {e}: {error:e} of {largest}"
        );
    }
}

/// Gates that keep all but 1e-6, that keep some, and that keep nothing.
fn log_decay(len: usize) -> Vec<f32> {
    let gate = |i: usize| match i % 5 {
        0 => -1e-6,
        4 if i % 35 == 4 => -40.0,
        n => -0.02 * n as f32 * (1.0 + (i as f32).sin().abs()),
    };
    (0..len).map(gate).collect()
}

type Operation = fn(
    Tensor<4>,
    Tensor<4>,
    Tensor<4>,
    Tensor<3>,
    Option<Tensor<4>>,
) -> Result<GatedAttention, GlaError>;

/// `(1 - e^g) k`, then whole keys.
fn scaled_before(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    log_decay: Tensor<3>,
    state: Option<Tensor<4>>,
) -> Result<GatedAttention, GlaError> {
    let dtype = k.dtype();
    // By a series where the difference would lose digits.
    let small = log_decay.clone().clamp_min(-0.05);
    let series = -small.clone() * ((small.clone() * (small / 3.0 + 1.0)) / 2.0 + 1.0);
    let whole = -log_decay.clone().exp() + 1.0;
    let written = whole.mask_where(log_decay.clone().greater_elem(-0.05), series);
    let k = (k.cast(DType::F32) * written.unsqueeze_dim(3)).cast(dtype);
    gated_linear_attention(q, k, v, log_decay, state)
}

#[test]
fn is_the_same_with_scaled_keys() {
    let device = device().autodiff();
    for (dtype, tolerance) in TOLERANCES {
        if !device.supports_dtype(dtype) {
            eprintln!("skipped: no {dtype:?} here");
            assert!(backend() != "cuda");
            continue;
        }
        for [batch, seq, heads, d_key, d_value] in [
            [1, 3, 1, 32, 32],
            [2, 64, 2, 32, 64],
            [2, 150, 3, 64, 64],
            [1, 257, 2, 64, 128],
        ] {
            let shape = |width| [batch, seq, heads, width];
            let make = |width: usize, seed| {
                let values = numbers(batch * seq * heads * width, seed);
                tensor(&values, shape(width), &device).cast(dtype)
            };
            let (q, k, v) = (make(d_key, 0.1), make(d_key, 2.3), make(d_value, 4.7));
            if !writes_forgotten(&q, &v) {
                // Wide heads in single precision do not fit into the shared memory of every device.
                eprintln!("skipped: no kernels for {dtype:?} of {d_key} and {d_value} here");
                assert!(backend() != "cuda" || d_value == 128);
                continue;
            }
            let gates = tensor(
                &log_decay(batch * seq * heads),
                [batch, seq, heads],
                &device,
            );
            let state = numbers(batch * heads * d_key * d_value, 7.9);
            let state = tensor(&state, [batch, heads, d_key, d_value], &device);
            let run = |operation: Operation, enters: bool| {
                let [q, k, v] = [&q, &k, &v].map(|x| x.clone().detach().require_grad());
                let gates = gates.clone().detach().require_grad();
                let state = state.clone().detach().require_grad();
                let out = operation(
                    q.clone(),
                    k.clone(),
                    v.clone(),
                    gates.clone(),
                    enters.then(|| state.clone()),
                );
                let GatedAttention {
                    output,
                    state: last,
                } = out.unwrap();
                let of_output = numbers(batch * seq * heads * d_value, 9.1);
                let of_output = tensor(&of_output, shape(d_value), &device);
                let of_last = numbers(batch * heads * d_key * d_value, 11.3);
                let of_last = tensor(&of_last, [batch, heads, d_key, d_value], &device);
                let loss = (output.clone().cast(DType::F32) * of_output).sum()
                    + (last.clone() * of_last).sum();
                let grads = loss.backward();
                let wide = [&q, &k, &v].map(|x| x.grad(&grads).unwrap());
                let (gates, state) = (gates.grad(&grads).unwrap(), state.grad(&grads));
                assert_eq!(state.is_some(), enters);
                (output.inner(), last.inner(), wide, gates, state)
            };
            for enters in [true, false] {
                let found = run(gated_linear_attention_forgotten, enters);
                let expected = run(scaled_before, enters);
                let what =
                    |name| format!("{name}, {dtype:?}, {seq} x {d_key} x {d_value}, {enters}");
                assert_near(&what("output"), found.0, expected.0, tolerance);
                assert_near(&what("state"), found.1, expected.1, tolerance);
                for (name, (f, e)) in ["q", "k", "v"]
                    .into_iter()
                    .zip(found.2.into_iter().zip(expected.2))
                {
                    assert_near(&what(name), f, e, tolerance);
                }
                assert_near(&what("gates"), found.3, expected.3, tolerance);
                for (f, e) in found.4.into_iter().zip(expected.4) {
                    assert_near(&what("entering state"), f, e, tolerance);
                }
            }
        }
    }
}

/// Where there are no kernels nobody is left with a wrong result.
#[test]
fn refuses_what_no_kernel_takes() {
    let device = device();
    let x = tensor(&numbers(7 * 5, 0.1), [1, 7, 1, 5], &device);
    let gates = tensor(&log_decay(7), [1, 7, 1], &device);
    assert!(!writes_forgotten(&x, &x));
    let refused = std::panic::catch_unwind(|| {
        gated_linear_attention_forgotten(x.clone(), x.clone(), x.clone(), gates.clone(), None)
            .is_ok()
    });
    assert!(refused.is_err());
}
