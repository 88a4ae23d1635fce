//! Cholesky factors of the Hessian.

use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Mat, Par, Side};

use crate::{Gram, MethodError};

/// The last damping tried before a Hessian is given up, as a share of its mean diagonal.
const MOST_DAMPING: f64 = 1.0;

/// The upper U of H^-1 = U^T U, for inputs in a given order. Row k of it says how an error at input k is spread over those after.
pub(crate) struct InverseFactor {
    /// U, row-major `[d_input, d_input]`.
    pub values: Vec<f64>,
    pub d_input: usize,
}

impl InverseFactor {
    /// Of the inputs in `order`. The damping starts at `damping` of the mean diagonal and rises tenfold until the factor exists.
    ///
    /// An input that was zero throughout has no part in any product: it is left to itself with a diagonal of one.
    ///
    /// # Errors
    /// [`MethodError::NotPositiveDefinite`].
    pub fn new(gram: &Gram, order: &[usize], damping: f64) -> Result<Self, MethodError> {
        let d_input = order.len();
        // H = M M^T with M upper is the Cholesky factor of H read backwards, and U = M^-1: one factorisation instead of an inverse
        // and a second one.
        let backward = |k: usize| order[d_input - 1 - k];
        let lower = damped(d_input, damping, |i, j| {
            gram.product(backward(i), backward(j))
        })?;
        let mut inverse = Mat::<f64>::zeros(d_input, d_input);
        invert_lower_triangular(inverse.as_mut(), lower.as_ref(), Par::Seq);
        let mut values = vec![0.0; d_input * d_input];
        for i in 0..d_input {
            for j in i..d_input {
                values[i * d_input + j] = inverse[(d_input - 1 - i, d_input - 1 - j)];
            }
        }
        Ok(Self { values, d_input })
    }

    /// The diagonal of row `k`: how sure the inputs after k leave its weight.
    pub fn diagonal(&self, k: usize) -> f64 {
        self.values[k * self.d_input + k]
    }
}

/// The lower L of H + damping = L L^T.
pub(crate) fn damped(
    d_input: usize,
    damping: f64,
    product: impl Fn(usize, usize) -> f64,
) -> Result<Mat<f64>, MethodError> {
    if !(damping > 0.0 && damping <= MOST_DAMPING) {
        return Err(MethodError::Setting {
            key: "damping",
            value: damping.to_string(),
            why: "must lie in (0, 1]",
        });
    }
    let alive: Vec<bool> = (0..d_input).map(|k| product(k, k) > 0.0).collect();
    let mean = (0..d_input).map(|k| product(k, k)).sum::<f64>() / d_input as f64;
    let mut share = damping;
    loop {
        let h = Mat::from_fn(d_input, d_input, |i, j| match (i == j, alive[i]) {
            (true, true) => product(i, i) + share * mean,
            (true, false) => 1.0,
            (false, _) => product(i, j),
        });
        if let Ok(factor) = h.llt(Side::Lower)
            && (0..d_input).all(|k| factor.L()[(k, k)].is_finite())
        {
            return Ok(factor.L().to_owned());
        }
        if share >= MOST_DAMPING {
            return Err(MethodError::NotPositiveDefinite { damping: share });
        }
        share = (10.0 * share).min(MOST_DAMPING);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// H^-1 = U^T U times H is the identity.
    #[test]
    fn the_factor_is_of_the_inverse() {
        let mut gram = Gram::new(3);
        gram.add(&[
            1.0, 2.0, -1.0, 0.5, 1.0, 3.0, -2.0, 0.25, 1.0, 1.0, 1.0, 1.0,
        ])
        .unwrap();
        let order = [2, 0, 1];
        let damping = 1e-9;
        let u = InverseFactor::new(&gram, &order, damping).unwrap().values;
        let mean = (0..3).map(|k| gram.product(k, k)).sum::<f64>() / 3.0;
        for i in 0..3 {
            for j in 0..3 {
                let inverse = |i: usize, j: usize| -> f64 {
                    (0..3).map(|k| u[k * 3 + i] * u[k * 3 + j]).sum()
                };
                let entry: f64 = (0..3)
                    .map(|k| {
                        let damping = if k == j { damping * mean } else { 0.0 };
                        inverse(i, k) * (gram.product(order[k], order[j]) + damping)
                    })
                    .sum();
                let expected = if i == j { 1.0 } else { 0.0 };
                // Condition number below 100 in double precision.
                assert!((entry - expected).abs() < 1e-12, "[{i}, {j}] {entry}");
            }
        }
    }

    #[test]
    fn an_input_that_was_always_zero_stands_alone() {
        let mut gram = Gram::new(2);
        gram.add(&[1.0, 0.0, 2.0, 0.0]).unwrap();
        let factor = InverseFactor::new(&gram, &[0, 1], 0.01).unwrap();
        assert_eq!(factor.diagonal(1), 1.0);
        assert_eq!(factor.values[1], 0.0);
    }

    #[test]
    fn damping_rises_until_it_helps_and_then_gives_up() {
        // Eigenvalues 3 and -1: positive definite from a damping of 1 on only.
        let indefinite = |i: usize, j: usize| if i == j { 1.0 } else { 1.5 };
        assert!(damped(2, 0.01, indefinite).is_ok());
        let hopeless = |i: usize, j: usize| if i == j { 1.0 } else { 5.0 };
        assert_eq!(
            damped(2, 0.01, hopeless).unwrap_err(),
            MethodError::NotPositiveDefinite { damping: 1.0 }
        );
        assert!(damped(2, 0.0, hopeless).is_err());
    }
}
