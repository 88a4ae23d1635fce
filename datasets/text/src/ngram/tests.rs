//! Small texts by hand, the definition by brute force, and what a longer context is worth.

use std::collections::{HashMap, HashSet};

use super::*;
use crate::bigram::Bigram;

fn store(tokens: &[u32], vocab_size: u32) -> TokenStore {
    TokenStore::from_tokens(tokens.to_vec(), 2 * tokens.len() as u64, vocab_size).unwrap()
}

/// Numbers below `vocab` without a pattern: a linear congruential generator's high bits.
fn noise(count: usize, vocab: u32, seed: u64) -> Vec<u32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % u64::from(vocab)) as u32
        })
        .collect()
}

/// 0 1 0 1 1 with three tokens in the vocabulary. Before 0 stand the beginning and 1, before 1 stand 0 and 1: c(0) = c(1) = 2,
/// and p(0) = p(1) = (2 - 1 + 2 / 3) / 4 = 10/24, p(2) = 4/24. After 0 comes 1 twice: p(1 | 0) = (2 - 1 + 10/24) / 2. After 1
/// come 0 and 1 once each, which frees 1/2 + 1/2: p(0 | 1) = (1 - 1/2 + 10/24) / 2.
#[test]
fn worked_by_hand() {
    let ngram = Ngram::fit(&store(&[0, 1, 0, 1, 1], 3), 2).unwrap();
    for (context, expected) in [
        (&[0][..], [5.0, 17.0, 2.0]),
        (&[1][..], [11.0, 11.0, 2.0]),
        (&[2][..], [10.0, 10.0, 4.0]),
        (&[][..], [10.0, 10.0, 4.0]),
        (&[1, 1, 0][..], [5.0, 17.0, 2.0]),
    ] {
        for (token, expected) in (0..).zip(expected) {
            let found = ngram.probability(context, token);
            assert!(
                (found - expected / 24.0).abs() < 1e-12,
                "{context:?} {token}: {found}"
            );
        }
    }
    // 1, 0, 1, 1 after 0: -ln(17/24 * 11/24 * 17/24 * 11/24) over four tokens.
    let report = ngram.evaluate(&store(&[0, 1, 0, 1, 1], 3)).unwrap();
    let exact = -(17.0_f64 / 24.0 * 11.0 / 24.0).ln() / 2.0;
    assert!((report.nats_per_token - exact).abs() < 1e-12, "{report:?}");
    assert_eq!((report.order, report.tokens), (2, 4));
    // Two bytes a token.
    let bits = exact / std::f64::consts::LN_2 / 2.0;
    assert!((report.bits_per_byte - bits).abs() < 1e-12, "{report:?}");
}

/// Y = 4 / (4 + 2 * 2) = 1/2; then 1 - 2/2 * 2/4, 2 - 3/2 * 1/2, 3 - 4/2 * 1/1.
#[test]
fn discounts_by_hand() {
    assert_eq!(discounts_of([4, 2, 1, 1]), [0.5, 1.25, 1.0]);
    // Nothing occurs once, nothing four times, or more grams occur twice than once allows for.
    for counts in [[0, 3, 2, 1], [9, 4, 2, 0], [0; 4], [1, 1, 9, 1]] {
        assert_eq!(discounts_of(counts), FALLBACK, "{counts:?}");
    }
}

#[test]
fn probabilities_sum_to_one() {
    let mut text = noise(400, 5, 1);
    text.extend((0..100).map(|i| i % 3));
    for order in 1..=5 {
        let ngram = Ngram::fit(&store(&text, 7), order).unwrap();
        for context in [&[][..], &[0], &[6], &[1, 2, 0], &[6, 6, 1, 2], &text[..9]] {
            let all: Vec<f64> = (0..7).map(|w| ngram.probability(context, w)).collect();
            let sum: f64 = all.iter().sum();
            assert!((sum - 1.0).abs() < 1e-12, "{order} {context:?}: {sum}");
            assert!(all.iter().all(|p| *p > 0.0), "{order} {context:?}: {all:?}");
        }
    }
}

/// The definition, from sets of whole grams.
struct BruteForce<'a> {
    text: &'a [u32],
    order: usize,
    vocab: u32,
}

impl BruteForce<'_> {
    /// c of every gram of a length.
    fn counts(&self, length: usize) -> HashMap<&[u32], u64> {
        let grams = self.text.windows(length);
        let mut counts = HashMap::new();
        if length == self.order {
            grams.for_each(|gram| *counts.entry(gram).or_insert(0) += 1);
            return counts;
        }
        let before = |at: usize| at.checked_sub(1).map(|at| self.text[at]);
        let different: HashSet<_> = grams
            .enumerate()
            .map(|(at, gram)| (before(at), gram))
            .collect();
        for (_, gram) in different {
            *counts.entry(gram).or_insert(0) += 1;
        }
        counts
    }

    fn probability(&self, context: &[u32], token: u32) -> f64 {
        let counts = self.counts(context.len() + 1);
        let shorter = match context {
            [] => 1.0 / f64::from(self.vocab),
            [_, rest @ ..] => self.probability(rest, token),
        };
        let n = [1, 2, 3, 4].map(|k| counts.values().filter(|c| **c == k).count() as u64);
        let discount = |count: u64| discounts_of(n)[count.min(3) as usize - 1];
        let (mut total, mut kept, mut freed) = (0.0, 0.0, 0.0);
        for (gram, &count) in counts.iter().filter(|(gram, _)| gram.starts_with(context)) {
            total += count as f64;
            freed += discount(count);
            if gram[context.len()] == token {
                kept = count as f64 - discount(count);
            }
        }
        match total {
            0.0 => shorter,
            _ => (kept + freed * shorter) / total,
        }
    }
}

#[test]
fn equals_the_definition() {
    // Skewed, so that counts of counts give discounts at some lengths and none at others.
    let text: Vec<u32> = noise(300, 8, 3).iter().map(|x| x * x / 10).collect();
    let [vocab, order] = [6, 4];
    let ngram = Ngram::fit(&store(&text, vocab), order as usize).unwrap();
    let brute = BruteForce {
        text: &text,
        order: order as usize,
        vocab,
    };
    let mut fitted = 0;
    for length in 1..=4 {
        let counts = brute.counts(length);
        let n = [1, 2, 3, 4].map(|k| counts.values().filter(|c| **c == k).count() as u64);
        fitted += usize::from(discounts_of(n) != FALLBACK);
    }
    assert!((1..4).contains(&fitted), "{fitted} lengths have discounts");
    for at in 0..60 {
        let context = &text[at..at + at % 4];
        for token in 0..vocab {
            let (found, exact) = (
                ngram.probability(context, token),
                brute.probability(context, token),
            );
            assert!(
                (found - exact).abs() < 1e-12,
                "{context:?} {token}: {found} {exact}"
            );
        }
    }
}

/// The next token follows from the third last, but for one in eight.
#[test]
fn order_is_worth_what_the_text_remembers() {
    let mut text = vec![0, 1, 2];
    for (i, random) in noise(40_000, 4, 5).into_iter().enumerate() {
        let next = (text[i] + 1) % 4;
        text.push(if random == 0 && i % 2 == 0 {
            (next + 1 + i as u32 % 3) % 4
        } else {
            next
        });
    }
    let (train, held_out) = (store(&text[..30_000], 4), store(&text[30_000..], 4));
    let bigram = Bigram::fit(&train).evaluate(&held_out).unwrap();
    let nats = |order| {
        let report = Ngram::fit(&train, order).unwrap().evaluate(&held_out);
        report.unwrap().nats_per_token
    };
    assert!((nats(2) / bigram.nats_per_token - 1.0).abs() < 0.01);
    // One token of context tells next to nothing; three tell all there is, H(1/8) + ln(3)/8 = 0.51 at most.
    assert!(nats(2) > 1.0 && nats(3) > 1.0, "{} {}", nats(2), nats(3));
    assert!(nats(4) < 0.53, "{}", nats(4));
}

#[test]
fn the_order_is_lowered_to_what_fits() {
    let train = store(&noise(1000, 10, 7), 10);
    let whole = Ngram::fit(&train, 5).unwrap();
    assert_eq!(whole.order(), 5);
    // 10 grams of one token, 100 of two with 10 contexts, and some 600 of three.
    for (most, expected) in [(500, 2), (120, 2), (119, 1), (0, 1)] {
        let ngram = Ngram::fit_within(&train, 5, most).unwrap();
        assert_eq!(ngram.order(), expected, "{most}");
        let report = ngram.evaluate(&train).unwrap();
        assert_eq!(report.order, expected);
    }
}

#[test]
fn texts_and_orders_of_nothing() {
    let error = Ngram::fit(&store(&[1, 2], 3), 0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "an n-gram model of order 0 counts nothing: use an order of at least 1"
    );
    let empty = Ngram::fit(&store(&[], 4), 3).unwrap();
    assert_eq!(empty.probability(&[1, 2], 3), 0.25);
    assert_eq!(empty.evaluate(&store(&[1], 4)), None);
}
