//! The CubeCL kernels, every strategy forced in turn, against the oracle.
#![cfg(feature = "_cube")]

use burn::tensor::Tensor;
use kiln_bk::{
    GradRule, adjoint, bk_left,
    cube::{self, Strategy},
};

use crate::{
    common::{
        GRADIENT_TOLERANCE, Problem, VALUE_TOLERANCE, assert_close, backend, device, on_flex,
        relative_error, vector, widen,
    },
    oracle::Exact,
};

/// More chunks than one unit composes maps of, twice over: a scan of three levels.
const THREE_LEVELS: usize = 1100;

/// Not software Vulkan: what SwiftShader does to the shared memory of CubeCL's kernels is not what they ask for.
pub fn has_look_back() -> bool {
    matches!(backend().as_str(), "cuda" | "rocm" | "metal")
}

/// Lengths below, at and above the chunk, multiples of it and not, single positions, and several levels of the scan.
pub fn cases() -> Vec<(Strategy, Problem)> {
    let chunked = |chunk| Strategy::Chunked { chunk };
    let look_back = |[lanes, subs, count]: [usize; 3]| Strategy::LookBack { lanes, subs, count };
    let mut cases = Vec::new();
    for with_state in [false, true] {
        for (batch, seq, heads) in [
            (1, 1, 1),
            (2, 2, 3),
            (1, 3, 2),
            (3, 16, 5),
            (2, 17, 33),
            (1, 129, 2),
        ] {
            for strategy in [
                Strategy::Auto,
                Strategy::Sequential,
                chunked(1),
                chunked(5),
                chunked(16),
                chunked(64),
            ] {
                let problem = Problem::random(batch, seq, heads, with_state);
                cases.push((strategy, problem));
            }
            for tile in [
                [32, 1, 1],
                [32, 4, 3],
                [4, 8, 8],
                [32, 16, 16],
                [8, 64, 16],
                [1, 32, 4],
            ] {
                if has_look_back() {
                    let problem = Problem::random(batch, seq, heads, with_state);
                    cases.push((look_back(tile), problem));
                }
            }
        }
        let long = Problem::random(2, THREE_LEVELS, 3, with_state);
        cases.push((chunked(1), long.clone()));
        cases.push((chunked(7), long.clone()));
        if has_look_back() {
            cases.push((look_back([32, 1, 1]), long.clone()));
            cases.push((look_back([2, 128, 16]), long.clone()));
            cases.push((look_back([32, 4, 8]), long));
        }
    }
    let tiny = Problem::random(1, 5, 2, true);
    cases.push((Strategy::Reference, tiny));
    cases
}

pub fn name(strategy: Strategy, problem: &Problem) -> String {
    let Problem {
        batch, seq, heads, ..
    } = problem;
    format!("{strategy:?}, batch {batch} seq {seq} heads {heads}")
}

fn left(strategy: Strategy, problem: &Problem) -> Tensor<3> {
    let inputs = problem.tensors(&device());
    cube::left(
        strategy,
        inputs.potential,
        inputs.hopping,
        inputs.energy,
        inputs.state,
    )
}

/// Gradients of potential, hopping, energy and state under the problem's weights.
fn left_gradients(strategy: Strategy, problem: &Problem, rule: GradRule) -> Vec<Vec<f32>> {
    let device = device();
    let inputs = problem.tensors(&device);
    let (potential, hopping, energy, state) = cube::left_adjoint(
        strategy,
        left(Strategy::Sequential, problem),
        inputs.hopping,
        inputs.state,
        problem.weights(&device),
        rule,
    );
    vec![
        vector(potential),
        vector(hopping),
        vector(energy),
        vector(state),
    ]
}

fn diagonal(strategy: Strategy, problem: &Problem) -> Tensor<3> {
    let inputs = problem.tensors(&device());
    cube::diagonal(strategy, inputs.potential, inputs.hopping, inputs.energy)
}

fn diagonal_gradients(strategy: Strategy, problem: &Problem, rule: GradRule) -> Vec<Vec<f32>> {
    let device = device();
    let inputs = problem.tensors(&device);
    let (potential, hopping, energy) = cube::diagonal_adjoint(
        strategy,
        inputs.potential,
        inputs.hopping,
        inputs.energy,
        problem.weights(&device),
        rule,
    );
    vec![vector(potential), vector(hopping), vector(energy)]
}

fn assert_all_close(name: &str, found: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let what = format!("{name}: gradient {i}");
        assert_close(&what, found, &widen(expected), tolerance);
    }
}

#[test]
fn left_matches_the_oracle_with_every_strategy() {
    if on_flex() {
        return;
    }
    for (strategy, problem) in cases() {
        let name = name(strategy, &problem);
        let exact = Exact::from(&problem);
        let values = vector(left(strategy, &problem));
        let error = relative_error(&values, &exact.left(), 2 * problem.heads);
        assert!(error <= VALUE_TOLERANCE, "{name}: {error:.1e}");
        let expected = exact.left_gradients(&widen(&problem.weights));
        let found = left_gradients(strategy, &problem, GradRule::Exact);
        for (found, (what, expected)) in found.iter().zip(expected.each()) {
            let what = format!("{name}: {what}");
            assert_close(&what, found, expected, GRADIENT_TOLERANCE);
        }
    }
}

#[test]
fn diagonal_matches_the_oracle_with_every_strategy() {
    if on_flex() {
        return;
    }
    for (strategy, problem) in cases().into_iter().filter(|(_, p)| !p.with_state) {
        let name = name(strategy, &problem);
        let exact = Exact::from(&problem);
        let values = vector(diagonal(strategy, &problem));
        let error = relative_error(&values, &exact.diagonal(), 2 * problem.heads);
        assert!(error <= VALUE_TOLERANCE, "{name}: {error:.1e}");
        let expected = exact.diagonal_gradients(&widen(&problem.weights));
        let found = diagonal_gradients(strategy, &problem, GradRule::Exact);
        for (found, (what, expected)) in found.iter().zip(expected.each()) {
            let what = format!("{name}: {what}");
            assert_close(&what, found, expected, GRADIENT_TOLERANCE);
        }
    }
}

#[test]
fn every_rule_equals_the_tensor_form_with_every_strategy() {
    if on_flex() {
        return;
    }
    let problem = Problem::random(2, 23, 5, true);
    for rule in [
        GradRule::Local,
        GradRule::Hyp7,
        GradRule::Blend(0.3),
        GradRule::Exact,
    ] {
        let device = device();
        let inputs = problem.tensors(&device);
        let (potential, hopping, energy, state) = adjoint::left(
            left(Strategy::Reference, &problem),
            inputs.hopping,
            inputs.state,
            problem.weights(&device),
            rule,
        );
        let of_left = [
            vector(potential),
            vector(hopping),
            vector(energy),
            vector(state),
        ];
        let of_diagonal = diagonal_gradients(Strategy::Reference, &problem, rule);
        for strategy in [Strategy::Sequential, Strategy::Chunked { chunk: 6 }] {
            let name = format!("{rule:?} {strategy:?}");
            let found = left_gradients(strategy, &problem, rule);
            assert_all_close(&name, &found, &of_left, GRADIENT_TOLERANCE);
            let found = diagonal_gradients(strategy, &problem, rule);
            assert_all_close(&name, &found, &of_diagonal, GRADIENT_TOLERANCE);
        }
    }
}

#[test]
fn results_repeat_to_the_bit() {
    if on_flex() {
        return;
    }
    let problem = Problem::random(40, 150, 3, true);
    for strategy in [Strategy::Sequential, Strategy::Chunked { chunk: 11 }] {
        let run = || {
            let mut all = left_gradients(strategy, &problem, GradRule::Exact);
            all.extend(diagonal_gradients(strategy, &problem, GradRule::Exact));
            all.push(vector(left(strategy, &problem)));
            all.push(vector(diagonal(strategy, &problem)));
            all
        };
        assert_eq!(run(), run(), "{strategy:?}");
    }
}

#[test]
fn later_tokens_change_nothing_before_them_in_chunks() {
    if on_flex() {
        return;
    }
    let problem = Problem::random(1, 200, 3, true);
    let mut changed = problem.clone();
    changed.potential[130 * 3..]
        .iter_mut()
        .for_each(|a| *a += 1.0);
    for chunk in [1, 7, 64] {
        let run = |problem: &Problem| vector(left(Strategy::Chunked { chunk }, problem));
        let (before, after) = (run(&problem), run(&changed));
        assert_eq!(before[..130 * 6], after[..130 * 6], "chunk {chunk}");
        assert_ne!(before[130 * 6..131 * 6], after[130 * 6..131 * 6]);
    }
}

/// Sums over more rows of the batch than one unit adds up.
#[test]
fn large_batches_are_summed_in_levels() {
    if on_flex() {
        return;
    }
    let problem = Problem::random(1100, 3, 2, true);
    let exact = Exact::from(&problem);
    let expected = exact.left_gradients(&widen(&problem.weights));
    let found = left_gradients(Strategy::Auto, &problem, GradRule::Exact);
    for (found, (what, expected)) in found.iter().zip(expected.each()) {
        assert_close(what, found, expected, GRADIENT_TOLERANCE);
    }
}

#[test]
fn hopping_of_zero_and_strong_potentials_compose() {
    if on_flex() {
        return;
    }
    let mut problem = Problem::random(1, 300, 3, true);
    problem.hopping = vec![0.0, 3.0, 0.5];
    problem.energy = vec![0.0, 0.5, -1.0, 0.001, 0.01, 0.1];
    for (i, a) in problem.potential.iter_mut().enumerate() {
        *a *= if i / 3 % 7 == 0 { 4e3 } else { 1.0 };
    }
    let expected = Exact::from(&problem).left();
    let mut strategies = vec![Strategy::Sequential, Strategy::Chunked { chunk: 9 }];
    if has_look_back() {
        strategies.push(Strategy::LookBack {
            lanes: 2,
            subs: 4,
            count: 3,
        });
    }
    for strategy in strategies {
        let error = relative_error(&vector(left(strategy, &problem)), &expected, 6);
        // An energy of 0.001 amplifies single-precision rounding by up to its inverse.
        assert!(error <= 1e-3, "{strategy:?}: {error:.1e}");
        for gradient in left_gradients(strategy, &problem, GradRule::Exact) {
            assert!(gradient.iter().all(|x| x.is_finite()), "{strategy:?}");
        }
        for gradient in diagonal_gradients(strategy, &problem, GradRule::Exact) {
            assert!(gradient.iter().all(|x| x.is_finite()), "{strategy:?}");
        }
    }
}

/// More cubes than fit into one axis of a launch. With `a = 0, beta = 1, z = i`: `L_1 = i`.
#[test]
fn more_sequences_than_one_axis_of_a_launch() {
    if on_flex() {
        return;
    }
    let device = device();
    let heads = 65_536 * 64 + 1;
    let zeros = Tensor::<2>::zeros([1, heads], &device);
    let energy = Tensor::cat(vec![zeros.clone(), zeros.ones_like()], 0);
    let hopping = Tensor::<1>::ones([heads], &device);
    let left = bk_left(zeros.unsqueeze_dim(0), hopping, energy, None).unwrap();
    let features = left.features.reshape([2, heads]);
    let expected = Tensor::<2>::from_data([[0.0], [1.0]], &device);
    let worst = (features - expected).abs().max().into_scalar::<f32>();
    assert!(worst < 1e-6, "{worst}");
}

/// Without potentials and with narrow energies a sequence remembers thousands of positions: the look-back has far to go.
#[test]
fn looking_back_over_many_tiles() {
    if !has_look_back() {
        return;
    }
    let mut problem = Problem::random(2, 20_000, 3, true);
    problem.hopping = vec![1.0, 0.5, 1.0];
    problem.energy = vec![0.1, 0.5, -1.0, 0.002, 0.01, 0.02];
    problem.potential.fill(0.0);
    let expected = Exact::from(&problem);
    let gradients = expected.left_gradients(&widen(&problem.weights));
    for [lanes, subs, count] in [[32, 4, 4], [2, 16, 8], [4, 32, 16]] {
        let strategy = Strategy::LookBack { lanes, subs, count };
        let error = relative_error(&vector(left(strategy, &problem)), &expected.left(), 6);
        assert!(error <= 1e-3, "{strategy:?}: {error:.1e}");
        let found = left_gradients(strategy, &problem, GradRule::Exact);
        for (found, (what, expected)) in found.iter().zip(gradients.each()) {
            assert_close(&format!("{strategy:?}: {what}"), found, expected, 1e-3);
        }
    }
}
