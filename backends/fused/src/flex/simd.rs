//! Compiling a kernel for the instruction sets of the machine, and sums in a fixed order.
//!
//! The arithmetic is written once on slices; products and sums are never fused, so every instruction set gives the same
//! bits.

/// Sequential work.
///
/// Implementations mark `run` and everything it calls `#[inline(always)]`, so that it is compiled anew for every
/// instruction set.
pub(super) trait Kernel {
    type Output;

    fn run(self) -> Self::Output;
}

/// Runs the kernel with the widest vectors that the processor has.
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature.
            return unsafe { avx512(kernel) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature.
            return unsafe { avx2(kernel) };
        }
    }
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

/// Running sums: enough to hide the latency of an addition.
const LANES: usize = 32;

/// Folds `of(a_i, b_i)` over two slices of one length, starting from `zero`: [`LANES`] folds side by side, joined
/// pairwise.
#[inline(always)]
pub(super) fn fold(
    a: &[f32],
    b: &[f32],
    zero: f32,
    of: impl Fn(f32, f32) -> f32,
    join: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut lanes = [zero; LANES];
    let (a_wide, a_rest) = a.as_chunks::<LANES>();
    let (b_wide, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_wide.iter().zip(b_wide) {
        for l in 0..LANES {
            lanes[l] = join(lanes[l], of(a[l], b[l]));
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane = join(*lane, of(a, b));
    }
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] = join(lanes[l], lanes[l + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// `sum of(a_i, b_i)`
#[inline(always)]
pub(super) fn sum(a: &[f32], b: &[f32], of: impl Fn(f32, f32) -> f32) -> f32 {
    fold(a, b, 0.0, of, |x, y| x + y)
}

/// The largest element; NaN if there is one among them is not promised, since every use adds it up afterwards.
#[inline(always)]
pub(super) fn max(a: &[f32]) -> f32 {
    fold(
        a,
        a,
        f32::NEG_INFINITY,
        |x, _| x,
        |x, y| if y > x { y } else { x },
    )
}
