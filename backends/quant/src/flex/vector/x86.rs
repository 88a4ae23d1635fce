//! AVX-512 and AVX2.

#![expect(
    unsafe_op_in_unsafe_fn,
    reason = "every function is instructions alone, under the promises of the trait"
)]

use std::arch::x86_64::*;

use super::{E4M3_UNIT, Vector};

/// The shuffle that puts byte `at` of every word at place `to`, among zeros.
#[inline(always)]
fn alone(at: u32, to: u32) -> [i32; 4] {
    std::array::from_fn(|word| {
        let zeros = 0x8080_8080_u32 & !(0xff << (8 * to));
        (zeros | (4 * word as u32 + at) << (8 * to)) as i32
    })
}

/// AVX-512F and BW.
#[derive(Clone, Copy)]
pub(in crate::flex) struct Avx512(__m512);

impl Vector for Avx512 {
    type Bits = __m512i;
    const CHAINS: usize = 4;
    const MOST_ROWS: usize = 4;
    const LOOK_UP: bool = true;
    const UNROLLED: bool = true;

    #[inline(always)]
    unsafe fn bits(words: *const u32) -> __m512i {
        _mm512_loadu_si512(words.cast())
    }

    #[inline(always)]
    unsafe fn join(low: __m512i, high: __m512i, shift: u32) -> __m512i {
        let low = _mm512_srlv_epi32(low, _mm512_set1_epi32(shift as i32));
        let high = _mm512_sllv_epi32(high, _mm512_set1_epi32(32 - shift as i32));
        _mm512_or_si512(low, high)
    }

    #[inline(always)]
    unsafe fn field(bits: __m512i, shift: u32, width: u32) -> Self {
        let shifted = _mm512_srlv_epi32(bits, _mm512_set1_epi32(shift as i32));
        let field = _mm512_and_si512(shifted, _mm512_set1_epi32((1 << width) - 1));
        Self(_mm512_cvtepi32_ps(field))
    }

    #[inline(always)]
    unsafe fn byte(bits: __m512i, at: u32) -> Self {
        let [a, b, c, d] = alone(at, 0);
        let shuffle = _mm512_set4_epi32(d, c, b, a);
        Self(_mm512_cvtepi32_ps(_mm512_shuffle_epi8(bits, shuffle)))
    }

    #[inline(always)]
    unsafe fn float_byte(bits: __m512i, at: u32) -> Self {
        let [a, b, c, d] = alone(at, 3);
        let byte = _mm512_shuffle_epi8(bits, _mm512_set4_epi32(d, c, b, a));
        let sign = _mm512_and_si512(byte, _mm512_set1_epi32(i32::MIN));
        let size = _mm512_and_si512(byte, _mm512_set1_epi32(0x7f00_0000));
        let number = _mm512_or_si512(sign, _mm512_srli_epi32::<4>(size));
        Self(_mm512_mul_ps(
            _mm512_castsi512_ps(number),
            _mm512_set1_ps(E4M3_UNIT),
        ))
    }

    #[inline(always)]
    unsafe fn signed_byte(bits: __m512i, at: u32) -> Self {
        let [a, b, c, d] = alone(at, 3);
        let shuffle = _mm512_set4_epi32(d, c, b, a);
        Self(_mm512_cvtepi32_ps(_mm512_shuffle_epi8(bits, shuffle)))
    }

    #[inline(always)]
    unsafe fn signed_field(bits: __m512i, shift: u32, width: u32) -> Self {
        let left = _mm512_set1_epi32((32 - shift - width) as i32);
        let right = _mm512_set1_epi32(32 - width as i32);
        let field = _mm512_srav_epi32(_mm512_sllv_epi32(bits, left), right);
        Self(_mm512_cvtepi32_ps(field))
    }

    #[inline(always)]
    unsafe fn look_up(table: Self, bits: __m512i, shift: u32) -> Self {
        // The instruction looks at the lowest four bits only.
        let at = _mm512_srlv_epi32(bits, _mm512_set1_epi32(shift as i32));
        Self(_mm512_permutexvar_ps(at, table.0))
    }

    #[inline(always)]
    unsafe fn halves(words: *const u32) -> Self {
        Self(_mm512_cvtph_ps(_mm256_loadu_si256(words.cast())))
    }

    #[inline(always)]
    unsafe fn bytes(words: *const u32) -> Self {
        let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(words.cast()));
        Self(_mm512_cvtepi32_ps(bytes))
    }

    #[inline(always)]
    unsafe fn load(values: *const f32) -> Self {
        Self(_mm512_loadu_ps(values))
    }

    #[inline(always)]
    unsafe fn store(self, values: *mut f32) {
        _mm512_storeu_ps(values, self.0);
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(_mm512_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(_mm512_add_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(_mm512_sub_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(_mm512_mul_ps(self.0, other.0))
    }

    #[inline(always)]
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
        Self(_mm512_fmadd_ps(self.0, other.0, sum.0))
    }
}

/// AVX2 with FMA and F16C, in two halves.
#[derive(Clone, Copy)]
pub(in crate::flex) struct Avx2(__m256, __m256);

impl Vector for Avx2 {
    type Bits = (__m256i, __m256i);
    const CHAINS: usize = 2;
    const MOST_ROWS: usize = 2;
    const LOOK_UP: bool = false;
    const UNROLLED: bool = true;

    #[inline(always)]
    unsafe fn bits(words: *const u32) -> Self::Bits {
        (
            _mm256_loadu_si256(words.cast()),
            _mm256_loadu_si256(words.add(8).cast()),
        )
    }

    #[inline(always)]
    unsafe fn join(low: Self::Bits, high: Self::Bits, shift: u32) -> Self::Bits {
        let right = _mm256_set1_epi32(shift as i32);
        let left = _mm256_set1_epi32(32 - shift as i32);
        let join = |low, high| {
            _mm256_or_si256(_mm256_srlv_epi32(low, right), _mm256_sllv_epi32(high, left))
        };
        (join(low.0, high.0), join(low.1, high.1))
    }

    #[inline(always)]
    unsafe fn field(bits: Self::Bits, shift: u32, width: u32) -> Self {
        let right = _mm256_set1_epi32(shift as i32);
        let mask = _mm256_set1_epi32((1 << width) - 1);
        let field =
            |bits| _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srlv_epi32(bits, right), mask));
        Self(field(bits.0), field(bits.1))
    }

    #[inline(always)]
    unsafe fn byte(bits: Self::Bits, at: u32) -> Self {
        let [a, b, c, d] = alone(at, 0);
        let shuffle = _mm256_set_epi32(d, c, b, a, d, c, b, a);
        let byte = |bits| _mm256_cvtepi32_ps(_mm256_shuffle_epi8(bits, shuffle));
        Self(byte(bits.0), byte(bits.1))
    }

    #[inline(always)]
    unsafe fn float_byte(bits: Self::Bits, at: u32) -> Self {
        let [a, b, c, d] = alone(at, 3);
        let shuffle = _mm256_set_epi32(d, c, b, a, d, c, b, a);
        let number = |bits| {
            let byte = _mm256_shuffle_epi8(bits, shuffle);
            let sign = _mm256_and_si256(byte, _mm256_set1_epi32(i32::MIN));
            let size = _mm256_and_si256(byte, _mm256_set1_epi32(0x7f00_0000));
            let number = _mm256_or_si256(sign, _mm256_srli_epi32::<4>(size));
            _mm256_mul_ps(_mm256_castsi256_ps(number), _mm256_set1_ps(E4M3_UNIT))
        };
        Self(number(bits.0), number(bits.1))
    }

    #[inline(always)]
    unsafe fn signed_byte(bits: Self::Bits, at: u32) -> Self {
        let [a, b, c, d] = alone(at, 3);
        let shuffle = _mm256_set_epi32(d, c, b, a, d, c, b, a);
        let byte = |bits| _mm256_cvtepi32_ps(_mm256_shuffle_epi8(bits, shuffle));
        Self(byte(bits.0), byte(bits.1))
    }

    #[inline(always)]
    unsafe fn signed_field(bits: Self::Bits, shift: u32, width: u32) -> Self {
        let left = _mm256_set1_epi32((32 - shift - width) as i32);
        let right = _mm256_set1_epi32(32 - width as i32);
        let field =
            |bits| _mm256_cvtepi32_ps(_mm256_srav_epi32(_mm256_sllv_epi32(bits, left), right));
        Self(field(bits.0), field(bits.1))
    }

    #[inline(always)]
    unsafe fn look_up(table: Self, bits: Self::Bits, shift: u32) -> Self {
        let (mut entries, mut words) = ([0.0; 16], [0_u32; 16]);
        table.store(entries.as_mut_ptr());
        _mm256_storeu_si256(words.as_mut_ptr().cast(), bits.0);
        _mm256_storeu_si256(words.as_mut_ptr().add(8).cast(), bits.1);
        let found = words.map(|word| entries[(word >> shift) as usize % 16]);
        Self::load(found.as_ptr())
    }

    #[inline(always)]
    unsafe fn halves(words: *const u32) -> Self {
        Self(
            _mm256_cvtph_ps(_mm_loadu_si128(words.cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(words.add(4).cast())),
        )
    }

    #[inline(always)]
    unsafe fn bytes(words: *const u32) -> Self {
        let half = |words: *const u32| {
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(words.cast())))
        };
        Self(half(words), half(words.add(2)))
    }

    #[inline(always)]
    unsafe fn load(values: *const f32) -> Self {
        Self(_mm256_loadu_ps(values), _mm256_loadu_ps(values.add(8)))
    }

    #[inline(always)]
    unsafe fn store(self, values: *mut f32) {
        _mm256_storeu_ps(values, self.0);
        _mm256_storeu_ps(values.add(8), self.1);
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(_mm256_set1_ps(x), _mm256_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(
            _mm256_add_ps(self.0, other.0),
            _mm256_add_ps(self.1, other.1),
        )
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(
            _mm256_sub_ps(self.0, other.0),
            _mm256_sub_ps(self.1, other.1),
        )
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(
            _mm256_mul_ps(self.0, other.0),
            _mm256_mul_ps(self.1, other.1),
        )
    }

    #[inline(always)]
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
        Self(
            _mm256_fmadd_ps(self.0, other.0, sum.0),
            _mm256_fmadd_ps(self.1, other.1, sum.1),
        )
    }
}
