//! Vectors whose signed bytes are numbers of E4M3, so that kernels of int8 compute from them.

use super::Vector;

/// As the vectors below, but for what a signed byte stands for.
#[derive(Clone, Copy)]
pub(in crate::flex) struct Float8<V>(V);

impl<V: Vector> Vector for Float8<V> {
    type Bits = V::Bits;
    const CHAINS: usize = V::CHAINS;
    const MOST_ROWS: usize = V::MOST_ROWS;
    const LOOK_UP: bool = V::LOOK_UP;
    const UNROLLED: bool = V::UNROLLED;
    const SIGNED_BYTE: f32 = 1.0;

    #[inline(always)]
    unsafe fn signed_byte(bits: V::Bits, at: u32) -> Self {
        // SAFETY: the caller's promise, here and below.
        Self(unsafe { V::float_byte(bits, at) })
    }

    #[inline(always)]
    unsafe fn bits(words: *const u32) -> V::Bits {
        unsafe { V::bits(words) }
    }

    #[inline(always)]
    unsafe fn join(low: V::Bits, high: V::Bits, shift: u32) -> V::Bits {
        unsafe { V::join(low, high, shift) }
    }

    #[inline(always)]
    unsafe fn field(bits: V::Bits, shift: u32, width: u32) -> Self {
        Self(unsafe { V::field(bits, shift, width) })
    }

    #[inline(always)]
    unsafe fn byte(bits: V::Bits, at: u32) -> Self {
        Self(unsafe { V::byte(bits, at) })
    }

    #[inline(always)]
    unsafe fn float_byte(bits: V::Bits, at: u32) -> Self {
        Self(unsafe { V::float_byte(bits, at) })
    }

    #[inline(always)]
    unsafe fn signed_field(bits: V::Bits, shift: u32, width: u32) -> Self {
        Self(unsafe { V::signed_field(bits, shift, width) })
    }

    #[inline(always)]
    unsafe fn look_up(table: Self, bits: V::Bits, shift: u32) -> Self {
        Self(unsafe { V::look_up(table.0, bits, shift) })
    }

    #[inline(always)]
    unsafe fn halves(words: *const u32) -> Self {
        Self(unsafe { V::halves(words) })
    }

    #[inline(always)]
    unsafe fn bytes(words: *const u32) -> Self {
        Self(unsafe { V::bytes(words) })
    }

    #[inline(always)]
    unsafe fn load(values: *const f32) -> Self {
        Self(unsafe { V::load(values) })
    }

    #[inline(always)]
    unsafe fn store(self, values: *mut f32) {
        unsafe { self.0.store(values) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(unsafe { V::splat(x) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(unsafe { self.0.add(other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(unsafe { self.0.sub(other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(unsafe { self.0.mul(other.0) })
    }

    #[inline(always)]
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self {
        Self(unsafe { self.0.mul_add(other.0, sum.0) })
    }
}
