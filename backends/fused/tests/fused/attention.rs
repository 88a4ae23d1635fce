//! Attention under every mask: the kernel against its equation, by hand, by finite differences, and causality to the bit.

use burn::tensor::Tensor;
use kiln_fused::{self as fused, AttentionMask, WeightDropout, reference};

use crate::common::{
    assert_close, bits, compare, device, gradients, on_flex, random, values, window,
};

#[test]
fn attention() {
    if !on_flex() {
        return;
    }
    for [batch, seq, heads, d_head] in [
        [1, 1, 1, 1],
        [2, 3, 2, 5],
        [2, 64, 4, 32],
        [1, 65, 3, 8],
        [1, 200, 1, 16],
    ] {
        let packed = random([batch, seq, 3 * heads * d_head], 13);
        compare!(
            format!("attention {batch} {seq} {heads} {d_head}"),
            [packed],
            fused::attention(packed.clone(), heads, AttentionMask::Causal),
            reference::attention(packed.clone(), heads, AttentionMask::Causal)
        );
    }
}

/// Windows shorter than a block, as long and longer, that end inside a block and on its edge; sinks that reach past a window,
/// past a block and past the sequence.
#[test]
fn attention_with_other_masks() {
    if !on_flex() {
        return;
    }
    for (seq, mask) in [
        (1, AttentionMask::Full),
        (130, AttentionMask::Full),
        (1, window(1, 0)),
        (40, window(1, 0)),
        (40, window(7, 3)),
        (40, window(3, 7)),
        (40, window(100, 4)),
        (40, window(4, 100)),
        (64, window(64, 0)),
        (65, window(64, 0)),
        (200, window(16, 0)),
        (200, window(16, 4)),
        (200, window(65, 70)),
        (200, window(128, 1)),
        (321, window(33, 5)),
    ] {
        let (batch, heads, d_head) = (2, 2, 8);
        let packed = random([batch, seq, 3 * heads * d_head], 17);
        compare!(
            format!("{mask:?} {seq}"),
            [packed],
            fused::attention(packed.clone(), heads, mask),
            reference::attention(packed.clone(), heads, mask)
        );
    }
}

/// Queries of zero weigh all they see alike, so that outputs are means of values.
#[test]
fn masks_by_hand() {
    if !on_flex() {
        return;
    }
    let values_of = |mask| {
        let packed = [1.0, 2.0, 4.0, 8.0, 16.0].map(|v| [[0.0], [1.0], [v]].concat());
        let packed = Tensor::<1>::from_floats(packed.concat().as_slice(), &device());
        let packed = packed.reshape([1, 5, 3]);
        let found = values(fused::attention(packed.clone(), 1, mask));
        assert_close(
            "reference",
            reference::attention(packed.clone(), 1, mask),
            fused::attention(packed, 1, mask),
        );
        found
    };
    for (mask, expected) in [
        (AttentionMask::Full, [6.2; 5]),
        (AttentionMask::Causal, [1.0, 1.5, 7.0 / 3.0, 3.75, 6.2]),
        (window(2, 0), [1.0, 1.5, 3.0, 6.0, 12.0]),
        (window(2, 1), [1.0, 1.5, 7.0 / 3.0, 13.0 / 3.0, 25.0 / 3.0]),
    ] {
        for (found, exact) in values_of(mask).into_iter().zip(expected) {
            assert!((found - exact).abs() < 1e-5, "{mask:?}: {found} {exact}");
        }
    }
}

#[test]
#[should_panic(expected = "a window of 0 sees no key")]
fn a_window_of_nothing_is_refused() {
    fused::attention(random([1, 2, 3], 1), 1, window(0, 1));
}

/// Changing position t leaves every output before t as it was, to the bit.
#[test]
fn attention_is_causal_to_the_bit() {
    if !on_flex() {
        return;
    }
    for mask in [AttentionMask::Causal, window(70, 3), window(20, 0)] {
        check_causal(mask);
    }
}

fn check_causal(mask: AttentionMask) {
    let [batch, seq, heads, d_head] = [2, 150, 2, 16];
    let width = 3 * heads * d_head;
    let x = random([batch, seq, width], 15);
    let before = bits(fused::attention(x.clone(), heads, mask));
    for t in [0, 1, 63, 64, 65, 149] {
        let changed = x.clone().slice_assign(
            [0..batch, t..t + 1, 0..width],
            random([batch, 1, width], 16 + t as u64),
        );
        let after = bits(fused::attention(changed, heads, mask));
        let row = heads * d_head;
        for b in 0..batch {
            let start = b * seq * row;
            let (same, other) = (
                start..start + t * row,
                start + t * row..start + (t + 1) * row,
            );
            assert_eq!(before[same.clone()], after[same], "before {t}");
            assert_ne!(before[other.clone()], after[other], "at {t}");
        }
    }
}

/// Central differences of a double-precision attention, independent of the reference.
#[test]
fn attention_gradient_by_finite_differences() {
    if !on_flex() {
        return;
    }
    check_gradient(AttentionMask::Causal, |i| (0..=i).collect());
    check_gradient(AttentionMask::Full, |_| (0..5).collect());
    check_gradient(window(2, 1), |i| match i {
        0 | 1 => (0..=i).collect(),
        _ => vec![0, i - 1, i],
    });
}

fn check_gradient(mask: AttentionMask, seen: fn(usize) -> Vec<usize>) {
    let [seq, heads, d_head] = [5, 2, 3];
    let d_model = heads * d_head;
    let packed = random([1, seq, 3 * d_model], 50).require_grad();
    let weights: Vec<f64> = values(random([1, seq, d_model], 99))
        .into_iter()
        .map(f64::from)
        .collect();
    let grads = gradients(&fused::attention(packed.clone(), heads, mask));
    let found = values(packed.grad(&grads).unwrap());
    let x: Vec<f64> = values(packed).into_iter().map(f64::from).collect();
    let loss = |x: &[f64]| -> f64 {
        let at = |i: usize, part: usize, h: usize, c: usize| {
            x[(i * 3 + part) * d_model + h * d_head + c]
        };
        let mut total = 0.0;
        for h in 0..heads {
            for i in 0..seq {
                let e: Vec<f64> = seen(i)
                    .into_iter()
                    .map(|j| {
                        let dot: f64 = (0..d_head).map(|c| at(i, 0, h, c) * at(j, 1, h, c)).sum();
                        (dot / (d_head as f64).sqrt()).exp()
                    })
                    .collect();
                let norm: f64 = e.iter().sum();
                for c in 0..d_head {
                    let weighted = e.iter().zip(seen(i)).map(|(e, j)| e * at(j, 2, h, c));
                    let mixed = weighted.sum::<f64>() / norm;
                    total += weights[i * d_model + h * d_head + c] * mixed;
                }
            }
        }
        total
    };
    for i in 0..x.len() {
        let shifted = |by: f64| {
            let mut x = x.clone();
            x[i] += by;
            loss(&x)
        };
        let exact = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
        assert!(
            (f64::from(found[i]) - exact).abs() < 1e-5,
            "[{i}]: {} instead of {exact}",
            found[i]
        );
    }
}

/// Weights are multiplied where their rows still sum to one, under every mask.
#[test]
fn dropout_multiplies_weights_after_the_softmax() {
    let dropout = |probability| WeightDropout::seeded(probability, [9, 4], &device());
    let packed = random([2, 33, 3 * 2 * 8], 23);
    for mask in [AttentionMask::Causal, AttentionMask::Full, window(7, 3)] {
        let plain = fused::attention(packed.clone(), 2, mask);
        let none = fused::attention_with_dropout(packed.clone(), 2, mask, dropout(0.0));
        assert_close("a probability of zero", none, plain);
        let factors = dropout(0.4).factors([2, 2, 33, 33]);
        let by_hand = reference::attend(reference::unpack(packed.clone(), 2), mask, |weights| {
            let sums = weights.clone().sum_dim(3) - 1.0;
            assert!(values(sums).iter().all(|sum| sum.abs() < 1e-5));
            weights * factors
        });
        let found = fused::attention_with_dropout(packed.clone(), 2, mask, dropout(0.4));
        assert_close("dropout", found, by_hand);
    }
}
