//! `bk_left`.

use burn::tensor::Tensor;
use kiln_bk::{GradRule, adjoint, bk_left, bk_left_with_rule, reference};

use crate::{
    common::{
        GRADIENT_TOLERANCE, Problem, SAME_SUM, VALUE_TOLERANCE, assert_close, device, on_flex,
        relative_error, vector, widen,
    },
    oracle::{Exact, finite_difference_error},
};

/// Lengths around one, odd ones, and powers of two; batches and heads that fill, overfill and underfill the lanes.
fn problems() -> Vec<Problem> {
    let mut all = Vec::new();
    for seq in [1, 2, 3, 17, 64, 100] {
        for (batch, heads) in [(1, 1), (2, 3), (3, 16), (2, 33)] {
            for with_state in [false, true] {
                all.push(Problem::random(batch, seq, heads, with_state));
            }
        }
    }
    all
}

/// The weights with those of the final state added to the last position, as the loss has them.
fn all_weights(problem: &Problem) -> Vec<f64> {
    let mut weights = widen(&problem.weights);
    let width = 2 * problem.heads;
    for (b, row) in problem.state_weights.chunks_exact(width).enumerate() {
        let last = ((b + 1) * problem.seq - 1) * width;
        for (weight, extra) in weights[last..last + width].iter_mut().zip(row) {
            *weight += f64::from(*extra);
        }
    }
    weights
}

#[test]
fn oracle_is_the_dense_inverse() {
    for seq in [1, 2, 5, 64] {
        let problem = Exact::from(&Problem::random(1, seq, 2, false));
        let (left, diagonal) = problem.dense();
        for (found, expected) in [(problem.left(), left), (problem.diagonal(), diagonal)] {
            for (x, y) in found.iter().zip(expected) {
                assert!((x - y).abs() < 1e-12 * (1.0 + y.abs()), "{x} {y}");
            }
        }
    }
}

#[test]
fn oracle_gradients_are_finite_differences() {
    for seq in [1, 2, 9] {
        let problem = Problem::random(2, seq, 2, true);
        let exact = Exact::from(&problem);
        let weights = widen(&problem.weights);
        let gradients = exact.left_gradients(&weights);
        let error = finite_difference_error(&exact, &weights, Exact::left, &gradients);
        assert!(error < 1e-6, "seq {seq}: {error:.1e}");
    }
}

#[test]
fn values_state_and_all_gradients_match_the_oracle() {
    let device = device().autodiff();
    for problem in problems() {
        let name = format!(
            "batch {} seq {} heads {} state {}",
            problem.batch, problem.seq, problem.heads, problem.with_state
        );
        let exact = Exact::from(&problem);
        let expected = exact.left();
        let inputs = problem.tensors(&device).require_grad();
        let state = problem.with_state.then(|| inputs.state.clone());
        let out = bk_left(
            inputs.potential.clone(),
            inputs.hopping.clone(),
            inputs.energy.clone(),
            state,
        )
        .unwrap();
        let width = 2 * problem.heads;
        let features = vector(out.features.clone());
        let error = relative_error(&features, &expected, width);
        assert!(error <= VALUE_TOLERANCE, "{name}: {error:.1e}");
        let last: Vec<f32> = features
            .chunks_exact(problem.seq * width)
            .flat_map(|row| row[row.len() - width..].to_vec())
            .collect();
        assert_eq!(vector(out.state.clone()), last, "{name}: state");

        let loss = (out.features * problem.weights(&device)).sum()
            + (out.state * problem.state_weights(&device)).sum();
        let expected = exact.left_gradients(&all_weights(&problem));
        let found = inputs.gradients(loss);
        assert_eq!(found.len(), if problem.with_state { 4 } else { 3 });
        for (found, (what, expected)) in found.iter().zip(expected.each()) {
            assert_close(
                &format!("{name}: {what}"),
                found,
                expected,
                GRADIENT_TOLERANCE,
            );
        }
    }
}

#[test]
fn reference_equals_the_operation() {
    let device = device().autodiff();
    for (batch, seq, heads) in [(1, 1, 1), (2, 2, 3), (3, 17, 16), (1, 33, 33)] {
        let problem = Problem::random(batch, seq, heads, true);
        let run = |by_reference: bool| {
            let inputs = problem.tensors(&device).require_grad();
            let (a, hopping, energy, state) = (
                inputs.potential.clone(),
                inputs.hopping.clone(),
                inputs.energy.clone(),
                inputs.state.clone(),
            );
            let features = if by_reference {
                reference::left(a, hopping, energy, state)
            } else {
                bk_left(a, hopping, energy, Some(state)).unwrap().features
            };
            let loss = (features.clone() * problem.weights(&device)).sum();
            (vector(features), inputs.gradients(loss))
        };
        let (values, gradients) = run(false);
        let (expected_values, expected_gradients) = run(true);
        assert_close(
            "features",
            &values,
            &widen(&expected_values),
            VALUE_TOLERANCE,
        );
        for (found, expected) in gradients.iter().zip(&expected_gradients) {
            assert_close("gradient", found, &widen(expected), GRADIENT_TOLERANCE);
        }
    }
}

#[test]
fn every_rule_equals_the_tensor_form() {
    let plain = device();
    let device = device().autodiff();
    let problem = Problem::random(2, 37, 19, true);
    let run = |rule: GradRule| {
        let inputs = problem.tensors(&device).require_grad();
        let out = bk_left_with_rule(
            inputs.potential.clone(),
            inputs.hopping.clone(),
            inputs.energy.clone(),
            Some(inputs.state.clone()),
            rule,
        );
        inputs.gradients((out.unwrap().features * problem.weights(&device)).sum())
    };
    let exact = run(GradRule::Exact);
    for rule in [
        GradRule::Exact,
        GradRule::Local,
        GradRule::Hyp7,
        GradRule::Blend(0.3),
    ] {
        let inputs = problem.tensors(&plain);
        let features = reference::left(
            inputs.potential,
            inputs.hopping.clone(),
            inputs.energy,
            inputs.state.clone(),
        );
        let weights = problem.weights(&plain);
        let (a, hopping, energy, state) =
            adjoint::left(features, inputs.hopping, inputs.state, weights, rule);
        let expected = [vector(a), vector(hopping), vector(energy), vector(state)];
        let found = run(rule);
        for (found, expected) in found.iter().zip(&expected) {
            assert_close(
                &format!("{rule:?}"),
                found,
                &widen(expected),
                GRADIENT_TOLERANCE,
            );
        }
        // Hopping and state keep their exact gradients; the potential's differ from the exact ones.
        for i in [1, 3] {
            let what = format!("{rule:?} leaks into gradient {i}");
            assert_close(&what, &found[i], &widen(&exact[i]), SAME_SUM);
        }
        assert_eq!(found[0] == exact[0], rule == GradRule::Exact);
    }
}

#[test]
fn approximate_rules_are_their_formulas() {
    let device = device().autodiff();
    let problem = Problem::random(1, 7, 1, false);
    let values = Exact::from(&problem).left();
    for (rule, t) in [
        (GradRule::Local, 0.0),
        (GradRule::Hyp7, 1.0),
        (GradRule::Blend(0.25), 0.25),
    ] {
        let inputs = problem.tensors(&device).require_grad();
        let (a, hopping, energy) = (
            inputs.potential.clone(),
            inputs.hopping.clone(),
            inputs.energy.clone(),
        );
        let out = bk_left_with_rule(a, hopping, energy, None, rule).unwrap();
        let found = inputs.gradients((out.features * problem.weights(&device)).sum());
        let expected: Vec<f64> = values
            .chunks_exact(2)
            .zip(problem.weights.chunks_exact(2))
            .map(|(x, g)| {
                let x = num_complex::Complex64::new(x[0], x[1]);
                let g = num_complex::Complex64::new(f64::from(g[0]), -f64::from(g[1]));
                -((1.0 - t) * g * x * x + t * g / (x * x)).re
            })
            .collect();
        assert_close(
            &format!("{rule:?}"),
            &found[0],
            &expected,
            GRADIENT_TOLERANCE,
        );
    }
}

#[test]
fn two_pieces_equal_one() {
    let device = device();
    for (seq, cut) in [(2, 1), (17, 5), (100, 64)] {
        let problem = Problem::random(2, seq, 33, true);
        let inputs = problem.tensors(&device);
        let piece = |from: usize, len: usize, state: Tensor<2>| {
            let a = inputs.potential.clone().narrow(1, from, len);
            let (hopping, energy) = (inputs.hopping.clone(), inputs.energy.clone());
            bk_left(a, hopping, energy, Some(state)).unwrap()
        };
        let whole = piece(0, seq, inputs.state.clone());
        let first = piece(0, cut, inputs.state.clone());
        let second = piece(cut, seq - cut, first.state);
        let joined = vector(Tensor::cat(vec![first.features, second.features], 1));
        let whole_features = vector(whole.features);
        if on_flex() {
            assert_eq!(joined, whole_features);
            assert_eq!(vector(second.state), vector(whole.state));
        } else {
            let expected = widen(&whole_features);
            assert_close("joined", &joined, &expected, VALUE_TOLERANCE);
        }
    }
}

#[test]
fn gradients_flow_through_the_passed_state() {
    let device = device().autodiff();
    let problem = Problem::random(2, 20, 5, true);
    let inputs = problem.tensors(&device).require_grad();
    let piece = |from: usize, len: usize, state: Tensor<2>| {
        let a = inputs.potential.clone().narrow(1, from, len);
        let (hopping, energy) = (inputs.hopping.clone(), inputs.energy.clone());
        bk_left(a, hopping, energy, Some(state)).unwrap()
    };
    let first = piece(0, 7, inputs.state.clone());
    let second = piece(7, 13, first.state);
    let joined = Tensor::cat(vec![first.features, second.features], 1);
    let found = inputs.gradients((joined * problem.weights(&device)).sum());
    let expected = Exact::from(&problem).left_gradients(&widen(&problem.weights));
    for (found, (what, expected)) in found.iter().zip(expected.each()) {
        assert_close(what, found, expected, GRADIENT_TOLERANCE);
    }
}

#[test]
fn later_tokens_change_nothing_before_them() {
    let device = device();
    let problem = Problem::random(1, 40, 3, false);
    let mut changed = problem.clone();
    changed.potential[25 * 3..]
        .iter_mut()
        .for_each(|a| *a += 1.0);
    let run = |problem: &Problem| {
        let inputs = problem.tensors(&device);
        let out = bk_left(inputs.potential, inputs.hopping, inputs.energy, None);
        vector(out.unwrap().features)
    };
    let (before, after) = (run(&problem), run(&changed));
    assert_eq!(before[..25 * 6], after[..25 * 6]);
    assert_ne!(before[25 * 6..26 * 6], after[25 * 6..26 * 6]);
}

#[test]
fn block_width_and_threads_never_change_a_bit() {
    if !on_flex() {
        return;
    }
    let device = device();
    // Large enough for the parallel path; every head alone is not, and runs four lanes wide.
    let problem = Problem::random(2, 300, 70, true);
    let inputs = problem.tensors(&device);
    let run = |from: usize, count: usize| {
        let states: Tensor<3> = inputs.state.clone().reshape([2, 2, 70]);
        let out = bk_left(
            inputs.potential.clone().narrow(2, from, count),
            inputs.hopping.clone().narrow(0, from, count),
            inputs.energy.clone().narrow(1, from, count),
            Some(states.narrow(2, from, count).reshape([2, 2 * count])),
        );
        out.unwrap().features.reshape([2, 300, 2, count])
    };
    let together: Tensor<4> = run(0, 70);
    let alone = Tensor::cat((0..70).map(|h| run(h, 1)).collect(), 3);
    assert_eq!(vector(together), vector(alone));
}

#[test]
fn only_some_inputs_need_gradients() {
    let device = device().autodiff();
    let problem = Problem::random(2, 11, 4, true);
    let expected = Exact::from(&problem).left_gradients(&widen(&problem.weights));
    for tracked in 0..4 {
        let mut inputs = problem.tensors(&device);
        match tracked {
            0 => inputs.potential = inputs.potential.require_grad(),
            1 => inputs.hopping = inputs.hopping.require_grad(),
            2 => inputs.energy = inputs.energy.require_grad(),
            _ => inputs.state = inputs.state.require_grad(),
        }
        let out = bk_left(
            inputs.potential.clone(),
            inputs.hopping.clone(),
            inputs.energy.clone(),
            Some(inputs.state.clone()),
        );
        let loss = (out.unwrap().features * problem.weights(&device)).sum();
        let grads = loss.backward();
        let found = [
            inputs.potential.grad(&grads).map(vector),
            inputs.hopping.grad(&grads).map(vector),
            inputs.energy.grad(&grads).map(vector),
            inputs.state.grad(&grads).map(vector),
        ];
        for (i, (found, (what, expected))) in found.iter().zip(expected.each()).enumerate() {
            assert_eq!(found.is_some(), i == tracked, "{what}");
            if let Some(found) = found {
                assert_close(what, found, expected, GRADIENT_TOLERANCE);
            }
        }
    }
}

#[test]
fn strided_inputs_and_gradient_checkpointing() {
    let device = device().autodiff().gradient_checkpointing();
    let problem = Problem::random(3, 12, 6, false);
    let expected = Exact::from(&problem).left_gradients(&widen(&problem.weights));
    let inputs = problem.tensors(&device);
    // Held as [heads, seq, batch], so that the operation and its backward pass see strides.
    let held = inputs.potential.swap_dims(0, 2).require_grad();
    let out = bk_left(
        held.clone().swap_dims(0, 2),
        inputs.hopping,
        inputs.energy,
        None,
    );
    let weights = problem.weights(&device).swap_dims(0, 2);
    let loss = (out.unwrap().features.swap_dims(0, 2) * weights).sum();
    let grads = loss.backward();
    let found = vector(held.grad(&grads).unwrap().swap_dims(0, 2));
    assert_close(
        "d potential",
        &found,
        &expected.potential,
        GRADIENT_TOLERANCE,
    );
}
