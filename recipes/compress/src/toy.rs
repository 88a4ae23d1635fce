//! Layers for the tests of the methods.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Gram, Matrix};

/// Weights drawn evenly from [-1, 1].
pub(crate) fn weights(d_input: usize, d_output: usize, seed: u64) -> Matrix {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values = (0..d_input * d_output).map(|_| rng.random_range(-1.0..1.0));
    Matrix::new(d_input, d_output, values.collect()).unwrap()
}

/// Inputs that depend on each other: x_i = 0.9 x_(i-1) + noise, with channels of `outliers` thirty times as large.
pub(crate) fn correlated(d_input: usize, tokens: usize, outliers: &[usize], seed: u64) -> Gram {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut gram = Gram::new(d_input);
    for _ in 0..tokens {
        let mut last = 0.0;
        let row: Vec<f32> = (0..d_input)
            .map(|input| {
                last = 0.9 * last + rng.random_range(-1.0_f32..1.0);
                last * if outliers.contains(&input) { 30.0 } else { 1.0 }
            })
            .collect();
        gram.add(&row).unwrap();
    }
    gram
}
