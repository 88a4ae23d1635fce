//! Induction heads (Olsson et al., arXiv 2209.11895), as Mamba tests them (arXiv 2312.00752, section 4.1.2).
//!
//! | position | 0 | 1 | 2 | 3 | ... | length - 1 |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | input | t4 | **sign** | **t9** | t1 | ... | **sign** |
//! | target | | | | | | t9 |
//!
//! Among random tokens the sign comes once, at a random place, and once more at the end: the answer is what followed it. Trained
//! at one length and scored at others, it shows what a mixer carries beyond the length it knows.

use kiln_loader::random::below;
use kiln_loader::{Lane, Split};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Generator, TaskError};

/// Induction heads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InductionHeads {
    /// Tokens of an example.
    pub length: usize,
    /// Tokens, the sign (the last one) among them.
    pub vocab: usize,
}

impl Default for InductionHeads {
    fn default() -> Self {
        Self {
            length: 256,
            vocab: 16,
        }
    }
}

impl Generator for InductionHeads {
    fn validate(&self) -> Result<(), TaskError> {
        TaskError::at_least("induction-heads.length", self.length, 3)?;
        TaskError::at_least("induction-heads.vocab", self.vocab, 3)
    }

    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn seq(&self) -> usize {
        self.length
    }

    fn draw(&self, rng: &mut ChaCha8Rng, _: Split, lane: Lane<'_>) {
        let sign = self.vocab as u32 - 1;
        for token in lane.inputs.iter_mut() {
            *token = below(rng, u64::from(sign)) as u32;
        }
        let last = self.length - 1;
        let at = below(rng, last as u64 - 1) as usize;
        lane.inputs[at] = sign;
        lane.inputs[last] = sign;
        lane.targets[last] = lane.inputs[at + 1];
        lane.mask[last] = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::draw;

    #[test]
    fn the_answer_follows_the_first_sign() {
        for length in [3, 4, 50] {
            let task = InductionHeads { length, vocab: 6 };
            task.validate().unwrap();
            let mut places = std::collections::BTreeSet::new();
            for number in 0..500 {
                let drawn = draw(&task, Split::Test, number);
                let signs: Vec<_> = (0..length).filter(|at| drawn.inputs[*at] == 5).collect();
                let [first, last] = signs[..] else {
                    panic!("{signs:?}");
                };
                assert_eq!(drawn.counted(), [last]);
                assert_eq!(last, length - 1);
                assert_eq!(drawn.targets[last], drawn.inputs[first + 1]);
                places.insert(first);
            }
            assert_eq!(places.len(), length - 2, "every place but the last two");
        }
    }
}
