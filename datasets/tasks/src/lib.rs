//! Synthetic tasks: what a sequence model can hold, find and compute, apart from what it knows of a language.
//!
//! An example is a function of (task, split, number), so nothing is stored, every run with the same settings sees the same
//! examples, and the splits share none but by chance. Each module defines one task:
//!
//! - [`Mqar`]: multi-query associative recall (Arora et al., arXiv 2312.04927).
//! - [`Recall`]: in-context recall, and with noise noisy recall; [`FuzzyRecall`]; [`SelectiveCopying`]; [`Memorization`];
//!   [`Compression`]: of the MAD collection (Poli et al., arXiv 2403.17844).
//! - [`InductionHeads`]: Olsson et al., arXiv 2209.11895, as Mamba tests it (Gu and Dao, arXiv 2312.00752, section 4.1.2).
//! - [`ListOps`]: Nangia and Bowman, arXiv 1804.06028, with the sizes of Long Range Arena (arXiv 2011.04006).
//!
//! The crate knows no model and no tensor library; kiln-loader puts examples into batches.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod compression;
mod config;
mod copying;
mod error;
mod fuzzy;
mod induction;
mod list_ops;
mod memorization;
mod mqar;
mod recall;
mod set;

pub use compression::Compression;
pub use config::TaskConfig;
pub use copying::SelectiveCopying;
pub use error::TaskError;
pub use fuzzy::FuzzyRecall;
pub use induction::InductionHeads;
pub use list_ops::ListOps;
pub use memorization::Memorization;
pub use mqar::Mqar;
pub use recall::Recall;
pub use set::TaskSet;

use kiln_loader::{Lane, Split};
use rand_chacha::ChaCha8Rng;

/// What a task is made of.
trait Generator: std::fmt::Debug + Send + Sync {
    /// Checks what types cannot.
    fn validate(&self) -> Result<(), TaskError>;

    /// Token ids are below it.
    fn vocab_size(&self) -> usize;

    /// Tokens the model sees.
    fn seq(&self) -> usize;

    /// Draws one example into a lane of [`Generator::seq`] tokens, as it comes from a loader: zeros, with no target.
    fn draw(&self, rng: &mut ChaCha8Rng, split: Split, lane: Lane<'_>);
}

/// One token of an example, and what the model has to answer there.
#[derive(Clone, Copy, Debug)]
struct Step {
    input: u32,
    target: Option<u32>,
}

/// Writes steps from the start of a lane.
fn write(lane: Lane<'_>, steps: impl IntoIterator<Item = Step>) {
    for (at, step) in steps.into_iter().enumerate() {
        lane.inputs[at] = step.input;
        if let Some(target) = step.target {
            lane.targets[at] = target;
            lane.mask[at] = true;
        }
    }
}

/// Writes a stream of one token more than the lane has, each token predicting the next. Of the targets, those count whose token is
/// marked as known; in training all do, as in MAD.
fn write_stream(lane: Lane<'_>, split: Split, stream: &[(u32, bool)]) {
    let steps = stream.windows(2).map(|pair| {
        let (target, known) = pair[1];
        Step {
            input: pair[0].0,
            target: (known || split == Split::Train).then_some(target),
        }
    });
    write(lane, steps);
}

#[cfg(test)]
mod testing {
    use super::*;

    /// One example.
    pub(crate) struct Drawn {
        pub inputs: Vec<u32>,
        pub targets: Vec<u32>,
        pub mask: Vec<bool>,
    }

    impl Drawn {
        /// Positions whose target counts.
        pub fn counted(&self) -> Vec<usize> {
            (0..self.mask.len()).filter(|at| self.mask[*at]).collect()
        }
    }

    pub(crate) fn draw(task: &dyn Generator, split: Split, number: u64) -> Drawn {
        let seq = task.seq();
        let mut drawn = Drawn {
            inputs: vec![0; seq],
            targets: vec![0; seq],
            mask: vec![false; seq],
        };
        let mut rng = kiln_loader::random::random(5, split as u8, 0, number);
        let lane = Lane {
            inputs: &mut drawn.inputs,
            targets: &mut drawn.targets,
            mask: &mut drawn.mask,
        };
        task.draw(&mut rng, split, lane);
        drawn
    }
}
