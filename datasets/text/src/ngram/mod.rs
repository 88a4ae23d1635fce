//! The stronger baseline: an n-gram model with interpolated modified Kneser-Ney smoothing (Kneser & Ney 1995; Chen & Goodman
//! 1999, section 3).
//!
//! ```text
//! p(w | h) = (max(c(h w) - D(c(h w)), 0) + (D_1 N_1(h) + D_2 N_2(h) + D_3 N_3+(h)) p(w | h')) / sum_w c(h w)
//! ```
//! h' is h without its oldest token, and 1/V stands for p below the empty context. c counts occurrences where h has n - 1
//! tokens; where it is shorter, the different tokens before h w, so that a token which follows one other only is not taken for a
//! frequent one. N_k(h) is the number of tokens w with c(h w) = k. The discounts of each length follow from the numbers n_k of
//! its grams of count k:
//! ```text
//! Y = n_1 / (n_1 + 2 n_2),   D_k = k - (k + 1) Y n_{k+1} / n_k   for k = 1, 2 and, for all larger counts, 3
//! ```
//! or are 1/2, 1 and 3/2 where a text is too small or too regular for that, as in KenLM (Heafield 2011).

mod counts;

use serde::{Deserialize, Serialize};

use self::counts::{Counts, EMPTY, Past};
use crate::error::DataError;
use crate::store::TokenStore;

/// Grams and contexts that a model may hold: below 40 bytes each while a table grows, so at most about 600 MB.
pub const MOST_ENTRIES: usize = 1 << 24;

/// Discounts where counts of counts give none.
const FALLBACK: [f64; 3] = [0.5, 1.0, 1.5];

/// An n-gram model of a train split.
#[derive(Debug, Clone)]
pub struct Ngram {
    order: usize,
    vocab_size: u32,
    counts: Counts,
    /// Of counts one, two, and three or more, by the length of the context.
    discounts: Vec<[f64; 3]>,
}

/// How well an n-gram model predicts a split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NgramReport {
    /// Tokens of the longest gram.
    pub order: usize,
    /// Mean loss over every token but the first, in nats.
    pub nats_per_token: f64,
    /// The same per byte of text, in bits.
    pub bits_per_byte: f64,
    /// Number of tokens predicted.
    pub tokens: u64,
}

impl Ngram {
    /// Counts `train` up to grams of `order` tokens, or of fewer where those would be more than [`MOST_ENTRIES`] with their
    /// contexts; [`Ngram::order`] says how many. Takes a look-up for each token and length.
    ///
    /// # Errors
    /// [`DataError::NgramOrder`] if `order` is 0.
    pub fn fit(train: &TokenStore, order: usize) -> Result<Self, DataError> {
        Self::fit_within(train, order, MOST_ENTRIES)
    }

    fn fit_within(train: &TokenStore, order: usize, most: usize) -> Result<Self, DataError> {
        let counted = (1..=order).rev().find_map(|order| {
            // One length is the least there is; its table is no larger than the vocabulary.
            let most = if order == 1 { usize::MAX } else { most };
            Some((order, Counts::new(train, order, most)?))
        });
        let (order, counts) = counted.ok_or(DataError::NgramOrder { order })?;
        let discounts = counts.counts_of_counts(order);
        Ok(Self {
            order,
            vocab_size: train.vocab_size(),
            discounts: discounts.into_iter().map(discounts_of).collect(),
            counts,
        })
    }

    /// Tokens of the longest gram: what was asked for, or less where that would not fit.
    pub fn order(&self) -> usize {
        self.order
    }

    /// Counts of grams that are kept, of all lengths.
    pub fn counts(&self) -> u64 {
        self.counts.grams()
    }

    /// Counts and the contexts that they are of.
    pub fn entries(&self) -> u64 {
        self.counts.grams() + self.counts.contexts()
    }

    /// p(`token` | `context`), of which the last order - 1 tokens count.
    pub fn probability(&self, context: &[u32], token: u32) -> f64 {
        let newest_first = context.iter().rev().copied();
        self.predict(newest_first.take(self.order - 1), token)
    }

    /// From the empty context to the longest that occurs, each smoothed by the one before.
    fn predict(&self, newest_first: impl Iterator<Item = u32>, token: u32) -> f64 {
        let mut older = newest_first;
        let mut context = EMPTY;
        let mut p = 1.0 / f64::from(self.vocab_size);
        loop {
            let after = self.counts.successors(context);
            if after.total == 0 {
                return p; // of a text without tokens
            }
            let discounts = self.discounts[after.depth as usize];
            let kept = match self.counts.count(context, token) {
                0 => 0.0,
                count => f64::from(count) - discounts[count.min(3) as usize - 1],
            };
            let freed = discounts.iter().zip(after.kinds);
            let freed: f64 = freed
                .map(|(discount, kind)| discount * f64::from(kind))
                .sum();
            p = (kept + freed * p) / after.total as f64;
            match older
                .next()
                .and_then(|older| self.counts.longer(context, older))
            {
                Some(longer) => context = longer,
                None => return p,
            }
        }
    }

    /// Loss on `split`; none for a split of fewer than two tokens. The first tokens are predicted from what stands before them.
    pub fn evaluate(&self, split: &TokenStore) -> Option<NgramReport> {
        let tokens = split.len().checked_sub(1).filter(|tokens| *tokens > 0)?;
        let mut past = Past::new(self.order);
        let mut nats = 0.0;
        for (position, token) in split.pieces().flatten().enumerate() {
            if position > 0 {
                nats -= self.predict(past.newest_first(), token).ln();
            }
            past.push(token);
        }
        let nats_per_token = nats / tokens as f64;
        Some(NgramReport {
            order: self.order,
            nats_per_token,
            bits_per_byte: split.bits_per_byte(nats_per_token),
            tokens,
        })
    }
}

/// D_1, D_2 and D_3+ from n_1 to n_4. Each has to lie between nothing and the count it is taken from, so that something is left
/// and something is freed.
fn discounts_of(counts: [u64; 4]) -> [f64; 3] {
    let [n1, n2, n3, n4] = counts.map(|n| n as f64);
    let y = n1 / (n1 + 2.0 * n2);
    let discounts = [
        1.0 - 2.0 * y * n2 / n1,
        2.0 - 3.0 * y * n3 / n2,
        3.0 - 4.0 * y * n4 / n3,
    ];
    let usable = |(k, discount): (usize, &f64)| *discount > 0.0 && *discount < (k + 1) as f64;
    match discounts.iter().enumerate().all(usable) {
        true => discounts,
        false => FALLBACK,
    }
}

#[cfg(test)]
mod tests;
