//! Elementary functions without branches, so that loops over them become vector instructions.

/// `e^x`, within 2e-7 of it relative; 1.2e-38 below -87.3 and 2.4e38 above 88.3.
///
/// `x = n ln 2 + r` with `|r| <= ln(2)/2`, then Cephes' polynomial for `e^r` and `n` into the exponent.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    const LN2_HIGH: f32 = 355.0 / 512.0; // nine bits, so that its product with n is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 88.3);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    for coefficient in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5.0e-1,
    ] {
        p = p * r + coefficient;
    }
    let e = p * (r * r) + r + 1.0;
    let power = (shifted.to_bits() << 23).wrapping_add(127 << 23);
    e * f32::from_bits(power)
}

/// `1 / (1 + e^-x)`
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `tanh x`, within 5e-7 of it relative: Cephes' odd polynomial near zero, `1 - 2 / (e^2x + 1)` elsewhere.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let z = x * x;
    let mut p = -5.704_988_7e-3;
    for coefficient in [
        2.063_908_8e-2,
        -5.373_971_6e-2,
        1.333_144_2e-1,
        -3.333_328e-1,
    ] {
        p = p * z + coefficient;
    }
    let near = p * z * x + x;
    let far = 1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0);
    if x.abs() < 0.625 {
        near
    } else {
        far.copysign(x)
    }
}

/// `Phi(x)` and `phi(x)`, distribution function and density of the standard normal.
///
/// `Phi(-|x|) = e^(-x^2/2) t P(t)` with `t = 1 / (1 + 0.35 |x|)`; P was fitted to relative error 3e-8 on [0, 14] by
/// iterated weighted least squares. `x^2` is split so that its rounding does not grow in the exponential.
#[inline(always)]
pub(super) fn normal(x: f32) -> (f32, f32) {
    const FRAC_1_SQRT_TAU: f32 = 0.398_942_3;
    let high = f32::from_bits(x.to_bits() & 0xffff_f000); // twelve bits: its square is exact
    let u = 0.5 * ((x - high) * (x + high)); // at most x^2 / 2048, small enough for three terms
    let bell = exp(-0.5 * (high * high)) * (1.0 - u * (1.0 - u * (0.5 - u * (1.0 / 6.0))));
    let t = 1.0 / (1.0 + 0.35 * x.abs());
    let mut p = -0.029_144_352;
    for coefficient in [
        0.143_964_53,
        -0.255_700_23,
        0.159_158_69,
        -0.023_099_316,
        0.105_503_514,
        0.119_834_036,
        0.139_861_7,
        0.139_621_4,
    ] {
        p = p * t + coefficient;
    }
    let tail = bell * (p * t);
    let below = if x < 0.0 { tail } else { 1.0 - tail };
    (below, FRAC_1_SQRT_TAU * bell)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(x, value)` from mpmath at 30 digits: `ncdf(x)`.
    const NORMAL: [(f32, f64); 9] = [
        (-8.0, 6.220_960_574_271_785e-16),
        (-5.0, 2.866_515_718_791_939e-7),
        (-3.0, 1.349_898_031_630_094_6e-3),
        (-1.5, 6.680_720_126_885_807e-2),
        (-0.25, 4.012_936_743_170_763e-1),
        (0.0, 0.5),
        (0.75, 7.733_726_476_231_317e-1),
        (2.0, 9.772_498_680_518_208e-1),
        (4.0, 9.999_683_287_581_669e-1),
    ];

    #[test]
    fn exp_is_within_2e_7() {
        let mut worst = 0.0_f64;
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2e-7, "{worst:e}");
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1e30) < 1.3e-38 && exp(1e30) > 2e38);
    }

    #[test]
    fn normal_is_within_1e_6() {
        for (x, exact) in NORMAL {
            let (below, density) = normal(x);
            let error = (f64::from(below) / exact - 1.0).abs();
            assert!(error < 1e-6, "Phi({x}) is off by {error:e}");
            let exact = (-0.5 * f64::from(x).powi(2)).exp() / std::f64::consts::TAU.sqrt();
            let error = (f64::from(density) / exact - 1.0).abs();
            assert!(error < 1e-6, "phi({x}) is off by {error:e}");
        }
        assert!(normal(f32::NAN).0.is_nan());
    }

    /// The derivative of `Phi` is `phi`: central differences of the f64 sum of densities between table points.
    #[test]
    fn normal_is_smooth_between_the_table_points() {
        for pair in NORMAL.windows(2) {
            let ((from, start), (to, end)) = (pair[0], pair[1]);
            let steps = 20_000;
            let width = f64::from(to - from) / f64::from(steps);
            let mut sum = start;
            for i in 0..steps {
                // Simpson's rule, exact to about 1e-16 here.
                let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
                let x = f64::from(from) + f64::from(i) * width;
                sum += width / 6.0
                    * (density(x) + 4.0 * density(x + width / 2.0) + density(x + width));
                let at = (x + width) as f32;
                // The argument itself was rounded: correct the exact value for it.
                let exact = sum + (f64::from(at) - (x + width)) * density(x + width);
                let error = (f64::from(normal(at).0) / exact - 1.0).abs();
                assert!(error < 1e-6, "Phi({at}) is off by {error:e}");
            }
            assert!(
                (sum / end - 1.0).abs() < 1e-9,
                "the integral itself: {sum} {end}"
            );
        }
    }

    #[test]
    fn tanh_is_within_5e_7() {
        for i in 0..400_000 {
            let x = i as f32 * 5e-5 + 1e-6;
            for x in [x, -x] {
                let exact = f64::from(x).tanh();
                let error = (f64::from(tanh(x)) - exact).abs() / exact.abs();
                assert!(error < 5e-7, "tanh({x}) is off by {error:e}");
            }
        }
        assert_eq!([tanh(0.0), tanh(100.0), tanh(-100.0)], [0.0, 1.0, -1.0]);
    }
}
