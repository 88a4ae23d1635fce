use proptest::prelude::*;

use super::*;
use crate::prune::{self, Pattern};
use crate::{Gram, toy};

const GRID: Grid = Grid {
    bits: 4,
    symmetric: false,
};

fn config(group: usize, act_order: bool) -> GptqConfig {
    GptqConfig {
        grid: Grid { bits: 3, ..GRID },
        group,
        clip: Clip::None,
        damping: 0.01,
        act_order,
    }
}

fn error(gram: &Gram, weights: &Matrix, quantized: &Quantized) -> f64 {
    gram.output_error(weights, &weights.like(quantized.dequantize()))
}

/// A case worked by hand: 2 bits over [-1, 2] have the codes -1, 0, 1, 2.
#[test]
fn two_bits_of_a_known_range() {
    let weights = Matrix::new(4, 1, vec![-1.0, 0.4, 0.6, 2.0]).unwrap();
    let grid = Grid {
        bits: 2,
        symmetric: false,
    };
    let quantized = round_to_nearest(&weights, grid, 0, Clip::None).unwrap();
    assert_eq!(quantized.codes, [0, 1, 2, 3]);
    assert_eq!(
        quantized.levels,
        [Level {
            scale: 1.0,
            zero: 1
        }]
    );
    assert_eq!(quantized.dequantize(), [-1.0, 0.0, 1.0, 2.0]);
}

#[test]
fn a_clipped_range_has_less_error_where_one_weight_stands_out() {
    let mut values = toy::weights(64, 1, 1).into_values();
    values[5] = 6.0;
    let weights = Matrix::new(64, 1, values).unwrap();
    let squared = |clip| -> f64 {
        let grid = Grid { bits: 3, ..GRID };
        let after = round_to_nearest(&weights, grid, 0, clip)
            .unwrap()
            .dequantize();
        let pairs = weights.values().iter().zip(after);
        pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum()
    };
    assert!(
        squared(Clip::Mse) < 0.9 * squared(Clip::None),
        "{} {}",
        squared(Clip::Mse),
        squared(Clip::None)
    );
}

#[test]
fn gptq_has_less_output_error_than_rounding_on_correlated_inputs() {
    let weights = toy::weights(160, 48, 2);
    let gram = toy::correlated(160, 1000, &[3, 77], 3);
    for (group, act_order) in [(0, false), (32, false), (0, true), (32, true)] {
        let config = config(group, act_order);
        let plain = round_to_nearest(&weights, config.grid, group, config.clip).unwrap();
        let compensated = gptq(&weights, &gram, config).unwrap();
        let (plain, compensated) = (
            error(&gram, &weights, &plain),
            error(&gram, &weights, &compensated),
        );
        assert!(
            compensated < 0.5 * plain,
            "group {group}, act_order {act_order}: {compensated} against {plain}"
        );
    }
}

/// Blocks are a matter of speed alone: a layer wider than a block gives what one block gives, input by input.
#[test]
fn gptq_is_the_recurrence_it_says() {
    let (d_input, d_output) = (131, 3);
    let weights = toy::weights(d_input, d_output, 4);
    let gram = toy::correlated(d_input, 400, &[], 5);
    let config = config(0, false);
    let fast = gptq(&weights, &gram, config).unwrap();
    let order: Vec<usize> = (0..d_input).collect();
    let u = crate::factor::InverseFactor::new(&gram, &order, config.damping).unwrap();
    let mut rows = weights.to_f64();
    let mut differing = 0;
    for k in 0..d_input {
        for output in 0..d_output {
            let weight = rows[k * d_output + output];
            let level = fast.levels[output];
            let code = config.grid.code(level, weight, false);
            differing += usize::from(code != fast.codes[k * d_output + output]);
            let error = (weight - f64::from(level.value(code))) / u.diagonal(k);
            for later in k + 1..d_input {
                rows[later * d_output + output] -= u.values[k * d_input + later] * error;
            }
        }
    }
    // Sums in another order may move a weight over the middle between two codes, and what follows with it; none does here.
    assert_eq!(differing, 0);
}

#[test]
fn inputs_without_a_signal_are_rounded_to_nearest() {
    let weights = toy::weights(4, 2, 6);
    let mut gram = Gram::new(4);
    for row in [[1.0, 0.0, 2.0, 0.0], [0.5, 0.0, -1.0, 0.0]] {
        gram.add(&row).unwrap();
    }
    let quantized = gptq(&weights, &gram, config(0, false)).unwrap();
    let plain = round_to_nearest(&weights, config(0, false).grid, 0, Clip::None).unwrap();
    assert_eq!(quantized.codes[2..4], plain.codes[2..4]);
    assert_eq!(quantized.codes[6..8], plain.codes[6..8]);
}

#[test]
fn awq_protects_the_inputs_that_carry_most() {
    let weights = toy::weights(64, 32, 7);
    let gram = toy::correlated(64, 500, &[9, 40], 8);
    let grid = Grid { bits: 3, ..GRID };
    let plain = round_to_nearest(&weights, grid, 0, Clip::None).unwrap();
    let config = AwqConfig {
        grid,
        group: 0,
        clip: Clip::None,
    };
    let scaled = awq(&weights, &gram, config).unwrap();
    let after = gram.output_error(&weights, &weights.like(scaled.dequantize()));
    let before = error(&gram, &weights, &plain);
    assert!(after < 0.6 * before, "{after} against {before}");
    assert!(scaled.exponent > 0.0);
}

#[test]
fn zeros_stay_zero() {
    let dense = toy::weights(64, 16, 9);
    let gram = toy::correlated(64, 300, &[], 10);
    let pattern = Pattern::NofM { keep: 2, of: 4 };
    let pruned = prune::magnitude(&dense, pattern).unwrap();
    let scaled = AwqConfig {
        grid: GRID,
        group: 16,
        clip: Clip::Mse,
    };
    for after in [
        round_to_nearest(&pruned, GRID, 16, Clip::Mse)
            .unwrap()
            .dequantize(),
        gptq(&pruned, &gram, config(16, false))
            .unwrap()
            .dequantize(),
        gptq(&pruned, &gram, config(0, true)).unwrap().dequantize(),
        awq(&pruned, &gram, scaled).unwrap().dequantize(),
    ] {
        for (before, after) in pruned.values().iter().zip(&after) {
            assert!(*before != 0.0 || *after == 0.0);
        }
    }
}

#[test]
fn what_cannot_be_quantized_is_refused_by_name() {
    let weights = toy::weights(10, 2, 11);
    let gram = toy::correlated(10, 20, &[], 12);
    let said = |result: Result<Quantized, MethodError>| result.unwrap_err().to_string();
    assert_eq!(
        said(round_to_nearest(&weights, GRID, 4, Clip::None)),
        "number of a layer's inputs is 10, but `group` = 4 does not divide it; choose a divisor, or 0 for one scale an output"
    );
    let wide = Grid { bits: 9, ..GRID };
    assert_eq!(
        said(round_to_nearest(&weights, wide, 0, Clip::None)),
        "`bits` is 9, but must be 2, 3, 4 or 8"
    );
    assert_eq!(
        gptq(&weights, &Gram::new(10), config(0, false)).unwrap_err(),
        MethodError::NoTokens
    );
    let mut silent = Gram::new(10);
    silent.add(&[0.0; 30]).unwrap();
    assert_eq!(
        gptq(&weights, &silent, config(0, false)).unwrap_err(),
        MethodError::NoSignal { tokens: 3 }
    );
    assert!(gptq(&toy::weights(8, 2, 1), &gram, config(0, false)).is_err());
    let words = Matrix::new(1, 2, vec![1.0, f32::NAN])
        .unwrap_err()
        .to_string();
    assert!(words.starts_with("weight [0, 1] is NaN"), "{words}");
    let words = Gram::new(2).add(&[1.0, f32::INFINITY]).unwrap_err();
    assert!(
        words
            .to_string()
            .starts_with("calibration input [0, 1] is inf")
    );
    assert!(Gram::new(2).add(&[1.0]).is_err());
}

proptest! {
    /// A weight is at most half a step from its code, up to the rounding of the scale; more only beyond the last code.
    #[test]
    fn rounding_is_to_the_nearest(
        bits in prop::sample::select(vec![2_u8, 3, 4, 8]),
        symmetric: bool,
        values in proptest::collection::vec(-3.0_f32..3.0, 12),
    ) {
        let weights = Matrix::new(6, 2, values).unwrap();
        let grid = Grid { bits, symmetric };
        let quantized = round_to_nearest(&weights, grid, 3, Clip::None).unwrap();
        for (at, (before, after)) in weights.values().iter().zip(quantized.dequantize()).enumerate() {
            let level = quantized.levels[at / 2 / 3 * 2 + at % 2];
            // Half a step; and the last code may miss the end of the range by the rounding of the scale and of the zero point.
            let slack = 0.5 + 0.5 + f32::from(grid.most()) / 1024.0;
            prop_assert!((before - after).abs() <= level.scale * slack, "{before} {after}");
            prop_assert!(quantized.codes[at] <= grid.most());
        }
    }
}
