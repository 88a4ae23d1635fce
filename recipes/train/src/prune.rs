//! `[prune]`: weights that become zero one after the other while the model is trained.
//!
//! ```text
//! s(t) = s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))^3        the share of zeros after update t (Zhu and Gupta, arXiv 1710.01878)
//! ```
//! Every so many updates the smallest weights of each layer join those that are zero, fast at first and slowly at the end; what is zero
//! stays zero. After t_1 the rest of the training goes on with all zeros in place.
//!
//! Or all of them go before the first update: of all layers together those whose |g w| is least, with g the gradient on some batches
//! (SNIP, Lee et al., arXiv 1810.02340).

use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::selection::{Selection, every_layer};

/// Which weights become zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PruneBy {
    /// The smallest of each layer, more and more of them.
    #[default]
    Magnitude,
    /// Those that move the loss least before the first update, of all layers together.
    Snip,
}

/// Batches that `snip` measures on, unless something else is said.
const BATCHES: usize = 8;

/// Settings of pruning in training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneConfig {
    /// Which weights go, and when.
    #[serde(default)]
    pub method: PruneBy,
    /// Share of the weights that is zero in the end, in (0, 1): of each layer, of `snip` of all layers together.
    pub sparsity: f64,
    /// Share that is zero at first, below `sparsity`.
    #[serde(default)]
    pub initial: f64,
    /// Share of the run's steps before the first weights go.
    #[serde(default)]
    pub begin: f64,
    /// Share of the run's steps after which the last are gone.
    #[serde(default = "three_quarters")]
    pub end: f64,
    /// Steps between two times that weights go.
    #[serde(default = "ten")]
    pub every: u64,
    /// Batches of training data that `snip` takes the gradient of; 8 of them where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batches: Option<usize>,
    /// Linear layers by patterns of their names, `*` standing for anything. The embedding is none.
    #[serde(default = "every_layer")]
    pub layers: Vec<String>,
    /// And none of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
}

fn three_quarters() -> f64 {
    0.75
}

fn ten() -> u64 {
    10
}

impl PruneConfig {
    /// The section with nothing but the share in the end.
    pub fn new(sparsity: f64) -> Self {
        Self {
            method: PruneBy::Magnitude,
            sparsity,
            batches: None,
            initial: 0.0,
            begin: 0.0,
            end: three_quarters(),
            every: ten(),
            layers: every_layer(),
            except: Vec::new(),
        }
    }

    /// The layers that it is about.
    pub fn selection(&self) -> Selection {
        Selection::of(&self.layers, &self.except)
    }

    /// Checks every key.
    ///
    /// # Errors
    /// Shares outside of [0, 1) or in the wrong order, no step between two times, and keys that the method does not read.
    pub fn check(&self) -> Result<(), TrainError> {
        self.check_method()?;
        let bad = |key, value: f64, why: &str| Err(TrainError::setting(key, value, why));
        match self {
            _ if !(self.sparsity > 0.0 && self.sparsity < 1.0) => {
                bad("prune.sparsity", self.sparsity, "must lie in (0, 1)")
            }
            _ if !(0.0..self.sparsity).contains(&self.initial) => bad(
                "prune.initial",
                self.initial,
                "must be at least 0 and below `prune.sparsity`",
            ),
            _ if !(0.0..=1.0).contains(&self.end) => {
                bad("prune.end", self.end, "must lie in [0, 1]")
            }
            _ if !(0.0..=self.end).contains(&self.begin) => bad(
                "prune.begin",
                self.begin,
                "must be at least 0 and at most `prune.end`",
            ),
            _ if self.every == 0 => bad("prune.every", 0.0, "must be at least 1 step"),
            _ => Ok(()),
        }
    }

    fn check_method(&self) -> Result<(), TrainError> {
        let plain = Self::new(self.sparsity);
        let times = [
            ("prune.initial", self.initial, plain.initial),
            ("prune.begin", self.begin, plain.begin),
            ("prune.end", self.end, plain.end),
            ("prune.every", self.every as f64, plain.every as f64),
        ];
        let given = times.into_iter().find(|(_, own, default)| own != default);
        match (self.method, given, self.batches) {
            (PruneBy::Snip, Some((key, value, _)), _) => Err(TrainError::setting(
                key,
                value,
                "`snip` takes all weights before the first update: leave the key out, or take `method = \"magnitude\"`",
            )),
            (PruneBy::Snip, None, Some(0)) => Err(TrainError::setting(
                "prune.batches",
                0,
                "must be at least 1",
            )),
            (PruneBy::Magnitude, _, Some(batches)) => Err(TrainError::setting(
                "prune.batches",
                batches,
                "magnitudes need no batches: leave the key out, or take `method = \"snip\"`",
            )),
            _ => Ok(()),
        }
    }

    /// Batches that weights are measured on before the first update; none if they are not.
    pub(crate) fn measured_on(&self) -> Option<usize> {
        let is_measured = self.method == PruneBy::Snip;
        is_measured.then(|| self.batches.unwrap_or(BATCHES))
    }

    /// Updates before the first weights go, and those after which the last are gone.
    fn ends(&self, steps: u64) -> (u64, u64) {
        let [begin, end] = [self.begin, self.end].map(|share| (share * steps as f64) as u64);
        (begin, end)
    }

    fn share(&self, done: u64, steps: u64) -> f64 {
        let (begin, end) = self.ends(steps);
        let left = match end > begin {
            true => end.saturating_sub(done) as f64 / (end - begin) as f64,
            false => 0.0,
        };
        self.sparsity + (self.initial - self.sparsity) * left.powi(3)
    }

    /// The share of zeros after `done` of `steps` updates, if weights go there.
    pub(crate) fn due(&self, done: u64, steps: u64) -> Option<f64> {
        if self.method == PruneBy::Snip {
            return None;
        }
        let (begin, end) = self.ends(steps);
        let due = (begin..=end).contains(&done)
            && (done == end || (done - begin).is_multiple_of(self.every));
        due.then(|| self.share(done, steps))
    }

    /// The share of zeros that there is after `done` of `steps` updates, if there is one yet.
    pub(crate) fn reached(&self, done: u64, steps: u64) -> Option<f64> {
        if self.method == PruneBy::Snip {
            return None;
        }
        let (begin, end) = self.ends(steps);
        match done {
            _ if done < begin => None,
            _ if done >= end => Some(self.sparsity),
            _ => {
                let last = done - (done - begin) % self.every;
                Some(self.share(last, steps))
            }
        }
    }

    /// Whether the last weights are gone after `done` of `steps` updates.
    pub(crate) fn is_done(&self, done: u64, steps: u64) -> bool {
        self.method == PruneBy::Snip || done >= self.ends(steps).1
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_share_rises_as_in_the_paper() {
        let config = PruneConfig {
            initial: 0.2,
            begin: 0.1,
            end: 0.5,
            every: 15,
            ..PruneConfig::new(0.9)
        };
        config.check().unwrap();
        assert_eq!(config.due(9, 100), None);
        assert_eq!(config.reached(9, 100), None);
        let close = |found: Option<f64>, expected: f64| {
            assert!((found.unwrap() - expected).abs() < 1e-12, "{found:?}")
        };
        close(config.due(10, 100), 0.2);
        assert_eq!(config.due(24, 100), None);
        close(config.reached(24, 100), 0.2);
        let second = 0.9 - 0.7 * 0.625_f64.powi(3);
        close(config.due(25, 100), second);
        close(config.reached(39, 100), second);
        // The end counts, whatever the steps in between.
        close(config.due(50, 100), 0.9);
        assert_eq!(config.due(55, 100), None);
        close(config.reached(99, 100), 0.9);
        assert!(config.is_done(50, 100) && !config.is_done(49, 100));
        let at_once = PruneConfig {
            end: 0.0,
            ..PruneConfig::new(0.5)
        };
        close(at_once.due(0, 100), 0.5);
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        let plain = PruneConfig::new(0.5);
        let refused = |config: PruneConfig| config.check().unwrap_err().to_string();
        for (config, key) in [
            (PruneConfig::new(1.0), "prune.sparsity"),
            (PruneConfig::new(f64::NAN), "prune.sparsity"),
            (
                PruneConfig {
                    initial: 0.5,
                    ..plain.clone()
                },
                "prune.initial",
            ),
            (
                PruneConfig {
                    end: 1.5,
                    ..plain.clone()
                },
                "prune.end",
            ),
            (
                PruneConfig {
                    begin: 0.8,
                    ..plain.clone()
                },
                "prune.begin",
            ),
            (
                PruneConfig {
                    every: 0,
                    ..plain.clone()
                },
                "prune.every",
            ),
            (
                PruneConfig {
                    batches: Some(4),
                    ..plain.clone()
                },
                "prune.batches",
            ),
            (
                PruneConfig {
                    method: PruneBy::Snip,
                    end: 0.5,
                    ..plain.clone()
                },
                "prune.end",
            ),
            (
                PruneConfig {
                    method: PruneBy::Snip,
                    batches: Some(0),
                    ..plain
                },
                "prune.batches",
            ),
        ] {
            let found = refused(config);
            assert!(found.contains(key), "{found}");
        }
    }
}
