//! AVX-512 with VNNI, and AVX2.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "every function is instructions alone, under the promises of the trait"
)]

use std::arch::x86_64::*;

use super::super::{Inputs, Sums, panels};
use crate::format::PackedFormat;

/// Some panels with AVX-512F and VNNI.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(in super::super) unsafe fn avx512(
    words: &[u32],
    inputs: &Inputs,
    format: &PackedFormat,
) -> Vec<f32> {
    panels::<Avx512>(words, inputs, format)
}

/// Some panels with AVX2.
#[target_feature(enable = "avx2")]
pub(in super::super) unsafe fn avx2(
    words: &[u32],
    inputs: &Inputs,
    format: &PackedFormat,
) -> Vec<f32> {
    panels::<Avx2>(words, inputs, format)
}

/// One instruction multiplies four bytes and adds them up, of which the first four have no sign: the weights, plus 128.
#[derive(Clone, Copy)]
struct Avx512(__m512i);

impl Sums for Avx512 {
    type Weights = __m512i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self(_mm512_setzero_si512())
    }

    #[inline(always)]
    unsafe fn weights(words: *const u32) -> __m512i {
        let signs = _mm512_set1_epi32(0x8080_8080_u32 as i32);
        _mm512_xor_si512(_mm512_loadu_si512(words.cast()), signs)
    }

    #[inline(always)]
    unsafe fn add(self, weights: __m512i, inputs: u32) -> Self {
        let inputs = _mm512_set1_epi32(inputs as i32);
        Self(_mm512_dpbusd_epi32(self.0, weights, inputs))
    }

    #[inline(always)]
    unsafe fn store(self, sums: *mut i32) {
        _mm512_storeu_si512(sums.cast(), self.0);
    }

    /// Less 128 times the sum of the inputs.
    #[inline(always)]
    fn products(added: i32, inputs: &Inputs, row: usize) -> i32 {
        added.wrapping_sub(128 * inputs.sums[row])
    }
}

/// Bytes become numbers of 16 bits, as the product of bytes would cut off what is beyond 16 bits.
#[derive(Clone, Copy)]
struct Avx2([__m256i; 2]);

/// The even and the odd bytes of every word, with their signs.
#[inline(always)]
unsafe fn apart(words: __m256i) -> [__m256i; 2] {
    let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(words));
    [even, _mm256_srai_epi16::<8>(words)]
}

impl Sums for Avx2 {
    type Weights = [[__m256i; 2]; 2];

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([_mm256_setzero_si256(); 2])
    }

    #[inline(always)]
    unsafe fn weights(words: *const u32) -> [[__m256i; 2]; 2] {
        [
            apart(_mm256_loadu_si256(words.cast())),
            apart(_mm256_loadu_si256(words.add(8).cast())),
        ]
    }

    #[inline(always)]
    unsafe fn add(self, weights: [[__m256i; 2]; 2], inputs: u32) -> Self {
        let [even, odd] = apart(_mm256_set1_epi32(inputs as i32));
        let mut sums = self.0;
        for (sum, weights) in sums.iter_mut().zip(weights) {
            let products = _mm256_add_epi32(
                _mm256_madd_epi16(weights[0], even),
                _mm256_madd_epi16(weights[1], odd),
            );
            *sum = _mm256_add_epi32(*sum, products);
        }
        Self(sums)
    }

    #[inline(always)]
    unsafe fn store(self, sums: *mut i32) {
        _mm256_storeu_si256(sums.cast(), self.0[0]);
        _mm256_storeu_si256(sums.add(8).cast(), self.0[1]);
    }

    #[inline(always)]
    fn products(added: i32, _inputs: &Inputs, _row: usize) -> i32 {
        added
    }
}
