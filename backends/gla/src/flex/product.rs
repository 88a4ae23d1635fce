//! Matrix products through the `gemm` crate, on matrices that lie anywhere in a buffer.

use gemm::Parallelism;

/// A matrix in a buffer: element `(r, c)` is `row * r + col * c` elements after `start`.
#[derive(Clone, Copy)]
pub(super) struct View {
    start: *const f32,
    row: isize,
    col: isize,
}

impl View {
    /// Row-major with rows of `stride` elements.
    pub fn rows(start: *const f32, stride: usize) -> Self {
        Self {
            start,
            row: stride as isize,
            col: 1,
        }
    }

    pub fn transposed(self) -> Self {
        Self {
            row: self.col,
            col: self.row,
            ..self
        }
    }
}

/// Where a product goes: row-major with rows of `stride` elements.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub start: *mut f32,
    pub stride: usize,
    /// Whether the product is added to what is there.
    pub add: bool,
}

/// `target = a b` for `a [m, k]` and `b [k, n]`, on the calling thread.
///
/// # Safety
/// The views lie in initialised memory, and the target in memory that nothing else uses; it is initialised if added to.
pub(super) unsafe fn product([m, n, k]: [usize; 3], target: Target, a: View, b: View) {
    let stride = target.stride as isize;
    // SAFETY: the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target.start,
            1,
            stride,
            target.add,
            a.start,
            a.col,
            a.row,
            b.start,
            b.col,
            b.row,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
