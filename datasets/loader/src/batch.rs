//! What a model is trained on: inputs, and what they have to predict.

/// A batch of token windows. `inputs`, `targets` and `mask` are row-major `[batch, seq]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    /// Number of lanes (rows).
    pub batch: usize,
    /// Tokens in a lane.
    pub seq: usize,
    /// What the model sees.
    pub inputs: Vec<u32>,
    /// What it has to predict, position by position.
    pub targets: Vec<u32>,
    /// Which targets count.
    pub mask: Vec<bool>,
}

/// One lane of a batch, to be filled: as it comes, every token is 0 and no target counts. Each slice is `[seq]`.
#[derive(Debug)]
pub struct Lane<'a> {
    /// What the model sees.
    pub inputs: &'a mut [u32],
    /// What it has to predict.
    pub targets: &'a mut [u32],
    /// Which targets count.
    pub mask: &'a mut [bool],
}

impl TokenBatch {
    /// A batch of padding only: token 0, and no target that counts.
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

    pub(super) fn lane(&mut self, lane: usize) -> Lane<'_> {
        let at = lane * self.seq..(lane + 1) * self.seq;
        Lane {
            inputs: &mut self.inputs[at.clone()],
            targets: &mut self.targets[at.clone()],
            mask: &mut self.mask[at],
        }
    }

    /// Number of targets that count: what a mean over tokens divides by.
    pub fn num_tokens(&self) -> usize {
        self.mask.iter().filter(|counts| **counts).count()
    }
}
