//! Batches out of a token store, in an order that a few numbers determine.
//!
//! Nothing random is carried from batch to batch: window number `n` of epoch `e` is a function of (seed, e, n), so a
//! saved [`LoaderState`] continues exactly where it was taken. The random numbers are ChaCha8's, whose values are fixed
//! by its definition and do not change between versions of a library.

mod batch;
mod prefetch;

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

pub use batch::TokenBatch;
pub use prefetch::Prefetcher;

use crate::error::DataError;
use crate::store::TokenStore;

/// In which order windows of a split are visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Windows start anywhere, drawn uniformly with replacement, without end: nanoGPT's.
    Crops,
    /// Every epoch visits disjoint windows once, in random order and starting at a random phase below `seq`, so that the
    /// window borders move; less than one window at either end is left out. A batch may span two epochs. Without end.
    #[default]
    Shuffled,
    /// One sweep in order that predicts every token but the first exactly once. The last lanes are padded and masked.
    /// The windows do not depend on the batch size, so neither does a loss summed over the sweep. For evaluation.
    Sequential,
}

/// How to cut a split into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoaderConfig {
    /// Lanes in a batch.
    pub batch: usize,
    /// Tokens in a lane.
    pub seq: usize,
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
    /// Window length it was taken with.
    pub seq: usize,
    /// Length of the split it was taken from.
    pub tokens: u64,
    /// Epoch of the next window, from 0. Only `Shuffled` has more than one.
    pub epoch: u64,
    /// Number of the next window in its epoch, from 0.
    pub window: u64,
}

/// Cuts a split into batches.
#[derive(Debug)]
pub struct Loader {
    store: Arc<TokenStore>,
    batch: usize,
    state: LoaderState,
    /// Window starts of an epoch of `Shuffled`, made when first needed.
    shuffled: Option<(u64, Vec<u64>)>,
}

impl Loader {
    /// A loader at the start of the data.
    ///
    /// # Errors
    /// [`DataError::LoaderSetting`] for a batch or seq of zero, [`DataError::SplitTooShort`] for a split below `seq + 1`
    /// tokens.
    pub fn new(store: Arc<TokenStore>, config: LoaderConfig) -> Result<Self, DataError> {
        let LoaderConfig {
            batch,
            seq,
            order,
            seed,
        } = config;
        for (field, value) in [("batch", batch), ("seq", seq)] {
            if value == 0 {
                return Err(DataError::LoaderSetting { field, value });
            }
        }
        let (tokens, needed) = (store.len(), (seq as u64).saturating_add(1));
        if tokens < needed {
            return Err(DataError::SplitTooShort {
                tokens,
                seq,
                needed,
            });
        }
        let state = LoaderState {
            order,
            seed,
            seq,
            tokens,
            epoch: 0,
            window: 0,
        };
        Ok(Self {
            store,
            batch,
            state,
            shuffled: None,
        })
    }

    /// The next batch; none only at the end of `Sequential`.
    pub fn next_batch(&mut self) -> Option<TokenBatch> {
        let LoaderState { seq, tokens, .. } = self.state;
        let mut batch = TokenBatch::empty(self.batch, seq);
        let mut window = Vec::with_capacity(seq + 1);
        for lane in 0..self.batch {
            let Some(start) = self.next_start() else {
                break;
            };
            self.store
                .read(start..tokens.min(start + seq as u64 + 1), &mut window);
            batch.set_lane(lane, &window);
        }
        debug_assert!(batch.check_alignment().is_ok());
        // Every window predicts at least one token, so an unused first lane means an empty batch.
        batch.mask[0].then_some(batch)
    }

    /// Batches of a whole sweep, where the order has an end.
    pub fn num_batches(&self) -> Option<u64> {
        (self.state.order == Order::Sequential)
            .then(|| self.sequential_windows().div_ceil(self.batch as u64))
    }

    /// Where the next batch starts.
    pub fn state(&self) -> LoaderState {
        self.state
    }

    /// Continues at a position taken from a loader of the same split, order, seq and seed; the batch size may differ.
    ///
    /// # Errors
    /// [`DataError::StateMismatch`] naming the first field that differs.
    pub fn restore(&mut self, state: LoaderState) -> Result<(), DataError> {
        let mine = self.state;
        let fields = [
            (
                "order",
                format!("{:?}", state.order),
                format!("{:?}", mine.order),
            ),
            ("seed", state.seed.to_string(), mine.seed.to_string()),
            ("seq", state.seq.to_string(), mine.seq.to_string()),
            ("tokens", state.tokens.to_string(), mine.tokens.to_string()),
        ];
        if let Some((field, found, expected)) = fields
            .into_iter()
            .find(|(_, found, expected)| found != expected)
        {
            return Err(DataError::StateMismatch {
                field,
                found,
                expected,
            });
        }
        self.state = state;
        Ok(())
    }

    /// Start of the next window, and moves on.
    fn next_start(&mut self) -> Option<u64> {
        let LoaderState {
            order,
            seed,
            seq,
            tokens,
            epoch,
            window,
        } = self.state;
        let seq = seq as u64;
        let start = match order {
            Order::Crops => below(&mut random(seed, order, 0, window), tokens - seq),
            Order::Sequential if window >= self.sequential_windows() => return None,
            Order::Sequential => window * seq,
            Order::Shuffled => {
                if self.shuffled.as_ref().is_none_or(|(of, _)| *of != epoch) {
                    self.shuffled = Some((epoch, shuffled_starts(seed, epoch, seq, tokens)));
                }
                let (_, starts) = self.shuffled.as_ref()?;
                match starts.get(window as usize) {
                    Some(start) => *start,
                    None => {
                        (self.state.epoch, self.state.window) = (epoch + 1, 0);
                        return self.next_start();
                    }
                }
            }
        };
        self.state.window += 1;
        Some(start)
    }

    fn sequential_windows(&self) -> u64 {
        (self.state.tokens - 1).div_ceil(self.state.seq as u64)
    }
}

/// Starts of the windows of one epoch in the order they are visited.
fn shuffled_starts(seed: u64, epoch: u64, seq: u64, tokens: u64) -> Vec<u64> {
    let mut rng = random(seed, Order::Shuffled, epoch, 0);
    let phase = below(&mut rng, seq.min(tokens - seq));
    let windows = (tokens - 1 - phase) / seq;
    let mut starts: Vec<u64> = (0..windows).map(|window| phase + window * seq).collect();
    for last in (1..starts.len()).rev() {
        starts.swap(last, below(&mut rng, last as u64 + 1) as usize);
    }
    starts
}

/// The generator that belongs to a place in the data.
fn random(seed: u64, order: Order, epoch: u64, window: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8] = order as u8;
    key[16..24].copy_from_slice(&epoch.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(window);
    rng
}

/// A number below `bound`, uniform up to a bias of `bound / 2^64`.
fn below(rng: &mut ChaCha8Rng, bound: u64) -> u64 {
    ((u128::from(rng.next_u64()) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests;
