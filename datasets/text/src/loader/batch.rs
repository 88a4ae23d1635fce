//! What a model is trained on: aligned inputs and targets.

use crate::error::DataError;

/// A batch of token windows. `inputs`, `targets` and `mask` are row-major `[batch, seq]`.
///
/// Position `i` of a lane predicts the token after it: `inputs[i + 1] == targets[i]` inside a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    /// Number of lanes (rows).
    pub batch: usize,
    /// Tokens in a lane.
    pub seq: usize,
    /// What the model sees.
    pub inputs: Vec<u32>,
    /// What it has to predict.
    pub targets: Vec<u32>,
    /// Which targets count. Where it is false, input and target are padding (token 0).
    pub mask: Vec<bool>,
}

impl TokenBatch {
    /// A batch of padding only.
    pub(super) fn empty(batch: usize, seq: usize) -> Self {
        let size = batch * seq;
        Self {
            batch,
            seq,
            inputs: vec![0; size],
            targets: vec![0; size],
            mask: vec![false; size],
        }
    }

    /// Fills a lane from `window`, at most `seq + 1` consecutive tokens; the rest of the lane stays padding.
    pub(super) fn set_lane(&mut self, lane: usize, window: &[u32]) {
        let predicted = window.len() - 1;
        let at = lane * self.seq..lane * self.seq + predicted;
        self.inputs[at.clone()].copy_from_slice(&window[..predicted]);
        self.targets[at.clone()].copy_from_slice(&window[1..]);
        self.mask[at].fill(true);
    }

    /// Number of targets that count: what a mean over tokens divides by.
    pub fn num_tokens(&self) -> usize {
        self.mask.iter().filter(|counts| **counts).count()
    }

    /// Checks that every counted input is the target before it.
    ///
    /// # Errors
    /// [`DataError::Misaligned`] for the first that is not.
    pub fn check_alignment(&self) -> Result<(), DataError> {
        for lane in 0..self.batch {
            for position in 1..self.seq {
                let at = lane * self.seq + position;
                let (input, target) = (self.inputs[at], self.targets[at - 1]);
                if self.mask[at] && input != target {
                    return Err(DataError::Misaligned {
                        lane,
                        position,
                        input,
                        target,
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_window_is_padded_and_masked() {
        let mut batch = TokenBatch::empty(2, 3);
        batch.set_lane(0, &[5, 6, 7, 8]);
        batch.set_lane(1, &[8, 9]);
        assert_eq!(batch.inputs, [5, 6, 7, 8, 0, 0]);
        assert_eq!(batch.targets, [6, 7, 8, 9, 0, 0]);
        assert_eq!(batch.mask, [true, true, true, true, false, false]);
        assert_eq!(batch.num_tokens(), 4);
        batch.check_alignment().unwrap();
        batch.inputs[2] = 1;
        let message = batch.check_alignment().unwrap_err().to_string();
        assert_eq!(
            message,
            "lane 0 is misaligned: input 2 is token 1, the target before it is 7"
        );
    }
}
