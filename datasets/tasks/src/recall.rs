//! In-context recall and noisy recall of the MAD collection (Poli et al., arXiv 2403.17844, section 3 and appendix B).
//!
//! | position | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | ... |
//! | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
//! | input | k3 | v7 | k1 | v2 | k3 | v7 | n | n | ... |
//! | target | | | | | v7 | | | | |
//!
//! Every example draws its own dictionary: a key gets a random value when it first comes, and comes with it from then on. With
//! noise, a share of the pairs is of tokens that mean nothing. The last pair is always of a key that was there before.
//! Held-out targets are the values of keys seen before; in training every next token is a target.

use kiln_loader::random::below;
use kiln_loader::{Lane, Split};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Generator, TaskError, write_stream};

/// In-context recall, with noise or without.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recall {
    /// Tokens of an example with its last value, even: the model sees one less.
    pub length: usize,
    /// Tokens of keys (the first half) and values (the second).
    pub vocab: usize,
    /// Further tokens that noise is made of.
    pub noise_vocab: usize,
    /// Share of pairs that are noise.
    pub noise_share: f64,
}

impl Default for Recall {
    fn default() -> Self {
        Self {
            length: 128,
            vocab: 16,
            noise_vocab: 0,
            noise_share: 0.0,
        }
    }
}

impl Recall {
    /// Noisy recall as MAD has it: one pair in five is noise, of 16 more tokens.
    pub fn noisy() -> Self {
        Self {
            noise_vocab: 16,
            noise_share: 0.2,
            ..Default::default()
        }
    }
}

impl Generator for Recall {
    fn validate(&self) -> Result<(), TaskError> {
        TaskError::at_least("recall.length", self.length, 4)?;
        TaskError::at_least("recall.vocab", self.vocab, 4)?;
        if self.length % 2 == 1 {
            let why = "an example is of pairs: make it even";
            return Err(TaskError::setting("recall.length", self.length, why));
        }
        if self.vocab % 2 == 1 {
            let why = "one half is keys and one values: make it even";
            return Err(TaskError::setting("recall.vocab", self.vocab, why));
        }
        if !(0.0..1.0).contains(&self.noise_share) {
            let why = "it must lie in [0, 1)";
            return Err(TaskError::setting(
                "recall.noise_share",
                self.noise_share,
                why,
            ));
        }
        if (self.noise_share > 0.0) != (self.noise_vocab > 0) {
            let why = "noise needs both `recall.noise_vocab` and `recall.noise_share` above 0, or neither";
            return Err(TaskError::setting(
                "recall.noise_vocab",
                self.noise_vocab,
                why,
            ));
        }
        Ok(())
    }

    fn vocab_size(&self) -> usize {
        self.vocab + self.noise_vocab
    }

    fn seq(&self) -> usize {
        self.length - 1
    }

    fn draw(&self, rng: &mut ChaCha8Rng, split: Split, lane: Lane<'_>) {
        let half = self.vocab as u64 / 2;
        let pairs = self.length / 2;
        // One pair is sure not to be noise: the last one needs a key.
        let kept = below(rng, pairs as u64 - 1) as usize;
        let noise_bound = (self.noise_share * (1_u64 << 53) as f64) as u64;
        let mut values = vec![None; half as usize];
        let mut stream = Vec::with_capacity(self.length);
        for pair in 0..pairs - 1 {
            if pair != kept && below(rng, 1 << 53) < noise_bound {
                for _ in 0..2 {
                    let noise = self.vocab as u64 + below(rng, self.noise_vocab as u64);
                    stream.push((noise as u32, false));
                }
                continue;
            }
            let key = below(rng, half);
            let known = values[key as usize];
            let value = known.unwrap_or_else(|| (half + below(rng, half)) as u32);
            values[key as usize] = Some(value);
            stream.extend([(key as u32, false), (value, known.is_some())]);
        }
        let seen: Vec<_> = (0_u32..)
            .zip(values)
            .filter_map(|(key, value)| Some((key, value?)))
            .collect();
        let (key, value) = seen[below(rng, seen.len() as u64) as usize];
        stream.extend([(key, false), (value, true)]);
        write_stream(lane, split, &stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::draw;
    use std::collections::BTreeMap;

    #[test]
    fn answers_are_the_values_of_keys_seen_before() {
        for task in [Recall::default(), Recall::noisy()] {
            task.validate().unwrap();
            for number in 0..200 {
                let drawn = draw(&task, Split::Validation, number);
                let mut dictionary = BTreeMap::new();
                for at in (0..drawn.inputs.len()).step_by(2) {
                    let key = drawn.inputs[at];
                    let value = drawn.inputs.get(at + 1).copied();
                    if key >= 16 {
                        assert!(!drawn.mask[at], "noise asks nothing");
                        continue;
                    }
                    assert!(key < 8, "{key}");
                    assert_eq!(drawn.mask[at], dictionary.contains_key(&key));
                    if drawn.mask[at] {
                        assert_eq!(drawn.targets[at], dictionary[&key]);
                    }
                    if let Some(value) = value {
                        assert!((8..16).contains(&value));
                        assert_eq!(*dictionary.entry(key).or_insert(value), value);
                    }
                }
                assert!(drawn.mask[drawn.mask.len() - 1], "the last pair asks");
            }
        }
    }

    #[test]
    fn training_has_every_next_token_as_target() {
        let drawn = draw(&Recall::default(), Split::Train, 0);
        assert_eq!(drawn.counted().len(), 127);
        assert_eq!(drawn.inputs[1..], drawn.targets[..126]);
    }

    #[test]
    fn a_fifth_of_the_pairs_is_noise() {
        let noise: usize = (0..200)
            .map(|number| {
                let drawn = draw(&Recall::noisy(), Split::Test, number);
                drawn
                    .inputs
                    .iter()
                    .step_by(2)
                    .filter(|id| **id >= 16)
                    .count()
            })
            .sum();
        let share = noise as f64 / (200.0 * 64.0);
        assert!((0.18..0.21).contains(&share), "{share}");
    }

    #[test]
    fn what_cannot_be_drawn_is_named() {
        let error = |task: Recall| task.validate().unwrap_err().to_string();
        let base = Recall::default;
        assert!(
            error(Recall {
                length: 9,
                ..base()
            })
            .contains("`recall.length` = 9")
        );
        assert!(
            error(Recall {
                vocab: 15,
                ..base()
            })
            .contains("`recall.vocab` = 15")
        );
        assert!(
            error(Recall {
                noise_share: 1.0,
                ..base()
            })
            .contains("[0, 1)")
        );
        assert!(
            error(Recall {
                noise_share: 0.1,
                ..base()
            })
            .contains("or neither")
        );
    }
}
