//! Smoothing (SmoothQuant, arXiv 2211.10438): inputs with outlying channels become easier to round, and weights harder.
//!
//! ```text
//! x W = (x / s) (diag(s) W),    s_i = max |x_i|^alpha / max_o |w_io|^(1 - alpha)
//! ```
//! All of s has a factor more, so that the largest weight stays as large as it was: scales keep their range.

use crate::{Gram, Matrix, MethodError};

/// s for layers that read the same inputs.
///
/// A channel that was zero throughout the calibration, or that no weight reads, keeps its size beside the others.
///
/// # Errors
/// No calibration, or one of another width.
pub fn smoothing(layers: &[&Matrix], gram: &Gram, alpha: f64) -> Result<Vec<f32>, MethodError> {
    for layer in layers {
        gram.check(layer)?;
    }
    let size = |layer: &Matrix, input: usize| {
        let sizes = layer.row(input).iter().map(|weight| weight.abs());
        f64::from(sizes.fold(0.0, f32::max))
    };
    let widest = |input: usize| {
        layers
            .iter()
            .map(|layer| size(layer, input))
            .fold(0.0, f64::max)
    };
    let weights: Vec<f64> = (0..gram.d_input()).map(widest).collect();
    let factor = |(input, weight): (usize, &f64)| match (gram.peak(input), *weight) {
        (0.0, _) | (_, 0.0) => 1.0,
        (peak, weight) => peak.powf(alpha) / weight.powf(1.0 - alpha),
    };
    let factors: Vec<f64> = weights.iter().enumerate().map(factor).collect();
    let largest = |weights: &mut dyn Iterator<Item = f64>| weights.fold(0.0, f64::max);
    let before = largest(&mut weights.iter().copied());
    let after = largest(&mut weights.iter().zip(&factors).map(|(w, s)| w * s));
    let whole = if after > 0.0 { before / after } else { 1.0 };
    Ok(factors.iter().map(|s| (s * whole) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With alpha at a half, inputs and weights end as large as each other in every channel, up to one factor for all.
    #[test]
    fn both_sides_get_their_share() {
        let weights = Matrix::new(3, 2, vec![0.5, -0.25, 0.01, 0.04, 0.2, 0.1]).unwrap();
        let mut gram = Gram::new(3);
        gram.add(&[0.5, 8.0, -1.0, -2.0, 16.0, 0.25]).unwrap();
        let s = smoothing(&[&weights], &gram, 0.5).unwrap();
        let ratios: Vec<f64> = [(2.0, 0.5), (16.0, 0.04), (1.0, 0.2)]
            .into_iter()
            .zip(&s)
            .map(|((x, w), s)| (x / f64::from(*s)) / (w * f64::from(*s)))
            .collect();
        for ratio in &ratios {
            assert!((ratio / ratios[0] - 1.0).abs() < 1e-5, "{ratios:?}");
        }
        let largest = |i: usize| [0.5, 0.04, 0.2][i] * s[i];
        let most = (0..3).map(largest).fold(0.0, f32::max);
        assert!((most - 0.5).abs() < 1e-6);
        // At 1 the inputs become alike, at 0 the weights.
        let s = smoothing(&[&weights], &gram, 1.0).unwrap();
        assert!((2.0 / s[0] - 16.0 / s[1]).abs() < 1e-4);
        let s = smoothing(&[&weights], &gram, 0.0).unwrap();
        assert!((0.5 * s[0] - 0.04 * s[1]).abs() < 1e-6);
    }

    /// What has no size on one side is left, and divides nothing by zero; two layers share one s.
    #[test]
    fn channels_without_a_size_are_left() {
        let first = Matrix::new(3, 1, vec![1.0, 0.0, 1.0]).unwrap();
        let second = Matrix::new(3, 1, vec![4.0, 0.0, 1.0]).unwrap();
        let mut gram = Gram::new(3);
        gram.add(&[1.0, 5.0, 0.0]).unwrap();
        let s = smoothing(&[&first, &second], &gram, 0.5).unwrap();
        assert!(s.iter().all(|s| s.is_finite() && *s > 0.0));
        assert_eq!(s[1], s[2]);
        assert!(smoothing(&[&first], &Gram::new(3), 0.5).is_err());
    }
}
