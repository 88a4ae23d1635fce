//! Blocks of queries: which keys they need, and the products over those keys.

use std::ops::Range;

use gemm::Parallelism;

use super::super::product::{Target, View, product};
use super::Problem;
use crate::mask::AttentionMask;

/// Queries of a block.
pub(super) const BLOCK: usize = 64;

/// Queries that are handled together, and the keys that at least one of them sees: a column of their weights for each of the
/// `sinks` first keys, then one for each of the `band`.
pub(super) struct Block {
    mask: AttentionMask,
    seq: usize,
    /// The first query.
    pub first: usize,
    /// Number of queries.
    pub count: usize,
    sinks: usize,
    band: Range<usize>,
}

/// Keys of a block that follow each other: the first of them, its column, and how many.
type Stretch = (usize, usize, usize);

impl Block {
    pub fn new(mask: AttentionMask, first: usize, seq: usize) -> Self {
        let count = BLOCK.min(seq - first);
        // Once a query has a gap before its window, all later ones have.
        let [sinks, start] = mask.seen(first, seq);
        let [_, end] = mask.seen(first + count - 1, seq);
        Self {
            mask,
            seq,
            first,
            count,
            sinks: sinks.end,
            band: start.start..end.end,
        }
    }

    /// Number of keys, which is that of columns.
    pub fn keys(&self) -> usize {
        self.sinks + self.band.len()
    }

    /// Columns that row `row` sees, as [`AttentionMask::seen`] has positions.
    #[inline(always)]
    pub fn seen(&self, row: usize) -> [Range<usize>; 2] {
        let [sinks, band] = self.mask.seen(self.first + row, self.seq);
        let column = |position: usize| position - self.band.start + self.sinks;
        [sinks, column(band.start)..column(band.end)]
    }

    fn stretches(&self) -> impl Iterator<Item = Stretch> {
        let band = (self.band.start, self.sinks, self.band.len());
        [(0, 0, self.sinks), band]
            .into_iter()
            .filter(|&(_, _, len)| len > 0)
    }

    /// `factor rows keys^T`, `[count, keys]`.
    ///
    /// # Safety
    /// `rows` are `count` rows of `d_head`, `keys` the unit's keys or values.
    pub unsafe fn against_keys(
        &self,
        rows: View,
        keys: View,
        problem: Problem,
        factor: f32,
        out: &mut [f32],
    ) {
        let stride = self.keys();
        assert!(out.len() >= self.count * stride);
        for (key, column, len) in self.stretches() {
            let target = Target {
                start: out[column..].as_mut_ptr(),
                stride,
                add: false,
            };
            let keys = rows_from(keys, key).transposed();
            let sizes = [self.count, len, problem.d_head];
            // SAFETY: the caller's promise; `out` has room for the block by the assertion.
            unsafe { product(sizes, target, rows, keys, factor, Parallelism::None) };
        }
    }

    /// `factor weights keys`, `[count, d_head]`.
    ///
    /// # Safety
    /// `keys` are the unit's keys or values, `target` has `count` rows of its own.
    pub unsafe fn over_keys(
        &self,
        weights: &[f32],
        keys: View,
        problem: Problem,
        factor: f32,
        target: Target,
    ) {
        assert!(weights.len() >= self.count * self.keys());
        for (key, column, len) in self.stretches() {
            let weights = View::rows(weights[column..].as_ptr(), self.keys());
            let add = column > 0;
            let sizes = [self.count, problem.d_head, len];
            // SAFETY: the caller's promise, and the assertion.
            unsafe {
                product(
                    sizes,
                    Target { add, ..target },
                    weights,
                    rows_from(keys, key),
                    factor,
                    Parallelism::None,
                );
            }
        }
    }

    /// `factor weights^T rows` into those rows of `target` that are the block's keys.
    ///
    /// # Safety
    /// `rows` are `count` rows of `d_head`, `target` the rows of the unit's keys or values.
    pub unsafe fn onto_keys(
        &self,
        weights: &[f32],
        rows: View,
        problem: Problem,
        factor: f32,
        target: Target,
    ) {
        assert!(weights.len() >= self.count * self.keys());
        for (key, column, len) in self.stretches() {
            let weights = View::rows(weights[column..].as_ptr(), self.keys()).transposed();
            let start = target.start.wrapping_add(key * target.stride);
            let sizes = [len, problem.d_head, self.count];
            // SAFETY: the caller's promise, and the assertion.
            unsafe {
                product(
                    sizes,
                    Target { start, ..target },
                    weights,
                    rows,
                    factor,
                    Parallelism::None,
                );
            }
        }
    }
}

/// The view from row `first` on.
pub(super) fn rows_from(view: View, first: usize) -> View {
    View {
        start: view.start.wrapping_offset(first as isize * view.row),
        ..view
    }
}
