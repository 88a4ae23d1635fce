//! Multi-query associative recall (Arora et al., arXiv 2312.04927, appendix; as their code draws it).
//!
//! | position | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | ... |
//! | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
//! | input | k1 | v1 | k2 | v2 | **k2** | x | **k1** | x | ... |
//! | target | | | | | v2 | | v1 | | |
//!
//! `pairs` keys and their values come first. Every key comes once more, at an even distance after them: at the g-th even place with
//! probability in proportion to g^(power - 1), each place at most once, and the model has to answer its value. What stands
//! between (x) is random.

use kiln_loader::random::below;
use kiln_loader::{Lane, Split};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Generator, TaskError};

/// Multi-query associative recall.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mqar {
    /// Tokens of an example, even.
    pub length: usize,
    /// Keys with their values.
    pub pairs: usize,
    /// Tokens: keys are of the first half (without 0), values of the second.
    pub vocab: usize,
    /// Exponent a of the distances of questions: small, so that most come soon after the pairs.
    pub power: f64,
    /// Whether random tokens stand between the questions, or token 0.
    pub random_fill: bool,
}

impl Default for Mqar {
    fn default() -> Self {
        Self {
            length: 64,
            pairs: 4,
            vocab: 8192,
            power: 0.01,
            random_fill: true,
        }
    }
}

impl Generator for Mqar {
    fn validate(&self) -> Result<(), TaskError> {
        TaskError::at_least("mqar.pairs", self.pairs, 1)?;
        if self.length % 2 == 1 || self.length < 4 * self.pairs {
            let least = 4 * self.pairs;
            let why = format!(
                "it must be even and at least 4 times the {} pairs, {least}",
                self.pairs
            );
            return Err(TaskError::setting("mqar.length", self.length, why));
        }
        if self.vocab % 2 == 1 || self.vocab < 2 * (self.pairs + 1) {
            let least = 2 * (self.pairs + 1);
            let why = format!(
                "half of it, without token 0, must hold the {} keys: make it even and at least {least}",
                self.pairs
            );
            return Err(TaskError::setting("mqar.vocab", self.vocab, why));
        }
        if !(self.power > 0.0 && self.power.is_finite()) {
            let why = "it must be above 0, such as the paper's 0.01";
            return Err(TaskError::setting("mqar.power", self.power, why));
        }
        Ok(())
    }

    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn seq(&self) -> usize {
        self.length
    }

    fn draw(&self, rng: &mut ChaCha8Rng, _: Split, lane: Lane<'_>) {
        let half = self.vocab as u64 / 2;
        let keys = distinct(rng, 1..half, self.pairs);
        let values = distinct(rng, half..2 * half, self.pairs);
        let prefix = 2 * self.pairs;
        let gaps = self.gaps(rng, (self.length - prefix) / 2);
        if self.random_fill {
            for token in &mut lane.inputs[prefix..] {
                *token = below(rng, self.vocab as u64) as u32;
            }
        }
        for (pair, (&key, &value)) in keys.iter().zip(&values).enumerate() {
            lane.inputs[2 * pair] = key;
            lane.inputs[2 * pair + 1] = value;
            let question = prefix + 2 * gaps[pair];
            lane.inputs[question] = key;
            lane.targets[question] = value;
            lane.mask[question] = true;
        }
    }
}

impl Mqar {
    /// One gap below `space` for every pair, each at most once, drawn one after the other with weights (gap + 1)^(power - 1):
    /// of independent exponential times with these rates, the first `pairs` in order are such draws.
    fn gaps(&self, rng: &mut ChaCha8Rng, space: usize) -> Vec<usize> {
        let mut times: Vec<_> = (0..space)
            .map(|gap| {
                let rate = ((gap + 1) as f64).powf(self.power - 1.0);
                (-uniform(rng).ln() / rate, gap)
            })
            .collect();
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        times.truncate(self.pairs);
        times.into_iter().map(|(_, gap)| gap).collect()
    }
}

/// A number in (0, 1].
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (below(rng, 1 << 53) + 1) as f64 / (1_u64 << 53) as f64
}

/// `count` different tokens of a range, in random order.
fn distinct(rng: &mut ChaCha8Rng, range: std::ops::Range<u64>, count: usize) -> Vec<u32> {
    let mut drawn = Vec::with_capacity(count);
    while drawn.len() < count {
        let token = (range.start + below(rng, range.end - range.start)) as u32;
        if !drawn.contains(&token) {
            drawn.push(token);
        }
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::draw;
    use std::collections::BTreeMap;

    #[test]
    fn every_key_is_asked_for_once_and_its_value_is_the_answer() {
        let task = Mqar {
            length: 64,
            pairs: 16,
            vocab: 80,
            ..Default::default()
        };
        task.validate().unwrap();
        for number in 0..200 {
            let drawn = draw(&task, Split::Test, number);
            let pairs: BTreeMap<_, _> = drawn.inputs[..32]
                .chunks(2)
                .map(|pair| (pair[0], pair[1]))
                .collect();
            assert_eq!(pairs.len(), 16, "keys are different");
            assert!(
                pairs
                    .iter()
                    .all(|(k, v)| (1..40).contains(k) && (40..80).contains(v))
            );
            let mut asked = BTreeMap::new();
            for at in drawn.counted() {
                assert!(at >= 32 && at % 2 == 0, "{at}");
                asked.insert(drawn.inputs[at], drawn.targets[at]);
            }
            assert_eq!(asked, pairs);
        }
    }

    /// The share of questions in the first even place is that of the weights: sum over g of g^(a - 1), for one pair.
    #[test]
    fn distances_follow_the_power_law() {
        let task = Mqar {
            length: 66,
            pairs: 1,
            ..Default::default()
        };
        let draws = 20_000;
        let mut counts = [0; 32];
        for number in 0..draws {
            let at = draw(&task, Split::Train, number).counted()[0];
            counts[(at - 2) / 2] += 1;
        }
        let weights: Vec<f64> = (1..=32).map(|g| f64::from(g).powf(0.01 - 1.0)).collect();
        let total: f64 = weights.iter().sum();
        for (gap, weight) in weights.iter().enumerate() {
            let expected = draws as f64 * weight / total;
            let off = (f64::from(counts[gap]) - expected).abs();
            assert!(
                off < 4.5 * expected.sqrt(),
                "gap {gap}: {} of {expected}",
                counts[gap]
            );
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_named() {
        let error = |task: Mqar| task.validate().unwrap_err().to_string();
        let base = Mqar::default;
        assert_eq!(
            error(Mqar {
                pairs: 17,
                ..base()
            }),
            "task setting `mqar.length` = 64: it must be even and at least 4 times the 17 pairs, 68"
        );
        assert!(error(Mqar { pairs: 0, ..base() }).contains("`mqar.pairs` = 0"));
        assert!(error(Mqar { vocab: 8, ..base() }).contains("at least 10"));
        assert!(
            error(Mqar {
                power: 0.0,
                ..base()
            })
            .contains("`mqar.power` = 0")
        );
    }
}
