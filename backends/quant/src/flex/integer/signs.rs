//! Products of signs: 32 inputs of sixteen outputs at a time (XNOR-Net, arXiv 1603.05279). Two signs multiply to -1 where their bits
//! differ, so that sums count the bits that do.

#[cfg(target_arch = "x86_64")]
pub(super) mod x86;

use super::{Inputs, Sums, panels};
use crate::format::{LANES, PackedFormat};

/// Some panels with the widest vectors that the processor has.
pub(super) fn widest(words: &[u32], inputs: &Inputs, format: &PackedFormat) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") && has!("avx512vpopcntdq") {
            // SAFETY: the processor has the features.
            return unsafe { x86::avx512(words, inputs, format) };
        }
        if has!("avx2") {
            // SAFETY: the processor has the feature.
            return unsafe { x86::avx2(words, inputs, format) };
        }
    }
    // SAFETY: plain arithmetic, which every processor has.
    unsafe { panels::<Plain>(words, inputs, format) }
}

/// The plain form, for any processor.
#[derive(Clone, Copy)]
pub(super) struct Plain([u32; LANES]);

impl Sums for Plain {
    type Weights = [u32; LANES];

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0; LANES])
    }

    #[inline(always)]
    unsafe fn weights(words: *const u32) -> [u32; LANES] {
        // SAFETY: the caller's promise; words have no alignment beyond that of u32.
        unsafe { words.cast::<[u32; LANES]>().read() }
    }

    #[inline(always)]
    unsafe fn add(self, weights: [u32; LANES], inputs: u32) -> Self {
        Self(std::array::from_fn(|lane| {
            self.0[lane] + (weights[lane] ^ inputs).count_ones()
        }))
    }

    #[inline(always)]
    unsafe fn store(self, sums: *mut i32) {
        // SAFETY: the caller's promise; counts are small.
        unsafe { sums.cast::<[u32; LANES]>().write(self.0) }
    }

    #[inline(always)]
    fn products(added: i32, inputs: &Inputs, _row: usize) -> i32 {
        products(added, inputs)
    }
}

/// As many as there are inputs less two for each that differs from its weight: what fills up the last word differs in none.
fn products(differ: i32, inputs: &Inputs) -> i32 {
    inputs.d_input as i32 - 2 * differ
}
