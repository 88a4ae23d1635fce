//! Batches out of windows, in an order that a few numbers determine.
//!
//! What a window holds is the business of a [`Windows`]: kiln-text cuts text into them, kiln-tasks draws them. Nothing random is
//! carried from batch to batch: window number `n` of epoch `e` is a function of (seed, e, n), so a saved [`LoaderState`]
//! continues exactly where it was taken.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod batch;
mod error;
mod prefetch;
pub mod random;
mod split;

use std::fmt::Debug;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use batch::{Lane, TokenBatch};
pub use error::LoaderError;
pub use prefetch::Prefetcher;
pub use split::Split;

use random::{below, random, shuffle};

/// Where batches come from: windows that may start at any of a number of places.
pub trait Windows: Debug + Send + Sync {
    /// Tokens of a window.
    fn seq(&self) -> usize;

    /// Places where a window may start.
    fn places(&self) -> u64;

    /// Places from one window to the next that has no target in common with it.
    fn stride(&self) -> u64;

    /// Fills a lane with the window that starts at `place`. A place of a sweep may lie up to `stride - 1` beyond the last: that
    /// window is short, and the rest of its lane stays padding.
    fn read(&self, place: u64, lane: Lane<'_>);

    /// Windows of a sweep that has every target once.
    fn sweep(&self) -> u64 {
        (self.places() + self.stride() - 1).div_ceil(self.stride())
    }
}

/// In which order windows of a split are visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Windows start anywhere, drawn uniformly with replacement, without end: nanoGPT's.
    Crops,
    /// Every epoch visits disjoint windows once, in random order and starting at a random phase below the stride, so that the
    /// window borders move; less than one window at either end is left out. A batch may span two epochs. Without end.
    #[default]
    Shuffled,
    /// One sweep in order that has every target exactly once. The last lanes are padded and masked. The windows do not depend on
    /// the batch size, so neither does a loss summed over the sweep. For evaluation.
    Sequential,
    /// Every epoch visits the same disjoint windows once, the full ones of a sweep, in random order. Without end. For what is
    /// kept of every window.
    Fixed,
}

/// How to put windows into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoaderConfig {
    /// Lanes in a batch.
    pub batch: usize,
    /// Order of windows.
    pub order: Order,
    /// Seed of the random orders.
    pub seed: u64,
}

/// A position in the data: which window comes next. Plain data, to be saved in a checkpoint.
///
/// It counts windows, not batches, and so survives a change of batch size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderState {
    /// Order it was taken in.
    pub order: Order,
    /// Seed it was taken with.
    pub seed: u64,
    /// Tokens of the windows it was taken with.
    pub seq: usize,
    /// Places of the split it was taken from.
    pub places: u64,
    /// Epoch of the next window, from 0. Only `Shuffled` and `Fixed` have more than one.
    pub epoch: u64,
    /// Number of the next window in its epoch, from 0.
    pub window: u64,
}

/// Puts the windows of a split into batches.
#[derive(Debug)]
pub struct Loader {
    windows: Arc<dyn Windows>,
    batch: usize,
    state: LoaderState,
    /// Window starts of an epoch of `Shuffled` or `Fixed`, made when first needed.
    shuffled: Option<(u64, Vec<u64>)>,
}

impl Loader {
    /// A loader at the start of the data.
    ///
    /// # Errors
    /// [`LoaderError::Setting`] for a batch of zero lanes, or windows without a place or a token.
    pub fn new(windows: Arc<dyn Windows>, config: LoaderConfig) -> Result<Self, LoaderError> {
        let LoaderConfig { batch, order, seed } = config;
        let (seq, places) = (windows.seq(), windows.places());
        for (field, value) in [("batch", batch), ("seq", seq), ("places", places as usize)] {
            if value == 0 {
                return Err(LoaderError::Setting { field, value });
            }
        }
        let state = LoaderState {
            order,
            seed,
            seq,
            places,
            epoch: 0,
            window: 0,
        };
        Ok(Self {
            windows,
            batch,
            state,
            shuffled: None,
        })
    }

    /// The next batch; none only at the end of `Sequential`.
    pub fn next_batch(&mut self) -> Option<TokenBatch> {
        let mut batch = TokenBatch::empty(self.batch, self.state.seq);
        let mut lanes = 0;
        while lanes < self.batch
            && let Some(place) = self.next_place()
        {
            self.windows.read(place, batch.lane(lanes));
            lanes += 1;
        }
        (lanes > 0).then_some(batch)
    }

    /// Batches of a whole sweep, where the order has an end.
    pub fn num_batches(&self) -> Option<u64> {
        (self.state.order == Order::Sequential)
            .then(|| self.windows.sweep().div_ceil(self.batch as u64))
    }

    /// Where the next batch starts.
    pub fn state(&self) -> LoaderState {
        self.state
    }

    /// Continues at a position taken from a loader of the same split, order, seq and seed; the batch size may differ.
    ///
    /// # Errors
    /// [`LoaderError::StateMismatch`] naming the first field that differs.
    pub fn restore(&mut self, state: LoaderState) -> Result<(), LoaderError> {
        let mine = self.state;
        let (order, my_order) = (format!("{:?}", state.order), format!("{:?}", mine.order));
        let fields = [
            ("order", order, my_order),
            ("seed", state.seed.to_string(), mine.seed.to_string()),
            ("seq", state.seq.to_string(), mine.seq.to_string()),
            ("places", state.places.to_string(), mine.places.to_string()),
        ];
        let differs = |(_, found, expected): &(_, String, String)| found != expected;
        if let Some((field, found, expected)) = fields.into_iter().find(differs) {
            return Err(LoaderError::StateMismatch {
                field,
                found,
                expected,
            });
        }
        self.state = state;
        Ok(())
    }

    /// Where the next window starts, and moves on.
    fn next_place(&mut self) -> Option<u64> {
        let LoaderState {
            order,
            seed,
            places,
            epoch,
            window,
            ..
        } = self.state;
        let stride = self.windows.stride();
        let place = match order {
            Order::Crops => below(&mut random(seed, order as u8, 0, window), places),
            Order::Sequential if window >= self.windows.sweep() => return None,
            Order::Sequential => window * stride,
            Order::Shuffled | Order::Fixed => {
                if self.shuffled.as_ref().is_none_or(|(of, _)| *of != epoch) {
                    let starts = shuffled_starts(order, seed, epoch, [stride, places]);
                    self.shuffled = Some((epoch, starts));
                }
                let (_, starts) = self.shuffled.as_ref()?;
                match starts.get(window as usize) {
                    Some(start) => *start,
                    None => {
                        (self.state.epoch, self.state.window) = (epoch + 1, 0);
                        return self.next_place();
                    }
                }
            }
        };
        self.state.window += 1;
        Some(place)
    }
}

/// Starts of the windows of one epoch in the order they are visited.
fn shuffled_starts(order: Order, seed: u64, epoch: u64, [stride, places]: [u64; 2]) -> Vec<u64> {
    let mut rng = random(seed, order as u8, epoch, 0);
    let phase = match order {
        Order::Fixed => 0,
        _ => below(&mut rng, stride.min(places)),
    };
    let windows = (places + stride - 1 - phase) / stride;
    let mut starts: Vec<u64> = (0..windows).map(|window| phase + window * stride).collect();
    shuffle(&mut rng, &mut starts);
    starts
}

#[cfg(test)]
mod tests;
