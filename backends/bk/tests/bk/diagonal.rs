//! `bk_diagonal`.

use burn::tensor::Tensor;
use kiln_bk::{
    GradRule, adjoint, bk_diagonal, bk_diagonal_piece, bk_diagonal_with_rule, bk_left, reference,
};

use crate::{
    common::{
        GRADIENT_TOLERANCE, Problem, SAME_SUM, VALUE_TOLERANCE, assert_close, device,
        relative_error, vector, widen,
    },
    oracle::{Exact, finite_difference_error},
};

#[test]
fn oracle_gradients_are_finite_differences() {
    for seq in [1, 2, 3, 9] {
        let problem = Problem::random(2, seq, 2, false);
        let exact = Exact::from(&problem);
        let weights = widen(&problem.weights);
        let gradients = exact.diagonal_gradients(&weights);
        let error = finite_difference_error(&exact, &weights, Exact::diagonal, &gradients);
        assert!(error < 1e-6, "seq {seq}: {error:.1e}");
    }
}

#[test]
fn values_and_all_gradients_match_the_oracle() {
    let plain = device();
    let device = device().autodiff();
    for seq in [1, 2, 3, 17, 64, 100] {
        for (batch, heads) in [(1, 1), (2, 3), (3, 16), (2, 33)] {
            let name = format!("batch {batch} seq {seq} heads {heads}");
            let problem = Problem::random(batch, seq, heads, false);
            let exact = Exact::from(&problem);
            let inputs = problem.tensors(&device).require_grad();
            let features = bk_diagonal(
                inputs.potential.clone(),
                inputs.hopping.clone(),
                inputs.energy.clone(),
            )
            .unwrap();
            let values = vector(features.clone());
            let error = relative_error(&values, &exact.diagonal(), 2 * heads);
            assert!(error <= VALUE_TOLERANCE, "{name}: {error:.1e}");

            let untracked = problem.tensors(&plain);
            let again = bk_diagonal(untracked.potential, untracked.hopping, untracked.energy);
            assert_eq!(vector(again.unwrap()), values, "{name}: without autodiff");

            let expected = exact.diagonal_gradients(&widen(&problem.weights));
            let found = inputs.gradients((features * problem.weights(&device)).sum());
            assert_eq!(found.len(), 3);
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
}

#[test]
fn reference_equals_the_operation() {
    let device = device().autodiff();
    for (batch, seq, heads) in [(1, 1, 1), (2, 2, 3), (2, 17, 16)] {
        let problem = Problem::random(batch, seq, heads, false);
        let run = |by_reference: bool| {
            let inputs = problem.tensors(&device).require_grad();
            let (a, hopping, energy) = (
                inputs.potential.clone(),
                inputs.hopping.clone(),
                inputs.energy.clone(),
            );
            let features = if by_reference {
                reference::diagonal(a, hopping, energy)
            } else {
                bk_diagonal(a, hopping, energy).unwrap()
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
    let device = device().autodiff().gradient_checkpointing();
    let problem = Problem::random(2, 37, 19, false);
    let run = |rule: GradRule| {
        let inputs = problem.tensors(&device).require_grad();
        let features = bk_diagonal_with_rule(
            inputs.potential.clone().mul_scalar(1.0), // memory-bound: recomputed by the checkpointer
            inputs.hopping.clone(),
            inputs.energy.clone(),
            rule,
        );
        inputs.gradients((features.unwrap() * problem.weights(&device)).sum())
    };
    let exact = run(GradRule::Exact);
    for rule in [
        GradRule::Exact,
        GradRule::Local,
        GradRule::Hyp7,
        GradRule::Blend(0.3),
    ] {
        let inputs = problem.tensors(&plain);
        let (a, hopping, energy) = adjoint::diagonal(
            inputs.potential,
            inputs.hopping,
            inputs.energy,
            problem.weights(&plain),
            rule,
        );
        let expected = [vector(a), vector(hopping), vector(energy)];
        let found = run(rule);
        for (found, expected) in found.iter().zip(&expected) {
            assert_close(
                &format!("{rule:?}"),
                found,
                &widen(expected),
                GRADIENT_TOLERANCE,
            );
        }
        let what = format!("{rule:?} leaks into the hopping");
        assert_close(&what, &found[1], &widen(&exact[1]), SAME_SUM);
        assert_eq!(found[0] == exact[0], rule == GradRule::Exact);
    }
}

/// A sequence in pieces, each between what the others leave it, is the sequence: values, the states at its ends, and all gradients.
#[test]
fn pieces_between_their_neighbours_are_the_whole() {
    let device = device().autodiff();
    for (batch, seq, heads, cuts) in [
        (2, 41, 3, &[0, 1, 17, 41][..]),
        (1, 6, 16, &[0, 2, 6]),
        (3, 5, 2, &[0, 5]),
    ] {
        let problem = Problem::random(batch, seq, heads, false);
        let weights = problem.weights(&device);
        let whole = problem.tensors(&device).require_grad();
        let (a, hopping, energy) = (
            whole.potential.clone(),
            whole.hopping.clone(),
            whole.energy.clone(),
        );
        let features = bk_diagonal(a, hopping, energy).unwrap();
        let expected = vector(features.clone());
        let gradients = whole.gradients((features * weights.clone()).sum());

        let inputs = problem.tensors(&device).require_grad();
        let parameters = || (inputs.hopping.clone(), inputs.energy.clone());
        let part = |from: usize, to: usize| inputs.potential.clone().narrow(1, from, to - from);
        // What every piece is entered with from the right: a walk from the end.
        let mut rights: Vec<Option<Tensor<2>>> = vec![None];
        for ends in cuts.windows(2).skip(1).rev() {
            let (hopping, energy) = parameters();
            let entering = rights.last().cloned().flatten();
            let reversed = part(ends[0], ends[1]).flip([1]);
            let left = bk_left(reversed, hopping, energy, entering).unwrap();
            rights.push(Some(left.state));
        }
        let mut left = None;
        let mut pieces = Vec::new();
        for (ends, right) in cuts.windows(2).zip(rights.iter().rev()) {
            let (hopping, energy) = parameters();
            let a = part(ends[0], ends[1]);
            let piece = bk_diagonal_piece(a, hopping, energy, left, right.clone()).unwrap();
            left = Some(piece.left);
            pieces.push(piece.features);
        }
        let name = format!("batch {batch} seq {seq} heads {heads}");
        let features = Tensor::cat(pieces, 1);
        let error = relative_error(&vector(features.clone()), &widen(&expected), 2 * heads);
        assert!(error <= VALUE_TOLERANCE, "{name}: {error:.1e}");
        let found = inputs.gradients((features * weights).sum());
        for (found, (what, expected)) in found
            .iter()
            .zip(["potential", "hopping", "energy"].iter().zip(&gradients))
        {
            let what = format!("{name}: {what}");
            assert_close(&what, found, &widen(expected), GRADIENT_TOLERANCE);
        }
    }
}

/// R of a piece's first position is what the piece left of it needs, and states of another shape are refused by name.
#[test]
fn states_of_a_piece_are_those_of_its_ends() {
    let device = device();
    let problem = Problem::random(2, 9, 3, true);
    let inputs = problem.tensors(&device);
    let piece = |left: Option<Tensor<2>>, right: Option<Tensor<2>>| {
        let (a, hopping, energy) = (
            inputs.potential.clone(),
            inputs.hopping.clone(),
            inputs.energy.clone(),
        );
        bk_diagonal_piece(a, hopping, energy, left, right)
    };
    let walk = |potential: Tensor<3>, state: Tensor<2>| {
        let (hopping, energy) = (inputs.hopping.clone(), inputs.energy.clone());
        vector(
            bk_left(potential, hopping, energy, Some(state))
                .unwrap()
                .state,
        )
    };
    let state = inputs.state.clone();
    let found = piece(Some(state.clone()), Some(state.clone())).unwrap();
    assert_eq!(
        vector(found.left),
        walk(inputs.potential.clone(), state.clone())
    );
    assert_eq!(
        vector(found.right),
        walk(inputs.potential.clone().flip([1]), state.clone())
    );
    let narrow = state.narrow(1, 0, 3);
    assert_eq!(
        piece(None, Some(narrow)).unwrap_err().to_string(),
        "bk_diagonal_piece: right must have shape [batch, 2 * heads] = [2, 6], not [2, 3]"
    );
}
