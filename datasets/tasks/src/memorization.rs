//! Memorization of the MAD collection (Poli et al., arXiv 2403.17844, section 3): a dictionary that is the same in every example.
//!
//! | position | 0 | 1 | 2 | 3 | ... |
//! | --- | --- | --- | --- | --- | --- |
//! | input | k3 | ask | k1 | ask | ... |
//! | target | | v7 | | v2 | |
//!
//! Nothing in the example says the answer: it has to be learned in the weights. It follows from the task's seed.

use kiln_loader::random::{below, random};
use kiln_loader::{Lane, Split};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Generator, Step, TaskError, write};

/// Which stream of random numbers the dictionary is drawn from; those below are the splits'.
const DICTIONARY: u8 = 8;

/// Memorization of a fixed dictionary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memorization {
    /// Tokens of an example, even.
    pub length: usize,
    /// Tokens: the last one asks, of the others one half are keys and one values.
    pub vocab: usize,
    /// Seed of the dictionary.
    pub dictionary: u64,
}

impl Default for Memorization {
    fn default() -> Self {
        Self {
            length: 32,
            vocab: 256,
            dictionary: 0,
        }
    }
}

impl Generator for Memorization {
    fn validate(&self) -> Result<(), TaskError> {
        TaskError::at_least("memorization.length", self.length, 2)?;
        TaskError::at_least("memorization.vocab", self.vocab, 5)?;
        match self.length % 2 {
            0 => Ok(()),
            _ => {
                let why = "every key is followed by the token that asks: make it even";
                Err(TaskError::setting("memorization.length", self.length, why))
            }
        }
    }

    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn seq(&self) -> usize {
        self.length
    }

    fn draw(&self, rng: &mut ChaCha8Rng, _: Split, lane: Lane<'_>) {
        let ask = self.vocab as u32 - 1;
        let half = u64::from(ask) / 2;
        let steps = (0..self.length / 2).flat_map(|_| {
            let key = below(rng, half);
            let mut entry = random(self.dictionary, DICTIONARY, 0, key);
            let value = half + below(&mut entry, half);
            let silent = Step {
                input: key as u32,
                target: None,
            };
            let asked = Step {
                input: ask,
                target: Some(value as u32),
            };
            [silent, asked]
        });
        write(lane, steps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::draw;
    use std::collections::BTreeMap;

    #[test]
    fn the_dictionary_is_the_same_in_every_example_and_split() {
        let task = Memorization::default();
        task.validate().unwrap();
        let mut dictionary = BTreeMap::new();
        for split in [Split::Train, Split::Validation, Split::Test] {
            for number in 0..100 {
                let drawn = draw(&task, split, number);
                for at in drawn.counted() {
                    assert_eq!((at % 2, drawn.inputs[at]), (1, 255));
                    let (key, value) = (drawn.inputs[at - 1], drawn.targets[at]);
                    assert!(key < 127 && (127..254).contains(&value));
                    assert_eq!(*dictionary.entry(key).or_insert(value), value);
                }
            }
        }
        assert_eq!(dictionary.len(), 127, "every key came up");
        let values: std::collections::BTreeSet<_> = dictionary.values().collect();
        assert!(values.len() > 60, "values differ");
        let other = Memorization {
            dictionary: 1,
            ..task
        };
        let (drawn, again) = (draw(&task, Split::Test, 0), draw(&other, Split::Test, 0));
        assert_eq!(drawn.inputs, again.inputs);
        assert_ne!(drawn.targets, again.targets);
    }

    #[test]
    fn what_cannot_be_drawn_is_named() {
        let odd = Memorization {
            length: 7,
            ..Default::default()
        };
        assert!(
            odd.validate()
                .unwrap_err()
                .to_string()
                .contains("make it even")
        );
    }
}
