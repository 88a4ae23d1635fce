//! Matrix products through the `gemm` crate, on matrices that lie anywhere in a buffer.

use gemm::Parallelism;

/// Multiplications below which a product is done before another thread has woken up.
const PARALLEL_MIN_PRODUCTS: usize = 128 * 128 * 128;

/// A matrix in a buffer: element `(r, c)` is `row * r + col * c` elements after `start`.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub start: *const f32,
    pub row: isize,
    pub col: isize,
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

/// `target = factor a b` for `a [m, k]` and `b [k, n]`.
///
/// # Safety
/// The views lie in initialised memory, and the target in memory that nothing else uses; it is initialised if added to.
pub(super) unsafe fn product(
    [m, n, k]: [usize; 3],
    target: Target,
    a: View,
    b: View,
    factor: f32,
    parallelism: Parallelism,
) {
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
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// All threads for a product of this size, or the calling one.
///
/// The order of the sums does not depend on it: threads share rows and columns out, never the inner axis.
pub(super) fn threads([m, n, k]: [usize; 3]) -> Parallelism {
    match m * n * k {
        0..PARALLEL_MIN_PRODUCTS => Parallelism::None,
        _ => Parallelism::Rayon(0),
    }
}
