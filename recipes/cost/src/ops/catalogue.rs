//! Which operations are timed, at the sizes of a model.

use super::operation::Entry;
use super::{products, recurrences, rows, updates};

/// Sizes of a model and of a batch of it.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub batch: usize,
    pub seq: usize,
    pub d_model: usize,
    pub heads: usize,
    pub d_hidden: usize,
    pub vocab: usize,
}

/// The models of 136M parameters, as the recipes for GPUs train them.
pub(super) const GPU: Sizes = Sizes {
    batch: 16,
    seq: 1024,
    d_model: 768,
    heads: 12,
    d_hidden: 3072,
    vocab: 32_768,
};
/// nanoGPT's configuration for a CPU, with the vocabulary of the quickstart.
pub(super) const CPU: Sizes = Sizes {
    batch: 12,
    seq: 64,
    d_model: 128,
    heads: 4,
    d_hidden: 512,
    vocab: 1024,
};
/// Enough for every kernel to have more than one piece of work.
pub(super) const QUICK: Sizes = Sizes {
    batch: 2,
    seq: 64,
    d_model: 64,
    heads: 2,
    d_hidden: 128,
    vocab: 256,
};

impl Sizes {
    /// Positions of a batch.
    pub fn rows(&self) -> usize {
        self.batch * self.seq
    }

    pub fn d_head(&self) -> usize {
        self.d_model / self.heads
    }
}

/// All entries, operations of a kind beside each other.
pub(super) fn entries(sizes: Sizes) -> Vec<Entry> {
    let mut all = recurrences::entries(sizes);
    all.extend(products::entries(sizes));
    all.extend(rows::entries(sizes));
    all.extend(updates::entries(sizes));
    all
}
