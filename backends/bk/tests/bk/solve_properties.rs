//! What the solve refuses, and what holds for every input.

use burn::tensor::Tensor;
use kiln_bk::{bk_left, bk_solve, bk_solve_causal};
use proptest::prelude::*;

use crate::{
    common::{device, tensor, vector},
    solve_oracle::{Inputs, Problem},
};

#[test]
fn wrong_arguments_are_named() {
    let device = device();
    let inputs = Problem::random([2, 5, 3, 4], true).tensors(&device);
    let causal = |inputs: Inputs| {
        let Inputs {
            potential,
            upper,
            lower,
            energy,
            values,
            state,
        } = inputs;
        let out = bk_solve_causal(values, potential, upper, lower, energy, Some(state));
        out.unwrap_err().to_string()
    };
    type Spoil = fn(&mut Inputs);
    let cases: [(Spoil, &str); 6] = [
        (
            |x| x.values = x.values.clone().narrow(1, 0, 4),
            "values must have shape [batch, seq, heads, columns] = [2, 5, 3, 4], not [2, 4, 3, 4]",
        ),
        (
            |x| x.upper = x.upper.clone().narrow(0, 0, 2),
            "upper must have shape [heads] = [3], not [2]",
        ),
        (
            |x| x.lower = x.lower.clone().narrow(0, 0, 1),
            "lower must have shape [heads] = [3], not [1]",
        ),
        (
            |x| x.energy = x.energy.clone().narrow(0, 0, 1),
            "energy must have shape [2, heads] = [2, 3], not [1, 3]",
        ),
        (
            |x| x.state.resolvent = x.state.resolvent.clone().narrow(1, 0, 3),
            "state.resolvent must have shape [batch, 2 * heads] = [2, 6], not [2, 3]",
        ),
        (
            |x| x.state.values = x.state.values.clone().narrow(2, 0, 4),
            "state.values must have shape [batch, heads, 2 * columns] = [2, 3, 8], not [2, 3, 4]",
        ),
    ];
    for (spoil, message) in cases {
        let mut spoilt = inputs.clone();
        spoil(&mut spoilt);
        assert_eq!(causal(spoilt), format!("bk_solve_causal: {message}"));
    }
    let nothing = Tensor::zeros([2, 0, 3], &device);
    let (upper, lower, energy) = (inputs.upper, inputs.lower, inputs.energy);
    let out = bk_solve(inputs.values, nothing, upper, lower, energy);
    assert_eq!(
        out.unwrap_err().to_string(),
        "bk_solve: potential [batch, seq, heads] has an empty axis: [2, 0, 3]"
    );
}

/// Potential, `b`, `c`, Re z, Im z.
fn chains() -> impl Strategy<Value = (Vec<f32>, f32, f32, f32, f32)> {
    let potential = prop_oneof![-1e4_f32..1e4, -3.0_f32..3.0, Just(0.0)];
    let imaginary = prop_oneof![1e-3_f32..1e-2, 0.01_f32..3.0];
    (
        prop::collection::vec(potential, 1..40),
        0.0_f32..2.0,
        0.0_f32..2.0,
        -3.0_f32..3.0,
        imaginary,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Gaussian elimination solves a system that is off by a few roundings of its factors' product, row by row
    /// (Higham, Accuracy and Stability of Numerical Algorithms, section 9.3): so the residual is bounded, whatever the
    /// condition of the matrix.
    #[test]
    fn residuals_are_a_few_roundings((a, b, c, re, eta) in chains()) {
        let device = device();
        let n = a.len();
        let potential = tensor(&a, [1, n, 1], &device);
        let (upper, lower) = (tensor(&[b], [1], &device), tensor(&[c], [1], &device));
        let energy = tensor(&[re, eta], [2, 1], &device);
        let u: Vec<f32> = (0..n).map(|i| ((i * 7 % 5) as f32 - 2.0) / 2.0).collect();
        let values = tensor(&u, [1, n, 1, 1], &device);
        let hopping = upper.clone() * lower.clone();
        let left = bk_left(potential.clone(), hopping, energy.clone(), None).unwrap();
        let left = complex(&vector(left.features));
        let x = bk_solve(values, potential, upper, lower, energy).unwrap();
        let x = complex(&vector(x));
        let (b, c) = (f64::from(b), f64::from(c));
        let z = num_complex::Complex64::new(re.into(), eta.into());
        let at = |i: usize| x.get(i).copied().unwrap_or_default();
        for i in 0..n {
            let before = i.checked_sub(1).map(at).unwrap_or_default();
            let row = c * before + (f64::from(a[i]) - z) * x[i] + b * at(i + 1);
            let residual = (row - f64::from(u[i])).norm();
            let last = i.checked_sub(1).map_or(0.0, |i| left[i].norm());
            let pivot = left[i].norm().recip() + b * c * last;
            let scale = pivot * x[i].norm() + c * before.norm() + b * at(i + 1).norm();
            let bound = 16.0 * f64::from(f32::EPSILON) * (scale + f64::from(u[i]).abs());
            prop_assert!(residual <= bound + 1e-30, "row {i}: {residual:.1e} > {bound:.1e}");
        }
    }
}

/// Packed values of one head and column.
fn complex(values: &[f32]) -> Vec<num_complex::Complex64> {
    let pairs = values.chunks_exact(2);
    pairs
        .map(|x| num_complex::Complex64::new(x[0].into(), x[1].into()))
        .collect()
}
