use super::*;
use crate::toy;

#[test]
fn the_full_rank_is_the_matrix() {
    let weights = toy::weights(12, 7, 1);
    let gram = toy::correlated(12, 100, &[2], 2);
    for spectrum in [
        Spectrum::plain(&weights).unwrap(),
        Spectrum::whitened(&weights, &gram, 0.001).unwrap(),
    ] {
        let back = spectrum.truncate(7).unwrap().product();
        for (before, after) in weights.values().iter().zip(back) {
            // Factors are rounded to single precision.
            assert!((before - after).abs() < 1e-5, "{before} {after}");
        }
    }
}

#[test]
fn whitening_has_less_output_error_at_every_rank() {
    let weights = toy::weights(48, 32, 3);
    let gram = toy::correlated(48, 800, &[4, 30], 4);
    let plain = Spectrum::plain(&weights).unwrap();
    let whitened = Spectrum::whitened(&weights, &gram, 1e-6).unwrap();
    for rank in [1, 4, 12, 24] {
        let error = |spectrum: &Spectrum| {
            let after = spectrum.truncate(rank).unwrap().product();
            gram.output_error(&weights, &weights.like(after))
        };
        let (plain, whitened) = (error(&plain), error(&whitened));
        assert!(whitened < 0.9 * plain, "rank {rank}: {whitened} {plain}");
    }
}

/// The error of a whitened cut is what its singular values say: the sum of the squares that were cut off.
#[test]
fn what_is_cut_off_is_what_is_lost() {
    let weights = toy::weights(20, 16, 5);
    let gram = toy::correlated(20, 300, &[], 6);
    let spectrum = Spectrum::whitened(&weights, &gram, 1e-9).unwrap();
    let after = weights.like(spectrum.truncate(6).unwrap().product());
    let lost: f64 = spectrum.values()[6..]
        .iter()
        .map(|value| value * value)
        .sum();
    let error = gram.output_error(&weights, &after) * gram.tokens() as f64;
    assert!((error / lost - 1.0).abs() < 1e-4, "{error} {lost}");
}

#[test]
fn ranks_keep_to_the_budget_and_go_where_they_count() {
    // A layer of rank 2 in all but name, beside one of full rank.
    let thin = {
        let (a, b) = (toy::weights(64, 2, 7), toy::weights(2, 64, 8));
        let product = LowRank {
            first: a,
            second: b,
        };
        Matrix::new(64, 64, product.product()).unwrap()
    };
    let layers = [
        Spectrum::plain(&thin).unwrap(),
        Spectrum::plain(&toy::weights(64, 64, 9)).unwrap(),
    ];
    let ranks = allocate(&layers, 0.4).unwrap();
    assert_eq!(ranks[0], Some(2));
    let rich = ranks[1].unwrap();
    assert!(rich > 15, "{rich}");
    assert!((2 + rich) * 128 <= (0.4 * 2.0 * 64.0 * 64.0) as usize);
}

#[test]
fn a_layer_is_left_whole_where_factors_would_not_be_smaller() {
    let layers = [
        Spectrum::plain(&toy::weights(16, 16, 1)).unwrap(),
        Spectrum::plain(&toy::weights(16, 16, 2)).unwrap(),
    ];
    assert_eq!(allocate(&layers, 0.999).unwrap()[0], None);
    assert!(layers[0].largest_rank() * 32 < 16 * 16);
}

#[test]
fn bad_ranks_and_budgets_are_refused() {
    let spectrum = Spectrum::plain(&toy::weights(4, 3, 1)).unwrap();
    assert_eq!(
        spectrum.truncate(4).unwrap_err().to_string(),
        "rank is 4, but must lie in [1, 3]"
    );
    assert!(spectrum.truncate(0).is_err());
    assert_eq!(
        allocate(&[spectrum], 1.0).unwrap_err().to_string(),
        "`keep` is 1, but must lie in (0, 1)"
    );
    let weights = toy::weights(4, 3, 1);
    assert!(matches!(
        Spectrum::whitened(&weights, &Gram::new(4), 0.01),
        Err(MethodError::NoTokens)
    ));
}
