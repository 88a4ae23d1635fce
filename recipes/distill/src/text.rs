//! Text that the teacher writes, for a student to learn from: sequence-level distillation (Kim and Rush, arXiv 1606.07947).
//!
//! Cross-entropy on the teacher's own samples is an estimate of KL(teacher || student) over whole sequences, which needs no answers
//! at its positions and sees what the teacher would write, not only what the data has.

use std::sync::Arc;

use kiln_loader::random::{below, random};
use kiln_loader::{Lane, Windows};
use serde::{Deserialize, Serialize};

/// Settings of text that the teacher writes before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenConfig {
    /// Windows of `train.seq` tokens and one more that it writes.
    pub windows: u64,
    /// Share of training windows that are the teacher's, in (0, 1]; the others are those of the data.
    #[serde(default = "one")]
    pub share: f64,
    /// Tokens of training text that each window begins with, at least 1; they are no targets.
    #[serde(default = "default_prompt")]
    pub prompt: usize,
    /// Divides the teacher's scores before it draws; 1 draws from its own distribution, 0 takes the likeliest token every time.
    #[serde(default = "one")]
    pub temperature: f64,
    /// It draws from the likeliest tokens that together reach this probability; 1 is all.
    #[serde(default = "one")]
    pub top_p: f64,
    /// Seed of the prompts and the draws; not the run's, so that runs of several seeds learn from one text.
    #[serde(default)]
    pub seed: u64,
}

fn one() -> f64 {
    1.0
}

fn default_prompt() -> usize {
    1
}

/// Windows of data, of which a share is taken by others: which ones follows from the place, so an order over places stays what it is.
#[derive(Debug)]
pub struct MixedWindows {
    data: Arc<dyn Windows>,
    written: Arc<dyn Windows>,
    share: f64,
}

impl MixedWindows {
    /// A share in 0..=1 of the places of `data` has windows of `written`, which are as long.
    ///
    /// # Panics
    /// If the two have windows of different lengths.
    pub fn new(data: Arc<dyn Windows>, written: Arc<dyn Windows>, share: f64) -> Self {
        assert_eq!(data.seq(), written.seq(), "windows of one length are mixed");
        Self {
            data,
            written,
            share,
        }
    }
}

impl Windows for MixedWindows {
    fn seq(&self) -> usize {
        self.data.seq()
    }

    fn places(&self) -> u64 {
        self.data.places()
    }

    fn stride(&self) -> u64 {
        self.data.stride()
    }

    fn read(&self, place: u64, lane: Lane<'_>) {
        const PURPOSE: u8 = 0xd1;
        const PRECISION: u64 = 1 << 32;
        let mut rng = random(0, PURPOSE, 0, place);
        let is_written = (below(&mut rng, PRECISION) as f64) < self.share * PRECISION as f64;
        match is_written {
            true => {
                let window = below(&mut rng, self.written.places());
                self.written.read(window, lane);
            }
            false => self.data.read(place, lane),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of one token, which is their place and a base.
    #[derive(Debug)]
    struct Numbered(u32, u64);

    impl Windows for Numbered {
        fn seq(&self) -> usize {
            1
        }

        fn places(&self) -> u64 {
            self.1
        }

        fn stride(&self) -> u64 {
            1
        }

        fn read(&self, place: u64, lane: Lane<'_>) {
            lane.inputs[0] = self.0 + place as u32;
            lane.mask[0] = true;
        }
    }

    #[test]
    fn a_share_of_places_has_the_teachers_windows() {
        const DATA: u32 = 1000;
        for share in [0.0, 0.3, 1.0] {
            let mixed = MixedWindows::new(
                Arc::new(Numbered(DATA, 4000)),
                Arc::new(Numbered(0, 50)),
                share,
            );
            let read = |place| {
                let (mut inputs, mut targets, mut mask) = ([0], [0], [false]);
                let lane = Lane {
                    inputs: &mut inputs,
                    targets: &mut targets,
                    mask: &mut mask,
                };
                mixed.read(place, lane);
                inputs[0]
            };
            let all: Vec<u32> = (0..4000).map(read).collect();
            assert_eq!(
                all,
                (0..4000).map(read).collect::<Vec<_>>(),
                "a place is what it is"
            );
            let written: Vec<u32> = all.iter().copied().filter(|id| *id < DATA).collect();
            // Five standard deviations of a binomial of 4,000.
            let expected = 4000.0 * share;
            assert!(
                (written.len() as f64 - expected).abs() <= 5.0 * (expected * (1.0 - share)).sqrt()
            );
            let kinds: std::collections::BTreeSet<_> = written.iter().collect();
            assert_eq!(kinds.len(), if share == 0.0 { 0 } else { 50 });
            let own = (0..4000).zip(&all).filter(|(_, id)| **id >= DATA);
            assert!(own.into_iter().all(|(place, id)| *id == DATA + place));
        }
    }
}
