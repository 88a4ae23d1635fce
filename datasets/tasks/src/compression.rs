//! Compression of the MAD collection (Poli et al., arXiv 2403.17844, section 3): random tokens, all of which are read back out of what
//! the model made of the last position.
//!
//! | position | 0 | 1 | 2 | 3 | last |
//! | --- | --- | --- | --- | --- | --- |
//! | input | t4 | t1 | t9 | t1 | compress |
//! | target | t4 | t1 | t9 | t1 | |
//!
//! A target is the input of its own position. A model needs a decoder that sees the last position only, or it would copy.

use kiln_loader::random::below;
use kiln_loader::{Lane, Split};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Generator, Step, TaskError, write};

/// Compression of random tokens into one vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compression {
    /// Tokens of an example, the one that asks for compression included.
    pub length: usize,
    /// Tokens, the one that asks for compression among them.
    pub vocab: usize,
}

impl Default for Compression {
    fn default() -> Self {
        Self {
            length: 32,
            vocab: 16,
        }
    }
}

impl Generator for Compression {
    fn validate(&self) -> Result<(), TaskError> {
        TaskError::at_least("compression.length", self.length, 2)?;
        TaskError::at_least("compression.vocab", self.vocab, 3)
    }

    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn seq(&self) -> usize {
        self.length
    }

    fn draw(&self, rng: &mut ChaCha8Rng, _: Split, lane: Lane<'_>) {
        let compress = self.vocab as u32 - 1;
        let tokens = (1..self.length).map(|_| {
            let token = below(rng, compress.into()) as u32;
            Step {
                input: token,
                target: Some(token),
            }
        });
        let last = Step {
            input: compress,
            target: None,
        };
        write(lane, tokens.chain([last]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::draw;

    #[test]
    fn every_token_but_the_last_is_asked_for_where_it_stands() {
        let task = Compression {
            length: 9,
            vocab: 5,
        };
        task.validate().unwrap();
        let mut seen = [0; 5];
        for number in 0..200 {
            let drawn = draw(&task, Split::Train, number);
            assert_eq!(drawn.counted(), (0..8).collect::<Vec<_>>());
            assert_eq!(drawn.inputs[..8], drawn.targets[..8]);
            assert_eq!(drawn.inputs[8], 4);
            drawn.inputs[..8]
                .iter()
                .for_each(|token| seen[*token as usize] += 1);
        }
        // Five standard deviations of a binomial of 1,600 with probability 1/4.
        assert!(
            seen[..4].iter().all(|count| (313..488).contains(count)),
            "{seen:?}"
        );
        assert_eq!(seen[4], 0);
        let short = Compression { length: 1, ..task };
        assert!(
            short
                .validate()
                .unwrap_err()
                .to_string()
                .contains("compression.length")
        );
    }
}
