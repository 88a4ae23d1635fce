//! What holds for every input, checked on random ones.

use kiln_bk::{bk_diagonal, bk_left};
use proptest::prelude::*;

use crate::common::{device, tensor, vector};

/// Rounding of the reciprocal, its two products and the comparison.
const SLACK: f32 = 1.0 + 1e-5;

/// `[batch 1, seq, heads 1]` potential, hopping, Re z, Im z.
fn chains() -> impl Strategy<Value = (Vec<f32>, f32, f32, f32)> {
    let potential = prop_oneof![-1e4_f32..1e4, -3.0_f32..3.0, Just(0.0)];
    let imaginary = prop_oneof![1e-3_f32..1e-2, 0.01_f32..3.0];
    (
        prop::collection::vec(potential, 1..40),
        0.0_f32..4.0,
        -3.0_f32..3.0,
        imaginary,
    )
}

/// `Im > 0`, `|.| <= 1 / Im z`, finite, for packed values of one head.
fn check(values: &[f32], eta: f32) -> Result<(), TestCaseError> {
    for x in values.chunks_exact(2) {
        prop_assert!(x[0].is_finite() && x[1].is_finite(), "{x:?}");
        prop_assert!(x[1] > 0.0, "Im {x:?}");
        prop_assert!(x[0].hypot(x[1]) <= SLACK / eta, "{x:?} beyond 1 / {eta}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn values_stay_in_the_upper_half_plane_and_bounded((a, beta, re, eta) in chains()) {
        let device = device();
        let potential = tensor(&a, [1, a.len(), 1], &device);
        let hopping = tensor(&[beta], [1], &device);
        let energy = tensor(&[re, eta], [2, 1], &device);
        let left = bk_left(potential.clone(), hopping.clone(), energy.clone(), None).unwrap();
        check(&vector(left.features), eta)?;
        check(&vector(left.state), eta)?;
        check(&vector(bk_diagonal(potential, hopping, energy).unwrap()), eta)?;
    }

    #[test]
    fn gradients_are_finite((a, beta, re, eta) in chains()) {
        let device = device().autodiff();
        let potential = tensor(&a, [1, a.len(), 1], &device).require_grad();
        let hopping = tensor(&[beta], [1], &device).require_grad();
        let energy = tensor(&[re, eta], [2, 1], &device).require_grad();
        let left = bk_left(potential.clone(), hopping.clone(), energy.clone(), None).unwrap();
        let both = bk_diagonal(potential.clone(), hopping.clone(), energy.clone()).unwrap();
        let grads = (left.features + both).sum().backward();
        for gradient in [
            vector(potential.grad(&grads).unwrap()),
            vector(hopping.grad(&grads).unwrap()),
            vector(energy.grad(&grads).unwrap()),
        ] {
            prop_assert!(gradient.iter().all(|x| x.is_finite()), "{gradient:?}");
        }
    }
}
