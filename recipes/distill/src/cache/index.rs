//! Which window a lane is.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use kiln_loader::{Lane, TokenBatch, Windows};

use super::CacheError;

/// Windows by their contents. A teacher's answers follow from the tokens of a window alone, so two equal windows may share them,
/// and a batch need not know where its lanes come from.
#[derive(Debug)]
pub struct WindowIndex {
    /// 64 bits of a hash: of a billion windows, two different ones are alike with a probability of 3 %, of a million 3e-8.
    numbers: HashMap<u64, u64>,
}

impl WindowIndex {
    /// Reads every full window of a sweep once.
    pub fn new(windows: &dyn Windows) -> Self {
        let numbers = (0..Self::count(windows)).map(|number| {
            let batch = Self::batch(windows, number..number + 1);
            (fingerprint(&batch.inputs), number)
        });
        Self {
            numbers: numbers.collect(),
        }
    }

    /// Windows that a cache holds: those of a sweep, but for a last one that is not full.
    pub fn count(windows: &dyn Windows) -> u64 {
        windows.places().div_ceil(windows.stride())
    }

    /// Some windows as a batch, one lane each.
    pub fn batch(windows: &dyn Windows, numbers: std::ops::Range<u64>) -> TokenBatch {
        let (lanes, seq) = ((numbers.end - numbers.start) as usize, windows.seq());
        let mut batch = TokenBatch {
            batch: lanes,
            seq,
            inputs: vec![0; lanes * seq],
            targets: vec![0; lanes * seq],
            mask: vec![false; lanes * seq],
        };
        let inputs = batch.inputs.chunks_mut(seq);
        let targets = batch.targets.chunks_mut(seq);
        let masks = batch.mask.chunks_mut(seq);
        for (number, ((inputs, targets), mask)) in numbers.zip(inputs.zip(targets).zip(masks)) {
            let lane = Lane {
                inputs,
                targets,
                mask,
            };
            windows.read(number * windows.stride(), lane);
        }
        batch
    }

    /// The window of a lane.
    ///
    /// # Errors
    /// [`CacheError::UnknownWindow`].
    pub fn find(&self, batch: &TokenBatch, lane: usize) -> Result<u64, CacheError> {
        let inputs = &batch.inputs[lane * batch.seq..(lane + 1) * batch.seq];
        let number = self.numbers.get(&fingerprint(inputs)).copied();
        number.ok_or(CacheError::UnknownWindow { lane })
    }
}

fn fingerprint(inputs: &[u32]) -> u64 {
    // Made and used within one process, so it need not be the same in the next version of Rust.
    let mut hasher = DefaultHasher::new();
    inputs.hash(&mut hasher);
    hasher.finish()
}
