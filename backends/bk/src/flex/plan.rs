//! Splitting a problem into blocks of heads, and writing the blocks' results side by side.

use std::mem::ManuallyDrop;

use rayon::prelude::*;

use super::simd::{self, Lanes};

/// Below this many elements the problem takes about as long as waking other threads up.
const PARALLEL_MIN_ELEMENTS: usize = 32 * 1024;

/// The dimensions of a problem.
#[derive(Clone, Copy)]
pub(super) struct Dims {
    pub batch: usize,
    pub seq: usize,
    pub heads: usize,
}

impl Dims {
    pub fn features(self) -> [usize; 3] {
        [self.batch, self.seq, 2 * self.heads]
    }

    /// Where position `i` of a batch row starts in a tensor `[batch, seq, width]`.
    pub fn row(self, batch: usize, i: usize, width: usize) -> usize {
        (batch * self.seq + i) * width
    }
}

/// Heads `first .. first + count` of one batch row: one unit of sequential work.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub batch: usize,
    pub first: usize,
    pub count: usize,
}

impl Block {
    /// The block in pieces of at most `width`.
    #[inline(always)]
    pub fn pieces(self, width: usize) -> impl Iterator<Item = Self> {
        let end = self.first + self.count;
        (self.first..end).step_by(width).map(move |first| Self {
            first,
            count: width.min(end - first),
            ..self
        })
    }
}

/// Sequential work on one block, `W` lanes wide with `count <= W` of them in use.
///
/// Implementations mark `run` and everything it calls `#[inline(always)]`, so that it is compiled anew for every
/// instruction set.
pub(super) trait Kernel: Sync {
    fn run<const W: usize>(&self, block: Block);
}

/// Runs the kernel on every block of the problem.
///
/// Wide blocks hide the latency of the recurrence behind independent lanes; they are narrowed only where there would be
/// fewer blocks than threads. The width never changes a result: lanes do not interact.
pub(super) fn run(dims: Dims, kernel: &impl Kernel) {
    let parallel = dims.batch * dims.seq * dims.heads >= PARALLEL_MIN_ELEMENTS;
    let threads = if parallel {
        rayon::current_num_threads()
    } else {
        1
    };
    let blocks = |width: usize| dims.batch * dims.heads.div_ceil(width);
    let width = match dims.heads {
        17.. if blocks(64) >= threads => 64,
        5.. if blocks(16) >= threads => 16,
        _ => 4,
    };
    let one = |index: usize| {
        let per_row = dims.heads.div_ceil(width);
        let first = index % per_row * width;
        let block = Block {
            batch: index / per_row,
            first,
            count: width.min(dims.heads - first),
        };
        match width {
            64 => simd::run::<64>(kernel, block),
            16 => simd::run::<16>(kernel, block),
            _ => simd::run::<4>(kernel, block),
        }
    };
    if threads > 1 {
        (0..blocks(width)).into_par_iter().for_each(one);
    } else {
        (0..blocks(width)).for_each(one);
    }
}

/// Runs the kernel once for every one of so many sequences, with all their columns: `batch` of the block is the sequence's
/// number. The width follows from the columns alone, so sums over lanes do not depend on the machine.
pub(super) fn run_sequences(sequences: usize, seq: usize, columns: usize, kernel: &impl Kernel) {
    let one = |batch: usize| {
        let block = Block {
            batch,
            first: 0,
            count: columns,
        };
        match columns {
            33.. => simd::run::<64>(kernel, block),
            17.. => simd::run::<32>(kernel, block),
            5.. => simd::run::<16>(kernel, block),
            _ => simd::run::<4>(kernel, block),
        }
    };
    if sequences * seq * columns >= PARALLEL_MIN_ELEMENTS && rayon::current_num_threads() > 1 {
        (0..sequences).into_par_iter().for_each(one);
    } else {
        (0..sequences).for_each(one);
    }
}

/// A new buffer that several blocks fill at once, each its own part, without zeroing it first.
pub(super) struct Output<T> {
    buffer: *mut T,
    len: usize,
    capacity: usize,
}

// SAFETY: the buffer is reached only through `write`, whose callers promise disjoint ranges, and `finish`, which takes
// the value itself.
unsafe impl<T: Send> Sync for Output<T> {}

impl<T: Copy> Output<T> {
    pub fn new(len: usize) -> Self {
        let mut buffer = ManuallyDrop::new(Vec::with_capacity(len));
        Self {
            buffer: buffer.as_mut_ptr(),
            len,
            capacity: buffer.capacity(),
        }
    }

    /// Writes the lanes in use to `start ..`.
    ///
    /// # Safety
    /// No other thread writes to any of these elements.
    #[inline(always)]
    pub unsafe fn write<const W: usize>(&self, start: usize, lanes: &[T; W], count: usize) {
        assert!(count <= W && start + count <= self.len);
        // SAFETY: the range lies inside the buffer by the assertion, and is this caller's own by contract.
        unsafe {
            let target = self.buffer.add(start);
            // A length known to the compiler turns the copy into vector stores.
            if count == W {
                target.copy_from_nonoverlapping(lanes.as_ptr(), W);
            } else {
                target.copy_from_nonoverlapping(lanes.as_ptr(), count);
            }
        }
    }

    /// The finished buffer. (After a panic in a block it is leaked instead.)
    ///
    /// # Safety
    /// Every element has been written.
    pub unsafe fn finish(self) -> Vec<T> {
        // SAFETY: pointer and capacity come from a `Vec` that was forgotten, and `len` elements were written.
        unsafe { Vec::from_raw_parts(self.buffer, self.len, self.capacity) }
    }
}

/// Reads the lanes in use from `start ..`; the others hold `idle`.
#[inline(always)]
pub(super) fn load<const W: usize>(
    source: &[f32],
    start: usize,
    count: usize,
    idle: f32,
) -> Lanes<W> {
    let mut lanes = [idle; W];
    if count == W {
        lanes.copy_from_slice(&source[start..start + W]);
    } else {
        lanes[..count].copy_from_slice(&source[start..start + count]);
    }
    lanes
}
