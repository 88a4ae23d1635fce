//! Fuzzy recall, after that of the MAD collection (Poli et al., arXiv 2403.17844, section 3): keys and values of several tokens.
//!
//! | position | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | ... |
//! | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
//! | input | k1 | k4 | v2 | k3 | v5 | v2 | k1 | k4 | ... |
//! | target | | | | | | | | v2 | |
//!
//! Every example draws `keys` different keys of one to `key_tokens` tokens, and a value of one to `value_tokens` for each; then
//! keys are drawn one after the other, each followed by its value, until the example is full. Keys and values have no token in
//! common, so where one ends is seen where the next begins. Held-out targets are the values of keys seen before; in training every
//! next token is a target.

use kiln_loader::random::below;
use kiln_loader::{Lane, Split};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Generator, TaskError, write_stream};

/// Recall of keys and values of several tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FuzzyRecall {
    /// Tokens of an example with its last one, which the model does not see.
    pub length: usize,
    /// Tokens of keys (the first half) and values (the second).
    pub vocab: usize,
    /// Different keys of an example.
    pub keys: usize,
    /// Most tokens of a key.
    pub key_tokens: usize,
    /// Most tokens of a value.
    pub value_tokens: usize,
}

impl Default for FuzzyRecall {
    fn default() -> Self {
        Self {
            length: 128,
            vocab: 16,
            keys: 8,
            key_tokens: 3,
            value_tokens: 3,
        }
    }
}

impl Generator for FuzzyRecall {
    fn validate(&self) -> Result<(), TaskError> {
        for (key, value, least) in [
            ("fuzzy-recall.vocab", self.vocab, 4),
            ("fuzzy-recall.keys", self.keys, 1),
            ("fuzzy-recall.key_tokens", self.key_tokens, 1),
            ("fuzzy-recall.value_tokens", self.value_tokens, 1),
        ] {
            TaskError::at_least(key, value, least)?;
        }
        if self.vocab % 2 == 1 {
            let why = "one half is keys and one values: make it even";
            return Err(TaskError::setting("fuzzy-recall.vocab", self.vocab, why));
        }
        // Lengths are drawn first, so a key of one token must always be found.
        let most = self.vocab / 2;
        if self.keys > most {
            let why = format!("there are only {most} keys of one token: at most that many");
            return Err(TaskError::setting("fuzzy-recall.keys", self.keys, why));
        }
        // Then some key comes twice and asks for the first token of its value.
        let motif = self.key_tokens + self.value_tokens;
        let least = (self.keys + 1) * motif;
        if self.length < least {
            let why = format!(
                "{} keys of up to {motif} tokens with their values come once and one of them again: at least {least}",
                self.keys
            );
            return Err(TaskError::setting("fuzzy-recall.length", self.length, why));
        }
        Ok(())
    }

    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn seq(&self) -> usize {
        self.length - 1
    }

    fn draw(&self, rng: &mut ChaCha8Rng, split: Split, lane: Lane<'_>) {
        let half = self.vocab as u64 / 2;
        let mut motifs: Vec<(Vec<u32>, Vec<u32>)> = Vec::with_capacity(self.keys);
        while motifs.len() < self.keys {
            let key = word(rng, 0, half, self.key_tokens);
            if motifs.iter().all(|(other, _)| *other != key) {
                motifs.push((key, word(rng, half, half, self.value_tokens)));
            }
        }
        let mut seen = vec![false; self.keys];
        let mut stream = Vec::with_capacity(self.length + self.key_tokens + self.value_tokens);
        while stream.len() < self.length {
            let number = below(rng, self.keys as u64) as usize;
            let (key, value) = &motifs[number];
            stream.extend(key.iter().map(|&token| (token, false)));
            stream.extend(value.iter().map(|&token| (token, seen[number])));
            seen[number] = true;
        }
        stream.truncate(self.length);
        write_stream(lane, split, &stream);
    }
}

/// One to `most` tokens from `first` on.
fn word(rng: &mut ChaCha8Rng, first: u64, tokens: u64, most: usize) -> Vec<u32> {
    let length = 1 + below(rng, most as u64);
    (0..length)
        .map(|_| (first + below(rng, tokens)) as u32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::draw;
    use std::collections::BTreeMap;

    /// Reads an example back as keys and values by their halves of the vocabulary, and answers it as a reader would.
    #[test]
    fn answers_are_the_values_of_keys_seen_before() {
        let task = FuzzyRecall::default();
        task.validate().unwrap();
        for number in 0..200 {
            let drawn = draw(&task, Split::Test, number);
            let mut stream = drawn.inputs.clone();
            stream.push(drawn.targets[126]);
            let is_key = |at: usize| stream[at] < 8;
            let mut dictionary: BTreeMap<Vec<u32>, Vec<u32>> = BTreeMap::new();
            let mut at = 0;
            while at < 127 {
                let value_at = (at..127).find(|at| !is_key(*at)).unwrap_or(127);
                let end = (value_at..127).find(|at| is_key(*at)).unwrap_or(127);
                let (key, value) = (&stream[at..value_at], &stream[value_at..end]);
                // The target of position p is the token of position p + 1.
                let asked: Vec<_> = (value_at..end).map(|p| drawn.mask[p - 1]).collect();
                let known = dictionary.contains_key(key);
                assert!(asked.iter().all(|asked| *asked == known), "{number} {at}");
                if known && end < 127 {
                    assert_eq!(value, dictionary[key]);
                }
                dictionary.insert(key.into(), value.into());
                at = end;
            }
            assert!(dictionary.len() <= 9);
            assert!(!drawn.counted().is_empty());
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_named() {
        let error = |task: FuzzyRecall| task.validate().unwrap_err().to_string();
        let base = FuzzyRecall::default;
        assert!(error(FuzzyRecall { keys: 9, ..base() }).contains("only 8 keys"));
        assert!(
            error(FuzzyRecall {
                length: 53,
                ..base()
            })
            .contains("at least 54")
        );
        assert!(error(FuzzyRecall { vocab: 5, ..base() }).contains("`fuzzy-recall.vocab` = 5"));
    }
}
