//! Initial energies of mixers that read a resolvent (H - z)^-1.

/// Initial (Re z, Im z) of every head: Re z spaced evenly over `energy`, Im z evenly in the logarithm over `eta`.
///
/// Widths are dealt out in golden-ratio order, so that neighbouring energies get widths far apart: each band has long and
/// short range. A single head stands in the middle of both.
pub fn spread_energies(heads: usize, energy: [f64; 2], eta: [f64; 2]) -> Vec<(f64, f64)> {
    let spread = |i: usize| match heads {
        1 => 0.5,
        _ => i as f64 / (heads - 1) as f64,
    };
    let mut order: Vec<usize> = (0..heads).collect();
    order.sort_by(|&a, &b| {
        let key = |i: usize| (i as f64 * 0.618_033_988_749_895).fract();
        key(a).total_cmp(&key(b))
    });
    let [low, high] = energy;
    let [narrow, wide] = eta.map(f64::ln);
    (0..heads)
        .map(|i| {
            (
                low + (high - low) * spread(i),
                (narrow + (wide - narrow) * spread(order[i])).exp(),
            )
        })
        .collect()
}

/// x with ln(1 + e^x) = y, for y > 0: the raw value of a parameter that softplus keeps positive.
pub fn inverse_softplus(y: f64) -> f64 {
    y + (-(-y).exp_m1()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverse_softplus_inverts() {
        for y in [1e-6, 0.019, 1.0, 30.0] {
            let x = inverse_softplus(y);
            let back = if x > 30.0 { x } else { x.exp().ln_1p() };
            assert!(
                (back - y).abs() <= 1e-12 + 1e-9 * y,
                "{y} came back as {back}"
            );
        }
    }

    #[test]
    fn energies_are_spread_and_one_head_is_the_middle() {
        let z = spread_energies(5, [-1.8, 1.8], [0.1, 2.0]);
        assert_eq!((z[0].0, z[4].0), (-1.8, 1.8));
        let mut etas: Vec<f64> = z.iter().map(|z| z.1).collect();
        etas.sort_by(f64::total_cmp);
        assert!((etas[0] - 0.1).abs() < 1e-12 && (etas[4] - 2.0).abs() < 1e-12);
        assert_eq!(spread_energies(1, [0.0, 0.0], [1.0, 1.0]), [(0.0, 1.0)]);
    }
}
