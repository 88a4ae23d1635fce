//! Windows of consecutive tokens: position `i` of a lane predicts the token after it. Windows of a sweep stand side by side, or
//! slide, so that the targets of each have the tokens before them for context.

use std::sync::Arc;

use kiln_loader::{Lane, Windows};

use crate::error::DataError;
use crate::store::TokenStore;

/// The windows of `seq` tokens and the one after them that a split has.
#[derive(Debug)]
pub struct TextWindows {
    store: Arc<TokenStore>,
    seq: usize,
    /// Targets of every window of a sweep but the first.
    stride: usize,
    /// Tokens of the split that are looked at.
    end: u64,
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
        Ok(Self {
            store,
            seq,
            stride: seq,
            end: tokens,
        })
    }

    /// Windows of `context` tokens that begin `stride` tokens apart. A sweep has every target once, of the first `most` if that is
    /// not 0: the first window has all its targets, every later one its last `stride`, which so see at least
    /// `context - stride + 1` tokens. Targets of a sweep do not depend on `context`.
    ///
    /// # Errors
    /// Those of [`TextWindows::new`]; [`DataError::Stride`] for a stride of 0 or above the context.
    pub fn sliding(
        store: Arc<TokenStore>,
        context: usize,
        stride: usize,
        most: u64,
    ) -> Result<Self, DataError> {
        if !(1..=context).contains(&stride) && context > 0 {
            return Err(DataError::Stride { stride, context });
        }
        let whole = Self::new(store, context)?;
        let end = match most {
            0 => whole.end,
            most => whole.end.min(most.max(context as u64).saturating_add(1)),
        };
        Ok(Self {
            stride,
            end,
            ..whole
        })
    }
}

impl Windows for TextWindows {
    fn seq(&self) -> usize {
        self.seq
    }

    fn places(&self) -> u64 {
        self.end - self.seq as u64
    }

    /// The new targets of a window end where those of the next begin.
    fn stride(&self) -> u64 {
        self.stride as u64
    }

    fn read(&self, place: u64, lane: Lane<'_>) {
        let end = self.end.min(place + self.seq as u64 + 1);
        let mut tokens = Vec::with_capacity(self.seq + 1);
        self.store.read(place..end, &mut tokens);
        let predicted = tokens.len() - 1;
        lane.inputs[..predicted].copy_from_slice(&tokens[..predicted]);
        lane.targets[..predicted].copy_from_slice(&tokens[1..]);
        // What stands before was a target of the window before.
        let seen = match place {
            0 => 0,
            _ => self.seq - self.stride,
        };
        lane.mask[seen.min(predicted)..predicted].fill(true);
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

    /// Every target once, whatever the context, and none with less of it than promised.
    #[test]
    fn sliding_windows_have_every_target_once_and_enough_context() {
        for (tokens, context, stride, most) in [
            (30, 8, 3, 0),
            (30, 8, 8, 0),
            (29, 5, 1, 0),
            (9, 8, 2, 0),
            (40, 6, 4, 17),
        ] {
            let ids = (10..10 + tokens).collect();
            let store = TokenStore::from_tokens(ids, u64::from(tokens), 10 + tokens).unwrap();
            let windows = TextWindows::sliding(Arc::new(store), context, stride, most).unwrap();
            let config = LoaderConfig {
                batch: 2,
                order: Order::Sequential,
                seed: 0,
            };
            let mut loader = Loader::new(Arc::new(windows), config).unwrap();
            let mut targets = Vec::new();
            for batch in std::iter::from_fn(|| loader.next_batch()) {
                for at in (0..batch.mask.len()).filter(|at| batch.mask[*at]) {
                    assert_eq!(batch.targets[at], batch.inputs[at] + 1);
                    targets.push(batch.targets[at]);
                    let seen = at % context + 1;
                    let is_first = targets.len() <= context;
                    assert!(is_first || seen > context - stride, "{seen} of {context}");
                }
            }
            let last = if most == 0 {
                10 + tokens
            } else {
                11 + most as u32
            };
            assert_eq!(targets, (11..last).collect::<Vec<_>>());
        }
        let store = Arc::new(TokenStore::from_tokens(vec![1; 20], 20, 2).unwrap());
        for stride in [0, 9] {
            let error = TextWindows::sliding(Arc::clone(&store), 8, stride, 0).unwrap_err();
            let text = format!(
                "windows of 8 tokens cannot begin {stride} tokens apart: give a stride from 1 to 8"
            );
            assert_eq!(error.to_string(), text);
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
