//! AVX-512 with VPOPCNTDQ, and AVX2.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "every function is instructions alone, under the promises of the trait"
)]

use std::arch::x86_64::*;

use super::super::{Inputs, Sums, panels};
use super::products;
use crate::format::PackedFormat;

/// Some panels with AVX-512F and VPOPCNTDQ.
#[target_feature(enable = "avx512f,avx512vpopcntdq")]
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

/// One instruction counts the bits of sixteen words.
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
        _mm512_loadu_si512(words.cast())
    }

    #[inline(always)]
    unsafe fn add(self, weights: __m512i, inputs: u32) -> Self {
        let differ = _mm512_xor_si512(weights, _mm512_set1_epi32(inputs as i32));
        Self(_mm512_add_epi32(self.0, _mm512_popcnt_epi32(differ)))
    }

    #[inline(always)]
    unsafe fn store(self, sums: *mut i32) {
        _mm512_storeu_si512(sums.cast(), self.0);
    }

    #[inline(always)]
    fn products(added: i32, inputs: &Inputs, _row: usize) -> i32 {
        products(added, inputs)
    }
}

/// Bits of halves of bytes are looked up in a register (Mula, Kurz and Lemire, arXiv 1611.07612), and bytes added up to words.
#[derive(Clone, Copy)]
struct Avx2([__m256i; 2]);

/// The bits of every word.
#[inline(always)]
unsafe fn counts(words: __m256i) -> __m256i {
    let table = _mm256_setr_epi8(
        0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3,
        3, 4,
    );
    let low = _mm256_set1_epi8(0xf);
    let halves = [words, _mm256_srli_epi16::<4>(words)];
    let [a, b] = halves.map(|half| _mm256_shuffle_epi8(table, _mm256_and_si256(half, low)));
    let pairs = _mm256_maddubs_epi16(_mm256_add_epi8(a, b), _mm256_set1_epi8(1));
    _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
}

impl Sums for Avx2 {
    type Weights = [__m256i; 2];

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([_mm256_setzero_si256(); 2])
    }

    #[inline(always)]
    unsafe fn weights(words: *const u32) -> [__m256i; 2] {
        [
            _mm256_loadu_si256(words.cast()),
            _mm256_loadu_si256(words.add(8).cast()),
        ]
    }

    #[inline(always)]
    unsafe fn add(self, weights: [__m256i; 2], inputs: u32) -> Self {
        let inputs = _mm256_set1_epi32(inputs as i32);
        let mut sums = self.0;
        for (sum, weights) in sums.iter_mut().zip(weights) {
            *sum = _mm256_add_epi32(*sum, counts(_mm256_xor_si256(weights, inputs)));
        }
        Self(sums)
    }

    #[inline(always)]
    unsafe fn store(self, sums: *mut i32) {
        _mm256_storeu_si256(sums.cast(), self.0[0]);
        _mm256_storeu_si256(sums.add(8).cast(), self.0[1]);
    }

    #[inline(always)]
    fn products(added: i32, inputs: &Inputs, _row: usize) -> i32 {
        products(added, inputs)
    }
}
