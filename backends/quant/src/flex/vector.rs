//! Sixteen numbers side by side, one for each output of a panel, on the instruction sets of the machine.
//!
//! Products and sums are fused where the processor can, so results differ in the last bits between instruction sets. On one
//! machine they are the same on every run.

mod float8;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::f16;

pub(super) use self::float8::Float8;
#[cfg(target_arch = "x86_64")]
pub(super) use self::x86::{Avx2, Avx512};
use crate::encoding::E4M3_UNIT;
use crate::format::LANES;

/// Sixteen `f32`.
///
/// # Safety
/// Of every function: the processor has the instruction set of the implementation, and pointers reach [`LANES`] elements of what
/// they point to (words of 16-bit numbers 8, of bytes 4).
pub(super) trait Vector: Copy {
    /// Sixteen words.
    type Bits: Copy;
    /// Sums side by side that hide the latency of an addition.
    const CHAINS: usize;
    /// Rows of x that the registers have room for.
    const MOST_ROWS: usize;
    /// Whether a table of 16 numbers is a register, and reading it one instruction.
    const LOOK_UP: bool;
    /// Whether shifts had better be constants.
    const UNROLLED: bool;
    /// What [`Vector::signed_byte`] is too large by.
    const SIGNED_BYTE: f32 = (1 << 24) as f32;

    unsafe fn bits(words: *const u32) -> Self::Bits;
    /// `(low >> shift) | (high << (32 - shift))`, for a shift of 1 to 31.
    unsafe fn join(low: Self::Bits, high: Self::Bits, shift: u32) -> Self::Bits;
    /// The `width` bits from `shift` up as a number that is not negative.
    unsafe fn field(bits: Self::Bits, shift: u32, width: u32) -> Self;
    /// Byte `at` as a number that is not negative.
    unsafe fn byte(bits: Self::Bits, at: u32) -> Self;
    /// Byte `at` as a number of E4M3.
    unsafe fn float_byte(bits: Self::Bits, at: u32) -> Self;
    /// Byte `at` in two's complement, times [`Vector::SIGNED_BYTE`]: as the highest byte of a word it needs no sign of its own.
    unsafe fn signed_byte(bits: Self::Bits, at: u32) -> Self;
    /// The `width` bits from `shift` up in two's complement.
    unsafe fn signed_field(bits: Self::Bits, shift: u32, width: u32) -> Self;
    /// Entries of the table at the four bits from `shift` up. (Slow where `LOOK_UP` is not set.)
    unsafe fn look_up(table: Self, bits: Self::Bits, shift: u32) -> Self;
    /// Sixteen numbers of 16 bits.
    unsafe fn halves(words: *const u32) -> Self;
    /// Sixteen bytes.
    unsafe fn bytes(words: *const u32) -> Self;
    unsafe fn load(values: *const f32) -> Self;
    unsafe fn store(self, values: *mut f32);
    unsafe fn splat(x: f32) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `self * other + sum`
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self;
}

/// The plain form, for any processor.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; LANES]);

impl Plain {
    #[inline(always)]
    fn of(f: impl FnMut(usize) -> f32) -> Self {
        Self(std::array::from_fn(f))
    }
}

impl Vector for Plain {
    type Bits = [u32; LANES];
    const CHAINS: usize = 1;
    const MOST_ROWS: usize = 2;
    const LOOK_UP: bool = false;
    const UNROLLED: bool = false;

    #[inline(always)]
    unsafe fn bits(words: *const u32) -> [u32; LANES] {
        // SAFETY: the caller's promise; words have no alignment beyond that of u32.
        unsafe { words.cast::<[u32; LANES]>().read() }
    }

    #[inline(always)]
    unsafe fn join(low: [u32; LANES], high: [u32; LANES], shift: u32) -> [u32; LANES] {
        std::array::from_fn(|l| (low[l] >> shift) | (high[l] << (32 - shift)))
    }

    #[inline(always)]
    unsafe fn field(bits: [u32; LANES], shift: u32, width: u32) -> Self {
        Self::of(|l| ((bits[l] >> shift) & ((1 << width) - 1)) as f32)
    }

    #[inline(always)]
    unsafe fn byte(bits: [u32; LANES], at: u32) -> Self {
        Self::of(|l| ((bits[l] >> (8 * at)) & 0xff) as f32)
    }

    #[inline(always)]
    unsafe fn float_byte(bits: [u32; LANES], at: u32) -> Self {
        Self::of(|l| {
            let byte = bits[l] << (24 - 8 * at);
            f32::from_bits((byte & 0x8000_0000) | (byte & 0x7f00_0000) >> 4) * E4M3_UNIT
        })
    }

    #[inline(always)]
    unsafe fn signed_byte(bits: [u32; LANES], at: u32) -> Self {
        Self::of(|l| ((bits[l] << (24 - 8 * at)) & 0xff00_0000) as i32 as f32)
    }

    #[inline(always)]
    unsafe fn signed_field(bits: [u32; LANES], shift: u32, width: u32) -> Self {
        Self::of(|l| ((bits[l] << (32 - shift - width)) as i32 >> (32 - width)) as f32)
    }

    #[inline(always)]
    unsafe fn look_up(table: Self, bits: [u32; LANES], shift: u32) -> Self {
        Self::of(|l| table.0[(bits[l] >> shift) as usize % LANES])
    }

    #[inline(always)]
    unsafe fn halves(words: *const u32) -> Self {
        // SAFETY: the caller's promise, and u16 asks for less alignment.
        let halves = unsafe { words.cast::<[u16; LANES]>().read() };
        Self::of(|l| f16::from_bits(u16::from_le(halves[l])).to_f32())
    }

    #[inline(always)]
    unsafe fn bytes(words: *const u32) -> Self {
        // SAFETY: the caller's promise.
        let bytes = unsafe { words.cast::<[u8; LANES]>().read() };
        Self::of(|l| f32::from(bytes[l]))
    }

    #[inline(always)]
    unsafe fn load(values: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { values.cast::<[f32; LANES]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, values: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { values.cast::<[f32; LANES]>().write(self.0) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self::of(|l| self.0[l] + other.0[l])
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self::of(|l| self.0[l] - other.0[l])
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self::of(|l| self.0[l] * other.0[l])
    }

    #[inline(always)]
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
        // Where this form runs, a fused product may be a call of a library.
        Self::of(|l| self.0[l] * other.0[l] + sum.0[l])
    }
}
