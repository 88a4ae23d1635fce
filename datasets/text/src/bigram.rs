//! The baseline: predict the next token from the one before it, by counting.
//!
//! p(b | a) = (n(a, b) + k u(b)) / (n(a) + k), with u(b) = (n(b) + 1) / (N + V)
//!
//! n counts the train split of N tokens, V is the vocabulary size. The unigram distribution u acts as k extra
//! observations after every token (a Dirichlet prior), so every token keeps a probability above zero. The
//! concentration k is chosen from a small grid by the loss on the validation split, on which the result is then
//! reported: the baseline gets the benefit of the doubt. A model with more context has to be below it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::store::TokenStore;

/// Values tried for the concentration k.
pub const CONCENTRATIONS: [f64; 8] = [0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5];

/// Counts of a train split.
#[derive(Debug, Clone)]
pub struct Bigram {
    /// n(b), indexed by token.
    unigrams: Vec<u64>,
    /// n(a), the occurrences that have a successor.
    contexts: Vec<u64>,
    /// n(a, b), of the pairs that occur.
    pairs: HashMap<(u32, u32), u64>,
    tokens: u64,
}

/// How well the baseline predicts a split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BigramReport {
    /// The concentration that was best.
    pub concentration: f64,
    /// Mean loss over every token but the first, in nats.
    pub nats_per_token: f64,
    /// The same per byte of text, in bits.
    pub bits_per_byte: f64,
    /// Number of tokens predicted.
    pub tokens: u64,
}

impl Bigram {
    /// Counts `train`.
    pub fn fit(train: &TokenStore) -> Self {
        let mut unigrams = vec![0; train.vocab_size() as usize];
        train
            .pieces()
            .flatten()
            .for_each(|token| unigrams[token as usize] += 1);
        let pairs = count_pairs(train);
        let mut contexts = vec![0; unigrams.len()];
        pairs
            .iter()
            .for_each(|((token, _), count)| contexts[*token as usize] += count);
        Self {
            unigrams,
            contexts,
            pairs,
            tokens: train.len(),
        }
    }

    /// p(`token` | `context`).
    pub fn probability(&self, context: u32, token: u32, concentration: f64) -> f64 {
        let vocabulary = self.unigrams.len() as f64;
        let unigram =
            (self.unigrams[token as usize] + 1) as f64 / (self.tokens as f64 + vocabulary);
        let pair = self.pairs.get(&(context, token)).copied().unwrap_or(0) as f64;
        (pair + concentration * unigram) / (self.contexts[context as usize] as f64 + concentration)
    }

    /// Loss on `split` with the best of [`CONCENTRATIONS`]; none for a split of fewer than two tokens.
    ///
    /// # Panics
    /// If the vocabulary of `split` is larger than the counted one.
    pub fn evaluate(&self, split: &TokenStore) -> Option<BigramReport> {
        let tokens = split.len().checked_sub(1).filter(|tokens| *tokens > 0)?;
        // Sorted, so that the sum does not depend on the order of a hash map.
        let mut pairs: Vec<_> = count_pairs(split).into_iter().collect();
        pairs.sort_unstable();
        let loss = |concentration| {
            let nats = |((context, token), count): &((u32, u32), u64)| {
                -self.probability(*context, *token, concentration).ln() * *count as f64
            };
            pairs.iter().map(nats).sum::<f64>() / tokens as f64
        };
        let losses = CONCENTRATIONS.map(|concentration| (loss(concentration), concentration));
        let (nats_per_token, concentration) =
            losses.into_iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
        let bits_per_byte = split.bits_per_byte(nats_per_token);
        Some(BigramReport {
            concentration,
            nats_per_token,
            bits_per_byte,
            tokens,
        })
    }
}

fn count_pairs(store: &TokenStore) -> HashMap<(u32, u32), u64> {
    let mut pairs = HashMap::new();
    let mut previous = None;
    for token in store.pieces().flatten() {
        if let Some(previous) = previous.replace(token) {
            *pairs.entry((previous, token)).or_insert(0) += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(tokens: &[u32], vocab_size: u32) -> TokenStore {
        TokenStore::from_tokens(tokens.to_vec(), 2 * tokens.len() as u64, vocab_size).unwrap()
    }

    #[test]
    fn worked_by_hand() {
        let bigram = Bigram::fit(&store(&[0, 1, 0, 1, 1], 3));
        // n(0, 1) = 2, n(0) = 2, u(1) = (3 + 1) / (5 + 3).
        assert!((bigram.probability(0, 1, 2.0) - (2.0 + 2.0 * 0.5) / 4.0).abs() < 1e-12);
        // An unseen context falls back to the unigram distribution.
        assert!((bigram.probability(2, 1, 2.0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn probabilities_sum_to_one() {
        let bigram = Bigram::fit(&store(&[0, 1, 2, 1, 0, 3, 3], 5));
        for (context, concentration) in [(0, 0.01), (1, 1.0), (4, 100.0)] {
            let sum: f64 = (0..5)
                .map(|token| bigram.probability(context, token, concentration))
                .sum();
            assert!((sum - 1.0).abs() < 1e-12, "{sum}");
        }
    }

    #[test]
    fn a_deterministic_cycle_is_learned_and_noise_is_not() {
        let cycle: Vec<u32> = (0..3000).map(|i| i % 3).collect();
        let report = Bigram::fit(&store(&cycle, 3))
            .evaluate(&store(&cycle, 3))
            .unwrap();
        assert!(
            report.nats_per_token < 1e-4 && report.concentration == 0.01,
            "{report:?}"
        );
        assert_eq!(report.tokens, 2999);
        let mixed: Vec<u32> = (0u64..40_000)
            .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62) as u32)
            .collect();
        let noise: Vec<u32> = mixed
            .iter()
            .enumerate()
            .map(|(i, t)| (t + (i as u32 / 7) * 3 + (i as u32 / 31)) % 4)
            .collect();
        let report = Bigram::fit(&store(&noise[..20_000], 4))
            .evaluate(&store(&noise[20_000..], 4))
            .unwrap();
        assert!(
            report.nats_per_token > 0.5 && report.nats_per_token < 4f64.ln() + 0.05,
            "{report:?}"
        );
        assert!(
            Bigram::fit(&store(&cycle, 3))
                .evaluate(&store(&[1], 3))
                .is_none()
        );
    }
}
