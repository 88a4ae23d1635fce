//! `bk_solve` and its causal half.

use burn::tensor::{Device, Tensor};
use kiln_bk::{SolveState, bk_solve, bk_solve_causal, reference};

use crate::{
    common::{GRADIENT_TOLERANCE, VALUE_TOLERANCE, assert_close, device, on_flex, vector, widen},
    solve_oracle::{ARGUMENTS, Inputs, Problem},
};

/// Lengths around one, odd ones, and one above a power of two; columns that fill, overfill and underfill the lanes.
fn problems() -> Vec<Problem> {
    let mut all = Vec::new();
    for seq in [1, 2, 3, 17, 65] {
        for (batch, heads, columns) in [(1, 1, 1), (2, 3, 4), (1, 2, 17), (2, 2, 33), (1, 1, 70)] {
            for with_state in [false, true] {
                all.push(Problem::random([batch, seq, heads, columns], with_state));
            }
        }
    }
    all
}

fn full(inputs: &Inputs) -> Tensor<4> {
    let inputs = inputs.clone();
    let (upper, lower) = (inputs.upper, inputs.lower);
    bk_solve(inputs.values, inputs.potential, upper, lower, inputs.energy).unwrap()
}

/// Positions `from .. from + len`.
fn piece(inputs: &Inputs, from: usize, len: usize, state: Option<SolveState>) -> Causal {
    let inputs = inputs.clone();
    let out = bk_solve_causal(
        inputs.values.narrow(1, from, len),
        inputs.potential.narrow(1, from, len),
        inputs.upper,
        inputs.lower,
        inputs.energy,
        state,
    )
    .unwrap();
    (out.values, out.state)
}

type Causal = (Tensor<4>, SolveState);

fn causal(problem: &Problem, inputs: &Inputs) -> Causal {
    let state = problem.with_state.then(|| inputs.state.clone());
    piece(inputs, 0, problem.seq, state)
}

fn solution(problem: &Problem, inputs: &Inputs, is_full: bool) -> Tensor<4> {
    if is_full {
        full(inputs)
    } else {
        causal(problem, inputs).0
    }
}

/// Values and all gradients against the oracle.
fn check(problem: &Problem, is_full: bool, device: &Device) {
    let name = format!("full {is_full} {}", problem.name());
    let inputs = problem.tensors(device).require_grad();
    let found = solution(problem, &inputs, is_full);
    let expected = if is_full {
        problem.full()
    } else {
        problem.causal()
    };
    assert_close(&name, &vector(found.clone()), &expected, VALUE_TOLERANCE);
    let gradients = inputs.gradients((found * problem.weights(device)).sum());
    let expected = problem.gradients(is_full);
    for (k, (found, expected)) in gradients.iter().zip(&expected).enumerate() {
        let is_state = k >= 5;
        assert_eq!(
            found.is_some(),
            !is_state || (problem.with_state && !is_full),
            "{name}: {}",
            ARGUMENTS[k]
        );
        if let Some(found) = found {
            let what = format!("{name}: d {}", ARGUMENTS[k]);
            assert_close(&what, found, expected, GRADIENT_TOLERANCE);
        }
    }
}

#[test]
fn oracle_is_the_dense_inverse() {
    for seq in [1, 2, 5, 64] {
        let problem = Problem::random([1, seq, 2, 3], false);
        for (found, expected) in [
            (problem.full(), problem.dense()),
            (problem.causal(), problem.dense_causal()),
        ] {
            for (x, y) in found.iter().zip(expected) {
                assert!((x - y).abs() < 1e-12 * (1.0 + y.abs()), "{x} {y}");
            }
        }
    }
}

#[test]
fn oracle_gradients_are_finite_differences() {
    for seq in [1, 2, 9] {
        for is_full in [false, true] {
            let problem = Problem::random([2, seq, 2, 3], true);
            let gradients = problem.gradients(is_full);
            for (k, gradient) in gradients.iter().enumerate() {
                let scale = gradient.iter().fold(1e-3_f64, |m, x| m.max(x.abs()));
                for (i, &expected) in gradient.iter().enumerate() {
                    let step = 1e-5;
                    let shifted = |by: f64| {
                        let mut problem = problem.clone();
                        problem.arguments[k][i] += by;
                        problem.loss(is_full)
                    };
                    let found = (shifted(step) - shifted(-step)) / (2.0 * step);
                    let error = (found - expected).abs() / scale;
                    let what = ARGUMENTS[k];
                    assert!(
                        error < 1e-6,
                        "full {is_full} seq {seq} {what}[{i}]: {error:.1e}"
                    );
                }
            }
        }
    }
}

#[test]
fn values_and_all_gradients_match_the_oracle() {
    let device = device().autodiff();
    for problem in problems() {
        check(&problem, false, &device);
        check(&problem, true, &device);
    }
}

#[test]
fn reference_equals_the_operation() {
    let device = device().autodiff();
    for shape in [[1, 1, 1, 1], [2, 2, 3, 2], [2, 17, 3, 5]] {
        for is_full in [false, true] {
            let problem = Problem::random(shape, true);
            let run = |by_reference: bool| {
                let inputs = problem.tensors(&device).require_grad();
                let found = if !by_reference {
                    solution(&problem, &inputs, is_full)
                } else {
                    let Inputs {
                        potential,
                        upper,
                        lower,
                        energy,
                        values,
                        state,
                    } = inputs.clone();
                    if is_full {
                        reference::solve(potential, upper, lower, energy, values)
                    } else {
                        let hopping = upper * lower.clone();
                        let left = reference::left(potential, hopping, energy, state.resolvent);
                        reference::eliminate(left, lower, values, state.values)
                    }
                };
                let loss = (found.clone() * problem.weights(&device)).sum();
                (vector(found), inputs.gradients(loss))
            };
            let (values, gradients) = run(false);
            let (expected, expected_gradients) = run(true);
            assert_close("values", &values, &widen(&expected), VALUE_TOLERANCE);
            for (k, what) in ARGUMENTS.iter().enumerate() {
                let (found, expected) = (&gradients[k], &expected_gradients[k]);
                assert_eq!(found.is_some(), expected.is_some(), "{what}");
                if let (Some(found), Some(expected)) = (found, expected) {
                    assert_close(what, found, &widen(expected), GRADIENT_TOLERANCE);
                }
            }
        }
    }
}

#[test]
fn two_pieces_equal_one() {
    let device = device();
    for (seq, cut) in [(2, 1), (17, 5), (65, 64)] {
        let problem = Problem::random([2, seq, 3, 18], true);
        let inputs = problem.tensors(&device);
        let (whole, end) = causal(&problem, &inputs);
        let (first, state) = piece(&inputs, 0, cut, Some(inputs.state.clone()));
        let (second, second_end) = piece(&inputs, cut, seq - cut, Some(state));
        let joined = vector(Tensor::cat(vec![first, second], 1));
        let last = [vector(second_end.resolvent), vector(second_end.values)].concat();
        let expected_last = [vector(end.resolvent), vector(end.values)].concat();
        if on_flex() {
            assert_eq!(joined, vector(whole));
            assert_eq!(last, expected_last);
        } else {
            let expected = widen(&vector(whole));
            assert_close("joined", &joined, &expected, VALUE_TOLERANCE);
            assert_close("state", &last, &widen(&expected_last), VALUE_TOLERANCE);
        }
    }
}

#[test]
fn gradients_flow_through_the_passed_state() {
    let device = device().autodiff();
    let problem = Problem::random([2, 20, 3, 5], true);
    let inputs = problem.tensors(&device).require_grad();
    let (first, state) = piece(&inputs, 0, 7, Some(inputs.state.clone()));
    let (second, _) = piece(&inputs, 7, 13, Some(state));
    let joined = Tensor::cat(vec![first, second], 1);
    let found = inputs.gradients((joined * problem.weights(&device)).sum());
    let expected = problem.gradients(false);
    for (k, what) in ARGUMENTS.iter().enumerate() {
        let found = found[k].as_ref().expect(what);
        assert_close(what, found, &expected[k], GRADIENT_TOLERANCE);
    }
}

#[test]
fn later_tokens_change_nothing_before_them_in_the_causal_half_only() {
    let device = device();
    let problem = Problem::random([1, 40, 2, 3], false);
    let mut changed = problem.clone();
    changed.arguments[0][25 * 2..]
        .iter_mut()
        .for_each(|a| *a += 1.0);
    changed.arguments[4][25 * 6..]
        .iter_mut()
        .for_each(|u| *u += 1.0);
    for is_full in [false, true] {
        let run = |problem: &Problem| vector(solution(problem, &problem.tensors(&device), is_full));
        let (before, after) = (run(&problem), run(&changed));
        assert_eq!(before[..25 * 12] == after[..25 * 12], !is_full);
        assert_ne!(before[25 * 12..26 * 12], after[25 * 12..26 * 12]);
    }
}

#[test]
fn threads_never_change_a_bit() {
    if !on_flex() {
        return;
    }
    let device = device().autodiff();
    // Together large enough for the parallel path; a batch row alone is not.
    let problem = Problem::random([4, 65, 6, 32], false);
    for is_full in [false, true] {
        let run = |batch: usize, count: usize| {
            let mut inputs = problem.tensors(&device);
            inputs.potential = inputs.potential.narrow(0, batch, count).require_grad();
            inputs.values = inputs.values.narrow(0, batch, count).require_grad();
            let found = solution(&problem, &inputs, is_full);
            let weights = problem.weights(&device).narrow(0, batch, count);
            let [potential, _, _, _, values, ..] =
                inputs.gradients((found.clone() * weights).sum());
            (vector(found), potential.unwrap(), values.unwrap())
        };
        let together = run(0, 4);
        let alone: Vec<_> = (0..4).map(|batch| run(batch, 1)).collect();
        assert_eq!(
            together.0,
            alone
                .iter()
                .map(|x| x.0.clone())
                .collect::<Vec<_>>()
                .concat()
        );
        assert_eq!(
            together.1,
            alone
                .iter()
                .map(|x| x.1.clone())
                .collect::<Vec<_>>()
                .concat()
        );
        assert_eq!(
            together.2,
            alone
                .iter()
                .map(|x| x.2.clone())
                .collect::<Vec<_>>()
                .concat()
        );
    }
}

#[test]
fn strided_inputs_and_gradient_checkpointing() {
    let device = device().autodiff().gradient_checkpointing();
    let problem = Problem::random([3, 12, 2, 5], false);
    for is_full in [false, true] {
        let mut inputs = problem.tensors(&device);
        // Held the other way round, so that the operation and its backward pass see strides.
        let potential = inputs.potential.swap_dims(0, 2).require_grad();
        let values = inputs.values.swap_dims(1, 3).require_grad();
        inputs.potential = potential.clone().swap_dims(0, 2);
        inputs.values = values.clone().swap_dims(1, 3);
        let found = solution(&problem, &inputs, is_full).swap_dims(1, 3);
        let weights = problem.weights(&device).swap_dims(1, 3);
        let grads = (found * weights).sum().backward();
        let expected = problem.gradients(is_full);
        let d_potential = vector(potential.grad(&grads).unwrap().swap_dims(0, 2));
        let d_values = vector(values.grad(&grads).unwrap().swap_dims(1, 3));
        assert_close(
            "d potential",
            &d_potential,
            &expected[0],
            GRADIENT_TOLERANCE,
        );
        assert_close("d values", &d_values, &expected[4], GRADIENT_TOLERANCE);
    }
}

#[test]
fn long_sequences() {
    let device = device().autodiff();
    let problem = Problem::random([1, 65_536, 1, 4], true);
    check(&problem, false, &device);
    check(&problem, true, &device);
}
