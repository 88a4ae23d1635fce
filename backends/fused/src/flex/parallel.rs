//! Cutting work into pieces, and writing the pieces' results side by side.

use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::Range;

use rayon::prelude::*;

/// Elements a piece of elementwise work has: some ten microseconds, far above the cost of handing it out.
const PIECE: usize = 16 * 1024;

/// Rows a piece has. A function of the shape alone, so that sums over pieces do not depend on the number of threads.
pub(super) fn piece_rows(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// Calls `work` for every piece of rows `[rows, width]`; `index` counts the pieces.
pub(super) fn for_each_piece(
    rows: usize,
    width: usize,
    work: impl Fn(usize, Range<usize>) + Sync + Send,
) {
    let step = piece_rows(width);
    for_each(rows.div_ceil(step), |index| {
        work(index, index * step..rows.min((index + 1) * step));
    });
}

/// Calls `work` for every index below `count`, on all threads if there are several.
pub(super) fn for_each(count: usize, work: impl Fn(usize) + Sync + Send) {
    if count > 1 && rayon::current_num_threads() > 1 {
        (0..count).into_par_iter().for_each(work);
    } else {
        (0..count).for_each(work);
    }
}

/// A new buffer that several pieces fill at once, each its own part, without zeroing it first.
pub(super) struct Output {
    buffer: *mut f32,
    len: usize,
    capacity: usize,
}

// SAFETY: the buffer is reached only through `part` and `start`, whose callers promise disjoint ranges, and `finish`,
// which takes the value itself.
unsafe impl Sync for Output {}

impl Output {
    pub fn new(len: usize) -> Self {
        let mut buffer = ManuallyDrop::new(Vec::with_capacity(len));
        Self {
            buffer: buffer.as_mut_ptr(),
            len,
            capacity: buffer.capacity(),
        }
    }

    /// Elements `range` of the buffer.
    ///
    /// # Safety
    /// No other part that is in use overlaps this one.
    #[expect(clippy::mut_from_ref, reason = "callers hold disjoint parts")]
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [MaybeUninit<f32>] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: the range lies inside the buffer by the assertion, and is this caller's own by contract.
        unsafe { std::slice::from_raw_parts_mut(self.buffer.add(range.start).cast(), range.len()) }
    }

    /// Where element `index` is or, if it equals the length, would be.
    pub fn start(&self, index: usize) -> *mut f32 {
        assert!(index <= self.len);
        // SAFETY: inside the buffer by the assertion.
        unsafe { self.buffer.add(index) }
    }

    /// The finished buffer. (After a panic in a piece it is leaked instead.)
    ///
    /// # Safety
    /// Every element has been written.
    pub unsafe fn finish(self) -> Vec<f32> {
        // SAFETY: pointer and capacity come from a `Vec` that was forgotten, and `len` elements were written.
        unsafe { Vec::from_raw_parts(self.buffer, self.len, self.capacity) }
    }
}

/// Partial sums of several pieces, added in order: `[pieces, width]` to `[width]`.
pub(super) fn add_pieces(partial: &[f32], width: usize) -> Vec<f32> {
    let mut total = vec![0.0; width];
    for piece in partial.chunks_exact(width) {
        for (total, &value) in total.iter_mut().zip(piece) {
            *total += value;
        }
    }
    total
}
