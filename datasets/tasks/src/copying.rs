//! Selective copying (Gu and Dao, arXiv 2312.00752, section 4.1.1; sizes of MAD, arXiv 2403.17844).
//!
//! | position | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |
//! | --- | --- | --- | --- | --- | --- | --- | --- | --- |
//! | input | t4 | _ | _ | t1 | _ | copy | _ | _ |
//! | target | | | | | | | t4 | t1 |
//!
//! Tokens stand at random places among blanks; after the copy token they have to be given back in order. What has to be kept
//! depends on what the tokens are, not on where they stand: a convolution of fixed weights cannot do it.

use kiln_loader::random::{below, shuffle};
use kiln_loader::{Lane, Split};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Generator, Step, TaskError, write};

/// Selective copying.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelectiveCopying {
    /// Tokens of an example.
    pub length: usize,
    /// Tokens, the blank and the copy token among them.
    pub vocab: usize,
    /// Tokens to copy.
    pub copied: usize,
}

impl Default for SelectiveCopying {
    fn default() -> Self {
        Self {
            length: 256,
            vocab: 16,
            copied: 16,
        }
    }
}

impl Generator for SelectiveCopying {
    fn validate(&self) -> Result<(), TaskError> {
        TaskError::at_least("selective-copying.vocab", self.vocab, 4)?;
        TaskError::at_least("selective-copying.copied", self.copied, 1)?;
        TaskError::at_least("selective-copying.length", self.length, 2 * self.copied + 1)
    }

    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn seq(&self) -> usize {
        self.length
    }

    fn draw(&self, rng: &mut ChaCha8Rng, _: Split, lane: Lane<'_>) {
        let [blank, copy] = [self.vocab as u32 - 2, self.vocab as u32 - 1];
        let silent = |input| Step {
            input,
            target: None,
        };
        let mut is_token = vec![false; self.length - self.copied - 1];
        is_token[..self.copied].fill(true);
        shuffle(rng, &mut is_token);
        let tokens: Vec<_> = (0..self.copied)
            .map(|_| below(rng, u64::from(blank)) as u32)
            .collect();
        let mut next = tokens.iter();
        let shown = is_token.iter().map(|is_token| {
            let token = is_token.then(|| next.next()).flatten();
            silent(token.copied().unwrap_or(blank))
        });
        let shown: Vec<_> = shown.collect();
        let asked = tokens.iter().map(|&token| Step {
            input: blank,
            target: Some(token),
        });
        write(lane, shown.into_iter().chain([silent(copy)]).chain(asked));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::draw;

    #[test]
    fn the_tokens_come_back_in_order() {
        let task = SelectiveCopying {
            length: 40,
            vocab: 10,
            copied: 7,
        };
        task.validate().unwrap();
        for number in 0..100 {
            let drawn = draw(&task, Split::Train, number);
            let (shown, asked) = drawn.inputs.split_at(33);
            assert_eq!(shown[32], 9);
            let tokens: Vec<_> = shown.iter().copied().filter(|id| *id < 8).collect();
            assert_eq!(tokens, drawn.targets[33..]);
            assert_eq!(asked, [8; 7]);
            assert_eq!(drawn.counted(), (33..40).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_named() {
        let short = SelectiveCopying {
            length: 32,
            ..Default::default()
        };
        assert_eq!(
            short.validate().unwrap_err().to_string(),
            "task setting `selective-copying.length` = 32: it must be at least 33"
        );
    }
}
