//! Which windows are scored, and in what batches.

use std::sync::Arc;

use kiln_loader::{Loader, LoaderConfig, Order, TokenBatch, Windows};

use crate::TrainError;
use crate::recipe::{Objective, TrainConfig};

/// Which windows of a split are scored.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Choice {
    /// Random ones: that many batches, of a seed.
    Crops { batches: usize, seed: u64 },
    /// All in order, or the first so many if that is not 0.
    Sequential { most: usize },
}

impl Choice {
    /// The windows that a run's scores are of, at its end.
    pub fn of(train: &TrainConfig, seed: u64) -> Self {
        match train.final_sweep {
            true => Self::Sequential {
                most: train.sweep_windows,
            },
            false => Self::Crops {
                batches: train.eval_batches,
                seed,
            },
        }
    }
}

/// Hands on the batches of the chosen windows, with the objective applied and how many of their lanes count.
///
/// # Errors
/// Batches that cannot be made, and what `visit` says.
pub(crate) fn walk(
    objective: Objective,
    vocab: usize,
    windows: &Arc<dyn Windows>,
    batch: usize,
    choice: Choice,
    visit: &mut dyn FnMut(&TokenBatch, usize) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let (order, most, seed) = match choice {
        Choice::Crops { batches, seed } => (Order::Crops, batch.saturating_mul(batches), seed),
        Choice::Sequential { most: 0 } => (Order::Sequential, usize::MAX, 0),
        Choice::Sequential { most } => (Order::Sequential, most, 0),
    };
    let config = LoaderConfig { batch, order, seed };
    let mut loader = Loader::new(Arc::clone(windows), config)?;
    let mut seen = 0;
    while seen < most {
        let Some(mut next) = loader.next_batch() else {
            break;
        };
        // Lanes beyond the last window do not count, so that the result does not depend on the batch.
        let lanes = (most - seen).min(batch);
        next.mask[lanes * next.seq..].fill(false);
        let filled = |lane: &usize| next.mask[lane * next.seq..][..next.seq].contains(&true);
        let filled = (0..lanes).filter(filled).count();
        let next = objective.apply(next, vocab, seed, seen as u64);
        visit(&next, lanes)?;
        seen += filled;
    }
    Ok(())
}
