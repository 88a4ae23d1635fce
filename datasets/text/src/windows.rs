//! Windows of consecutive tokens: position `i` of a lane predicts the token after it.

use std::sync::Arc;

use kiln_loader::{Lane, Windows};

use crate::error::DataError;
use crate::store::TokenStore;

/// The windows of `seq` tokens and the one after them that a split has.
#[derive(Debug)]
pub struct TextWindows {
    store: Arc<TokenStore>,
    seq: usize,
}

impl TextWindows {
    /// Windows of `seq` tokens.
    ///
    /// # Errors
    /// [`DataError::WindowTooShort`] for a seq of zero, [`DataError::SplitTooShort`] for a split below `seq + 1` tokens.
    pub fn new(store: Arc<TokenStore>, seq: usize) -> Result<Self, DataError> {
        if seq == 0 {
            return Err(DataError::WindowTooShort);
        }
        let (tokens, needed) = (store.len(), (seq as u64).saturating_add(1));
        if tokens < needed {
            return Err(DataError::SplitTooShort {
                tokens,
                seq,
                needed,
            });
        }
        Ok(Self { store, seq })
    }
}

impl Windows for TextWindows {
    fn seq(&self) -> usize {
        self.seq
    }

    fn places(&self) -> u64 {
        self.store.len() - self.seq as u64
    }

    /// The targets of a window end where its first input's next window begins.
    fn stride(&self) -> u64 {
        self.seq as u64
    }

    fn read(&self, place: u64, lane: Lane<'_>) {
        let end = self.store.len().min(place + self.seq as u64 + 1);
        let mut tokens = Vec::with_capacity(self.seq + 1);
        self.store.read(place..end, &mut tokens);
        let predicted = tokens.len() - 1;
        lane.inputs[..predicted].copy_from_slice(&tokens[..predicted]);
        lane.targets[..predicted].copy_from_slice(&tokens[1..]);
        lane.mask[..predicted].fill(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_loader::{Loader, LoaderConfig, Order, TokenBatch};

    /// Token `i` of the stream is `10 + i`, and padding is 0.
    fn windows(tokens: u32, seq: usize) -> Result<Arc<TextWindows>, DataError> {
        let ids = (10..10 + tokens).collect();
        let store = TokenStore::from_tokens(ids, u64::from(tokens), 10 + tokens)?;
        TextWindows::new(Arc::new(store), seq).map(Arc::new)
    }

    fn sweep(tokens: u32, seq: usize, batch: usize) -> Vec<TokenBatch> {
        let config = LoaderConfig {
            batch,
            order: Order::Sequential,
            seed: 0,
        };
        let mut loader = Loader::new(windows(tokens, seq).unwrap(), config).unwrap();
        std::iter::from_fn(|| loader.next_batch()).collect()
    }

    /// Inputs and targets are aligned: a target is the next input of its lane, in windows that are full and in the short last one.
    #[test]
    fn a_sweep_has_every_token_but_the_first_as_target_of_the_one_before_it() {
        for (tokens, seq, batch) in [(8, 3, 2), (7, 3, 2), (4, 3, 1), (30, 4, 3)] {
            let mut targets = Vec::new();
            for batch in sweep(tokens, seq, batch) {
                for at in (0..batch.mask.len()).filter(|at| batch.mask[*at]) {
                    assert_eq!(batch.targets[at], batch.inputs[at] + 1);
                    targets.push(batch.targets[at]);
                }
            }
            assert_eq!(targets, (11..10 + tokens).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_short_window_is_padded_and_masked() {
        let batches = sweep(6, 3, 2);
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].inputs, [10, 11, 12, 13, 14, 0]);
        assert_eq!(batches[0].targets, [11, 12, 13, 14, 15, 0]);
        assert_eq!(batches[0].mask, [true, true, true, true, true, false]);
        assert_eq!(batches[0].num_tokens(), 5);
    }

    #[test]
    fn a_split_that_fills_no_window_is_named() {
        assert_eq!(
            windows(10, 10).unwrap_err().to_string(),
            "the split has 10 tokens, a window of seq = 10 needs 11: use more text or a shorter seq"
        );
        assert_eq!(
            windows(10, 0).unwrap_err().to_string(),
            "a window of seq = 0 tokens predicts nothing: give a seq of at least 1"
        );
    }
}
