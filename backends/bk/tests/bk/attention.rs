//! Resolvent attention against dense inverses, finite differences, and itself in pieces and by strategy.

use burn::tensor::{Device, Tensor};
use kiln_bk::{
    ResolventAttention, ResolventForm, ResolventInputs, ResolventState, resolvent_attention,
    resolvent_attention_by,
};
use kiln_gla::Strategy;
use proptest::prelude::*;

use crate::{
    attention_oracle::{Exact, NAMES},
    common::{
        GRADIENT_TOLERANCE, VALUE_TOLERANCE, assert_close, backend, device, on_flex, tensor,
        vector, widen,
    },
};

const FORMS: [ResolventForm; 2] = [ResolventForm::Born, ResolventForm::Complex];

/// Whether the device is too coarse for single precision: Burn's products on CUDA run on matrix units that round operands to
/// 11 bits (TF32), and Vulkan promises sines and cosines, which the complex form has, to 2^-11.
fn is_coarse(form: ResolventForm) -> bool {
    backend() == "cuda" || (form == ResolventForm::Complex && !on_flex())
}

/// Values, relative to the largest: four such roundings, where there are any.
fn value_tolerance(form: ResolventForm) -> f64 {
    if is_coarse(form) {
        2e-3
    } else {
        VALUE_TOLERANCE
    }
}

/// Gradients: products of several such values, summed.
fn gradient_tolerance(form: ResolventForm) -> f64 {
    if is_coarse(form) {
        1e-2
    } else {
        GRADIENT_TOLERANCE
    }
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

impl Exact {
    fn tensors(&self, device: &Device) -> ResolventInputs {
        let Self {
            batch,
            seq,
            heads,
            d_key,
            d_value,
            ..
        } = *self;
        let [q, k, v, potential, hopping, energy, left, memory] =
            self.inputs.each_ref().map(|x| narrow(x));
        ResolventInputs {
            q: tensor(&q, [batch, seq, heads, d_key], device),
            k: tensor(&k, [batch, seq, heads, d_key], device),
            v: tensor(&v, [batch, seq, heads, d_value], device),
            potential: tensor(&potential, [batch, seq, heads], device),
            bound: None,
            hopping: tensor(&hopping, [heads], device),
            energy: tensor(&energy, [2, heads], device),
            state: Some(ResolventState {
                left: tensor(&left, [batch, 2 * heads], device),
                memory: tensor(&memory, [batch, heads, self.rows(), d_value], device),
            }),
        }
    }

    fn loss_of(&self, out: &ResolventAttention, device: &Device) -> Tensor<1> {
        let [output, left, memory] = &self.weights;
        let term = |x: Tensor<1>, weights: &[f64]| {
            (x * tensor(&narrow(weights), [weights.len()], device)).sum()
        };
        term(out.output.clone().flatten(0, 3), output)
            + term(out.state.left.clone().flatten(0, 1), left)
            + term(out.state.memory.clone().flatten(0, 3), memory)
    }
}

fn require_grad(inputs: ResolventInputs) -> ResolventInputs {
    ResolventInputs {
        q: inputs.q.require_grad(),
        k: inputs.k.require_grad(),
        v: inputs.v.require_grad(),
        potential: inputs.potential.require_grad(),
        bound: inputs.bound,
        hopping: inputs.hopping.require_grad(),
        energy: inputs.energy.require_grad(),
        state: inputs.state.map(|state| ResolventState {
            left: state.left.require_grad(),
            memory: state.memory.require_grad(),
        }),
    }
}

/// Of as many inputs as there are.
fn gradients(inputs: &ResolventInputs, loss: Tensor<1>) -> Vec<Vec<f32>> {
    let grads = loss.backward();
    let mut found = vec![
        vector(inputs.q.grad(&grads).unwrap()),
        vector(inputs.k.grad(&grads).unwrap()),
        vector(inputs.v.grad(&grads).unwrap()),
        vector(inputs.potential.grad(&grads).unwrap()),
        vector(inputs.hopping.grad(&grads).unwrap()),
        vector(inputs.energy.grad(&grads).unwrap()),
    ];
    if let Some(state) = &inputs.state {
        found.push(vector(state.left.grad(&grads).unwrap()));
        found.push(vector(state.memory.grad(&grads).unwrap()));
    }
    found
}

fn check_values(exact: &Exact, out: &ResolventAttention) {
    let [output, left, memory] = exact.values();
    let of = |what| format!("{what} of {} positions, {:?}", exact.seq, exact.form);
    let found = vector(out.output.clone());
    assert_close(&of("output"), &found, &output, value_tolerance(exact.form));
    let found = vector(out.state.left.clone());
    assert_close(&of("state.left"), &found, &left, VALUE_TOLERANCE);
    let found = vector(out.state.memory.clone());
    assert_close(
        &of("state.memory"),
        &found,
        &memory,
        value_tolerance(exact.form),
    );
}

fn check_gradients(exact: &Exact, found: &[Vec<f32>]) {
    for ((found, expected), name) in found.iter().zip(exact.gradients()).zip(NAMES) {
        let of = format!("{name} of {} positions, {:?}", exact.seq, exact.form);
        assert_close(&of, found, &expected, gradient_tolerance(exact.form));
    }
}

/// Whether Burn's matrix products are right on this device.
///
/// On SwiftShader, the software Vulkan driver, most of the kernels they choose from return zeros: there the recurrence, which
/// has no products, is what can be tested. Any other device has to multiply.
fn multiplies() -> bool {
    static ANSWER: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ANSWER.get_or_init(|| {
        if backend() != "vulkan" {
            return true;
        }
        let ones: Tensor<4> = Tensor::ones([1, 1, 64, 32], &device());
        let product = vector(ones.clone().matmul(ones.swap_dims(2, 3)));
        product.iter().all(|&x| x == 32.0)
    })
}

fn run(inputs: ResolventInputs, form: ResolventForm) -> ResolventAttention {
    if !multiplies() {
        return resolvent_attention_by(Strategy::Recurrent, inputs, form).unwrap();
    }
    resolvent_attention(inputs, form).unwrap()
}

#[test]
fn values_of_dense_inverses() {
    let lengths: &[usize] = if on_flex() {
        &[1, 2, 3, 17, 63, 64]
    } else {
        &[1, 2, 64]
    };
    for form in FORMS {
        for &seq in lengths {
            for with_state in [false, true] {
                let exact = Exact::random([2, seq, 3, 4, 5], form, with_state);
                let mut inputs = exact.tensors(&device());
                if !with_state {
                    inputs.state = None;
                }
                check_values(&exact, &run(inputs, form));
            }
        }
    }
}

#[test]
fn gradients_of_every_input() {
    let device = device().autodiff();
    for form in FORMS {
        for (dims, with_state) in [
            ([1, 1, 1, 2, 2], true),
            ([2, 5, 2, 2, 3], true),
            ([2, 5, 2, 2, 3], false),
            ([1, 40, 1, 2, 1], true),
        ] {
            let exact = Exact::random(dims, form, with_state);
            let mut inputs = exact.tensors(&device);
            if !with_state {
                inputs.state = None;
            }
            let inputs = require_grad(inputs);
            let out = run(inputs.clone(), form);
            check_values(&exact, &out);
            check_gradients(&exact, &gradients(&inputs, exact.loss_of(&out, &device)));
        }
    }
}

/// Where the entering `Im L` is zero, and where nothing hops, the state's weight is zero, and its derivative is not.
#[test]
fn without_hopping() {
    let device = device().autodiff();
    let mut exact = Exact::random([1, 4, 1, 2, 2], ResolventForm::Born, true);
    exact.inputs[4].fill(0.0);
    let inputs = require_grad(exact.tensors(&device));
    let out = run(inputs.clone(), exact.form);
    check_values(&exact, &out);
    let found = gradients(&inputs, exact.loss_of(&out, &device));
    assert!(found.iter().flatten().all(|x| x.is_finite()), "{found:?}");
    // By the hopping from one side only, for it cannot be negative.
    let mut moved = exact.clone();
    let mut loss = |beta: f64| {
        moved.inputs[4].fill(beta);
        moved.loss()
    };
    let (step, base) = (1e-5, loss(0.0));
    let expected = (4.0 * loss(step) - loss(2.0 * step) - 3.0 * base) / (2.0 * step);
    assert_close(
        "d hopping",
        &found[4],
        &[expected],
        gradient_tolerance(exact.form),
    );
}

#[test]
fn strategies_agree() {
    if !multiplies() {
        return; // there is one only
    }
    let device = device().autodiff();
    for form in FORMS {
        let exact = Exact::random([1, 70, 2, 4, 3], form, true);
        let mut reference = None;
        for strategy in [
            Strategy::Recurrent,
            Strategy::Auto,
            Strategy::Chunked { chunk: 16 },
        ] {
            let inputs = require_grad(exact.tensors(&device));
            let out = resolvent_attention_by(strategy, inputs.clone(), form).unwrap();
            let found = gradients(&inputs, exact.loss_of(&out, &device));
            let expected = reference.get_or_insert((out.clone(), found.clone()));
            let of = |what| format!("{what} by {strategy:?}, {form:?}");
            let output = widen(&vector(expected.0.output.clone()));
            assert_close(
                &of("output"),
                &vector(out.output),
                &output,
                value_tolerance(form),
            );
            for ((found, expected), name) in found.iter().zip(&expected.1).zip(NAMES) {
                assert_close(&of(name), found, &widen(expected), gradient_tolerance(form));
            }
        }
    }
}

/// A bound is that of the potentials, in values and in gradients, from a state or from nothing, and where the state that leaves is read as
/// well as where it is not.
#[test]
fn a_bound_is_that_of_the_potentials() {
    let device = device().autodiff();
    for form in FORMS {
        for (with_state, reads_state) in
            [(true, true), (true, false), (false, true), (false, false)]
        {
            let exact = Exact::random([2, 37, 3, 2, 2], form, true);
            let found = [true, false].map(|inside| {
                let mut inputs = require_grad(exact.tensors(&device));
                if !with_state {
                    inputs.state = None;
                }
                let mut given = inputs.clone();
                match inside {
                    true => given.bound = Some(1.5),
                    false => given.potential = kiln_fused::soft_bound(given.potential, 1.5),
                }
                let out = run(given, form);
                let loss = match reads_state {
                    true => exact.loss_of(&out, &device),
                    false => {
                        let weights = &exact.weights[0];
                        let output = out.output.clone().flatten(0, 3);
                        (output * tensor(&narrow(weights), [weights.len()], &device)).sum()
                    }
                };
                let grads = loss.backward();
                let mut found = vec![vector(out.output)];
                found.push(vector(inputs.potential.grad(&grads).unwrap()));
                found.push(vector(inputs.hopping.grad(&grads).unwrap()));
                found.push(vector(inputs.energy.grad(&grads).unwrap()));
                found.extend(
                    inputs
                        .state
                        .map(|state| vector(state.left.grad(&grads).unwrap())),
                );
                found
            });
            let [found, expected] = found;
            for (part, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let what = format!("part {part}, {form:?}, state {with_state}, read {reads_state}");
                assert_close(&what, found, &widen(expected), gradient_tolerance(form));
            }
        }
    }
}

/// Two pieces with the state passed on are the whole, in values and in gradients through the state.
#[test]
fn pieces_equal_the_whole() {
    let device = device().autodiff();
    for form in FORMS {
        for (seq, cut) in [(2, 1), (40, 1), (40, 23), (40, 39)] {
            let exact = Exact::random([1, seq, 1, 2, 1], form, true);
            let inputs = require_grad(exact.tensors(&device));
            let piece = |first: usize, len: usize, state| ResolventInputs {
                q: inputs.q.clone().narrow(1, first, len),
                k: inputs.k.clone().narrow(1, first, len),
                v: inputs.v.clone().narrow(1, first, len),
                potential: inputs.potential.clone().narrow(1, first, len),
                bound: None,
                hopping: inputs.hopping.clone(),
                energy: inputs.energy.clone(),
                state,
            };
            let first = run(piece(0, cut, inputs.state.clone()), form);
            let mut out = run(piece(cut, seq - cut, Some(first.state)), form);
            out.output = Tensor::cat(vec![first.output, out.output], 1);
            check_values(&exact, &out);
            check_gradients(&exact, &gradients(&inputs, exact.loss_of(&out, &device)));
        }
    }
}

/// Position by position, the complex form's phase stays that of the whole sequence, however often it has gone round.
#[test]
fn phases_of_a_long_sequence() {
    let seq = if on_flex() { 20_000 } else { 2_000 };
    let exact = Exact::random([1, 1, 1, 2, 2], ResolventForm::Complex, false);
    let chain = crate::common::Problem::random(1, seq, 1, false);
    let mut pattern = exact.clone();
    pattern.seq = seq;
    pattern.inputs[3] = widen(&chain.potential);
    pattern.inputs[5] = vec![0.3, 1e-3];
    for input in 0..3 {
        let repeat = exact.inputs[input].iter().cycle();
        pattern.inputs[input] = repeat.take(2 * seq).copied().collect();
    }
    let mut inputs = pattern.tensors(&device());
    inputs.state = None;
    let whole = run(inputs.clone(), ResolventForm::Complex);
    // In pieces every phase starts from zero, and the frame is turned at each cut.
    let mut state = None;
    let mut outputs = Vec::new();
    let step = 100;
    for first in (0..seq).step_by(step) {
        let out = run(
            ResolventInputs {
                q: inputs.q.clone().narrow(1, first, step),
                k: inputs.k.clone().narrow(1, first, step),
                v: inputs.v.clone().narrow(1, first, step),
                potential: inputs.potential.clone().narrow(1, first, step),
                bound: None,
                hopping: inputs.hopping.clone(),
                energy: inputs.energy.clone(),
                state,
            },
            ResolventForm::Complex,
        );
        outputs.push(out.output);
        state = Some(out.state);
    }
    let pieces = widen(&vector(Tensor::cat(outputs, 1)));
    assert_close(
        "output",
        &vector(whole.output),
        &pieces,
        value_tolerance(ResolventForm::Complex),
    );
}

#[test]
fn shapes() {
    let device = device();
    for form in FORMS {
        let inputs = Exact::random([2, 5, 3, 4, 6], form, true).tensors(&device);
        let error = |inputs: ResolventInputs| {
            let out = resolvent_attention_by(Strategy::Auto, inputs, form);
            out.unwrap_err().to_string()
        };
        let mut wrong = inputs.clone();
        wrong.potential = wrong.potential.narrow(2, 0, 1);
        assert_eq!(
            error(wrong),
            "resolvent_attention: potential must have shape [batch, seq, heads] of q = [2, 5, 3], not [2, 5, 1]"
        );
        let mut wrong = inputs.clone();
        wrong.k = wrong.v.clone();
        assert_eq!(
            error(wrong),
            "resolvent_attention: k must have shape [batch, seq, heads, d_key] = [2, 5, 3, 4], not [2, 5, 3, 6]"
        );
        for (bound, name) in [
            (0.0, "0"),
            (-1.5, "-1.5"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "inf"),
        ] {
            let mut wrong = inputs.clone();
            wrong.bound = Some(bound);
            assert_eq!(
                error(wrong),
                format!(
                    "resolvent_attention: the bound on potentials is {name}, but must be positive and finite; leave it out for none"
                )
            );
        }
        let no_heads = ResolventInputs {
            q: Tensor::zeros([2, 5, 0, 4], &device),
            k: Tensor::zeros([2, 5, 0, 4], &device),
            v: Tensor::zeros([2, 5, 0, 6], &device),
            potential: Tensor::zeros([2, 5, 0], &device),
            bound: None,
            hopping: Tensor::zeros([0], &device),
            energy: Tensor::zeros([2, 0], &device),
            state: None,
        };
        assert_eq!(
            error(no_heads),
            "bk_left: potential [batch, seq, heads] has an empty axis: [2, 5, 0]"
        );
        let mut wrong = inputs.clone();
        let state = wrong.state.as_mut().unwrap();
        state.memory = Tensor::zeros([2, 3, 5, 6], &device);
        let (axes, rows) = match form {
            ResolventForm::Born => ("d_key", 4),
            ResolventForm::Complex => ("2 * d_key", 8),
        };
        assert_eq!(
            error(wrong),
            format!(
                "resolvent_attention: state.memory must have shape [batch, heads, {axes}, d_value] = [2, 3, {rows}, 6], not [2, 3, 5, 6]"
            )
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// With `v = 1` and `q . k = 1` the output is the sum of a row's weights.
    #[test]
    fn rows_sum_to_one(
        potential in prop::collection::vec(
            prop_oneof![-1e4_f32..1e4, -3.0_f32..3.0, Just(0.0)], 1..150,
        ),
        beta in 0.0_f32..4.0,
        re in -3.0_f32..3.0,
        eta in prop_oneof![1e-3_f32..1e-2, 0.01_f32..3.0],
    ) {
        let device = device();
        let seq = potential.len();
        let ones = Tensor::ones([1, seq, 1, 1], &device);
        let out = run(
            ResolventInputs {
                q: ones.clone(),
                k: ones.clone(),
                v: ones,
                potential: tensor(&potential, [1, seq, 1], &device),
                bound: None,
                hopping: tensor(&[beta], [1], &device),
                energy: tensor(&[re, eta], [2, 1], &device),
                state: None,
            },
            ResolventForm::Born,
        );
        for (i, sum) in vector(out.output).into_iter().enumerate() {
            prop_assert!(f64::from((sum - 1.0).abs()) <= value_tolerance(ResolventForm::Born), "row {i} sums to {sum}");
        }
    }
}
