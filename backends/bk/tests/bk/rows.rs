//! Rows of resolvents as weights, against dense inverses and finite differences of them.

use burn::tensor::Tensor;
use kiln_bk::{BkError, RowMeasure, bk_left, row_weights};
use num_complex::Complex64 as C;

use crate::{
    attention_oracle::last_row,
    common::{
        GRADIENT_TOLERANCE, Inputs, Problem, VALUE_TOLERANCE, assert_close, device, tensor, vector,
        widen,
    },
};

const MEASURES: [(RowMeasure, i32); 2] = [(RowMeasure::Modulus, 1), (RowMeasure::Born, 2)];

/// Potential, hopping and energy in double precision; nothing enters.
type Exact = [Vec<f64>; 3];

fn exact(problem: &Problem) -> Exact {
    [&problem.potential, &problem.hopping, &problem.energy].map(|x| widen(x))
}

/// `[batch, heads, seq, seq]`, by the definition.
fn dense(problem: &Problem, [potential, hopping, energy]: &Exact, power: i32) -> Vec<f64> {
    let Problem {
        batch, seq, heads, ..
    } = *problem;
    let mut all = Vec::new();
    for (b, h) in (0..batch * heads).map(|at| (at / heads, at % heads)) {
        let z = C::new(energy[h], energy[heads + h]);
        let mut matrix = vec![vec![C::ZERO; seq]; seq];
        for i in 0..seq {
            matrix[i][i] = potential[(b * seq + i) * heads + h] - z;
            if i > 0 {
                matrix[i][i - 1] = C::from(hopping[h].sqrt());
                matrix[i - 1][i] = C::from(hopping[h].sqrt());
            }
        }
        for n in 1..=seq {
            let row: Vec<f64> = last_row(&matrix, n)
                .iter()
                .map(|g| g.norm().powi(power))
                .collect();
            let sum: f64 = row.iter().sum();
            all.extend(row.iter().map(|x| x / sum));
            all.extend(std::iter::repeat_n(0.0, seq - n));
        }
    }
    all
}

fn rows(inputs: &Inputs, measure: RowMeasure) -> Tensor<4> {
    let Inputs {
        potential,
        hopping,
        energy,
        ..
    } = inputs.clone();
    let left = bk_left(potential, hopping.clone(), energy, None).unwrap();
    row_weights(left.features, hopping, measure).unwrap()
}

#[test]
fn values_of_dense_inverses() {
    for seq in [1, 2, 9, 32] {
        let problem = Problem::random(2, seq, 3, false);
        for (measure, power) in MEASURES {
            let found = rows(&problem.tensors(&device()), measure);
            assert_eq!(found.dims(), [2, 3, seq, seq]);
            let sums = vector(found.clone().sum_dim(3));
            assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-5), "{sums:?}");
            let expected = dense(&problem, &exact(&problem), power);
            let what = format!("{measure:?} of {seq} positions");
            assert_close(&what, &vector(found), &expected, VALUE_TOLERANCE);
        }
    }
}

/// The weights of resolvent attention are `eta |G_ij|^2 / Im L_i`: the Ward identity divides by the row's sum.
#[test]
fn born_rows_are_those_of_the_ward_identity() {
    let problem = Problem::random(1, 20, 2, false);
    let inputs = problem.tensors(&device());
    let left = bk_left(
        inputs.potential.clone(),
        inputs.hopping.clone(),
        inputs.energy.clone(),
        None,
    );
    let features = vector(left.unwrap().features); // [20, 4]
    let found = vector(rows(&inputs, RowMeasure::Born)); // [2, 20, 20]
    for h in 0..2 {
        let (beta, eta) = (problem.hopping[h], problem.energy[2 + h]);
        for i in 0..20 {
            let before = if i == 0 {
                0.0
            } else {
                features[(i - 1) * 4 + 2 + h]
            };
            let own = eta / (eta + beta * before);
            let weight = found[(h * 20 + i) * 20 + i];
            assert!((weight - own).abs() < 1e-5, "{h} {i}: {weight} {own}");
        }
    }
}

#[test]
fn gradients_are_differences_of_dense_inverses() {
    const STEP: f64 = 1e-5;
    let device = device().autodiff();
    let problem = Problem::random(1, 7, 2, false);
    // The loss is a sum of the weights with factors that have nothing to do with each other.
    let factors: Vec<f32> = (0..2 * 7 * 7).map(|i| (i as f32 * 1.7).sin()).collect();
    for (measure, power) in MEASURES {
        let inputs = problem.tensors(&device).require_grad();
        let loss = (rows(&inputs, measure) * tensor(&factors, [1, 2, 7, 7], &device)).sum();
        let found = inputs.gradients(loss);
        let mut moved = exact(&problem);
        for (input, found) in found.iter().enumerate() {
            let one = |at: usize| {
                let mut loss = |by: f64| {
                    moved[input][at] += by;
                    let rows = dense(&problem, &moved, power);
                    moved[input][at] -= by;
                    let pairs = rows.iter().zip(&factors);
                    pairs.map(|(w, f)| w * f64::from(*f)).sum::<f64>()
                };
                (loss(STEP) - loss(-STEP)) / (2.0 * STEP)
            };
            let expected: Vec<f64> = (0..found.len()).map(one).collect();
            let what = format!("{measure:?}, input {input}");
            assert_close(&what, found, &expected, GRADIENT_TOLERANCE);
        }
    }
}

/// Without hopping every position reads itself, and far along a sequence nothing overflows.
#[test]
fn the_ends_of_the_range() {
    let device = device();
    let rows_of = |beta: f32, seq: usize| {
        let potential = tensor(&vec![3.0; seq], [1, seq, 1], &device);
        let hopping = tensor(&[beta], [1], &device);
        let energy = tensor(&[0.0, 0.05], [2, 1], &device);
        let left = bk_left(potential, hopping.clone(), energy, None).unwrap();
        vector(row_weights(left.features, hopping, RowMeasure::Modulus).unwrap())
    };
    let still = rows_of(0.0, 5);
    for (at, weight) in still.iter().enumerate() {
        let own = f32::from(u8::from(at % 6 == 0));
        assert!((weight - own).abs() < 1e-12, "{still:?}");
    }
    let far = rows_of(1e-4, 700);
    assert!(far.iter().all(|w| w.is_finite()));
    assert!(
        far.chunks(700)
            .all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-5)
    );
}

#[test]
fn other_heads_are_refused() {
    let features = tensor(&[0.5; 4], [1, 1, 4], &device());
    let error = row_weights(features, tensor(&[1.0], [1], &device()), RowMeasure::Born);
    assert!(matches!(
        error,
        Err(BkError::Shape {
            name: "features",
            ..
        })
    ));
}
