//! Tiles: 32 inputs of the 16 outputs of a panel, in as many rows of words as a code has bits.

use super::vector::{Float8, Vector};
use crate::encoding::{Encoding, FloatType};
use crate::format::{LANES, PackedFormat};

/// Inputs of a tile: the fewest whose codes end with a word, whatever the bits.
pub(super) const TILE: usize = 32;
/// Words of the widest tile.
pub(super) const MOST_WORDS: usize = 8 * LANES;

/// What codes of `BITS` bits stand for in a group of a panel: levels in two's complement (of one bit -1 and 1), or with zero points.
#[derive(Clone, Copy)]
pub(super) struct Levels<V, const BITS: u32, const SIGNED: bool> {
    /// The level of every code, repeated to 16, without zero points.
    table: V,
    zeros: V,
}

/// Scales and levels of a group of a panel, and where its codes start.
pub(super) struct Group<V, const BITS: u32, const SIGNED: bool> {
    pub scales: V,
    pub levels: Levels<V, BITS, SIGNED>,
    pub codes: *const u32,
}

/// Runs a statement for every code of a tile: where it pays, once for each of them, so that shifts are constants.
macro_rules! for_codes {
    ($code:ident, $body:block, $($number:literal)*) => {
        if V::UNROLLED {
            $({ let $code: u32 = $number; $body })*
        } else {
            for $code in 0..TILE as u32 $body
        }
    };
    ($code:ident, $body:block) => {
        for_codes!(
            $code, $body,
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
        )
    };
}

impl<V: Vector, const BITS: u32, const SIGNED: bool> Levels<V, BITS, SIGNED> {
    /// # Safety
    /// Of [`Vector`]; `zeros` are read where there are zero points.
    #[inline(always)]
    unsafe fn new(zeros: *const u32) -> Self {
        let mask = (1 << BITS) - 1;
        let level = |code: u32| match SIGNED {
            true if BITS == 1 => 2.0 * code as f32 - 1.0,
            true => ((code << (32 - BITS)) as i32 >> (32 - BITS)) as f32,
            false => code as f32,
        };
        let table: [f32; LANES] = std::array::from_fn(|code| level(code as u32 & mask));
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                table: V::load(table.as_ptr()),
                zeros: if SIGNED {
                    V::splat(0.0)
                } else {
                    V::bytes(zeros)
                },
            }
        }
    }

    /// What [`Levels::read`] is too large by.
    const UNIT: f32 = if SIGNED && BITS == 8 {
        V::SIGNED_BYTE
    } else {
        1.0
    };

    /// Numbers that `read` gave or sums of them, as levels: exact, by a power of two.
    ///
    /// # Safety
    /// Of [`Vector`].
    #[inline(always)]
    pub unsafe fn levels(read: V) -> V {
        match Self::UNIT {
            1.0 => read,
            // SAFETY: the caller's promise.
            unit => unsafe { read.mul(V::splat(1.0 / unit)) },
        }
    }

    /// Levels less zero points of one code of a tile, times `UNIT`.
    ///
    /// # Safety
    /// Of [`Vector`]; `codes` are those of a tile.
    #[inline(always)]
    unsafe fn read(&self, codes: *const u32, code: u32) -> V {
        let (row, shift) = (code * BITS / 32, code * BITS % 32);
        // SAFETY: the row is below BITS, and so is the next where the code runs into it.
        unsafe {
            let mut bits = V::bits(codes.add(row as usize * LANES));
            let mut shift = shift;
            if shift + BITS > 32 {
                bits = V::join(bits, V::bits(codes.add((row as usize + 1) * LANES)), shift);
                shift = 0;
            }
            if V::LOOK_UP && BITS <= 4 {
                let level = V::look_up(self.table, bits, shift);
                return if SIGNED { level } else { level.sub(self.zeros) };
            }
            match SIGNED {
                true if BITS == 8 => V::signed_byte(bits, shift / 8),
                false if BITS == 8 => V::byte(bits, shift / 8).sub(self.zeros),
                true if BITS == 1 => {
                    let bit = V::field(bits, shift, 1);
                    bit.add(bit).sub(V::splat(1.0))
                }
                true => V::signed_field(bits, shift, BITS),
                false => V::field(bits, shift, BITS).sub(self.zeros),
            }
        }
    }

    /// Adds the products of a tile with 32 inputs of each row to the row's sums.
    ///
    /// # Safety
    /// Of [`Vector`]; `codes` are those of a tile.
    #[inline(always)]
    pub unsafe fn multiply<const ROWS: usize>(
        &self,
        codes: *const u32,
        x: [*const f32; ROWS],
        sums: &mut [[V; 4]; ROWS],
    ) {
        for_codes!(code, {
            // SAFETY: the caller's promise.
            unsafe {
                let level = self.read(codes, code);
                for (x, sums) in x.iter().zip(sums.iter_mut()) {
                    let sum = &mut sums[code as usize % V::CHAINS];
                    *sum = level.mul_add(V::splat(*x.add(code as usize)), *sum);
                }
            }
        });
    }

    /// Writes a tile's weights: 16 numbers for each input, `stride` numbers after those of the one before.
    ///
    /// # Safety
    /// Of [`Vector`]; `codes` are those of a tile, and the rows may be written to.
    #[inline(always)]
    pub unsafe fn write(&self, codes: *const u32, scales: V, values: *mut f32, stride: usize) {
        for_codes!(code, {
            // SAFETY: the caller's promise.
            unsafe {
                let weights = Self::levels(self.read(codes, code)).mul(scales);
                weights.store(values.add(code as usize * stride));
            }
        });
    }
}

impl<V: Vector, const BITS: u32, const SIGNED: bool> Group<V, BITS, SIGNED> {
    /// # Safety
    /// Of [`Vector`]; `panel` is one of this format, with such a group.
    #[inline(always)]
    pub unsafe fn new(panel: *const u32, group: usize, format: &PackedFormat) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let header = panel.add(format.header(group));
            Self {
                scales: match format.scales {
                    FloatType::F16 => V::halves(header),
                    FloatType::F32 => V::load(header.cast()),
                },
                levels: Levels::new(header.add(format.zeros_start())),
                codes: panel.add(format.codes(group)),
            }
        }
    }
}

/// A tile of which fewer inputs are there, filled up with codes 0.
///
/// # Safety
/// `codes` are those of `inputs` inputs of a panel.
pub(super) unsafe fn fill(codes: *const u32, inputs: usize, bits: u32) -> [u32; MOST_WORDS] {
    let words = (inputs * bits as usize).div_ceil(32) * LANES;
    let mut tile = [0; MOST_WORDS];
    // SAFETY: the caller's promise; the words of at most 32 inputs fit.
    tile[..words].copy_from_slice(unsafe { std::slice::from_raw_parts(codes, words) });
    tile
}

/// Work on a packed matrix, for codes of any kind and every instruction set.
///
/// Implementations mark `run` and everything it calls `#[inline(always)]`, so that it is compiled anew for each.
pub(super) trait Kernel: Copy {
    type Output;

    /// # Safety
    /// Of [`Vector`]; codes have `BITS` bits, and zero points unless `SIGNED`.
    unsafe fn run<V: Vector, const BITS: u32, const SIGNED: bool>(self) -> Self::Output;
}

/// A kernel whose signed bytes are numbers of E4M3.
#[derive(Clone, Copy)]
struct Floats<K>(K);

impl<K: Kernel> Kernel for Floats<K> {
    type Output = K::Output;

    #[inline(always)]
    unsafe fn run<V: Vector, const BITS: u32, const SIGNED: bool>(self) -> K::Output {
        // SAFETY: the caller's promise.
        unsafe { self.0.run::<Float8<V>, BITS, SIGNED>() }
    }
}

/// Runs the kernel for the codes of a format with the widest vectors that the processor has.
pub(super) fn run<K: Kernel>(kernel: K, format: PackedFormat) -> K::Output {
    use Encoding::{E4m3, Int2, Int3, Int4, Int8, Sign, Ternary};
    match (format.encoding, format.asymmetric) {
        (Int8, false) => widest::<K, 8, true>(kernel),
        (Int8, true) => widest::<K, 8, false>(kernel),
        (Int4, false) => widest::<K, 4, true>(kernel),
        (Int4, true) => widest::<K, 4, false>(kernel),
        (Int3, false) => widest::<K, 3, true>(kernel),
        (Int3, true) => widest::<K, 3, false>(kernel),
        (Int2, true) => widest::<K, 2, false>(kernel),
        (Int2, false) | (Ternary, _) => widest::<K, 2, true>(kernel),
        (Sign, _) => widest::<K, 1, true>(kernel),
        (E4m3, _) => widest::<Floats<K>, 8, true>(Floats(kernel)),
    }
}

fn widest<K: Kernel, const BITS: u32, const SIGNED: bool>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") && has!("avx512bw") {
            // SAFETY: the processor has the feature.
            return unsafe { avx512::<K, BITS, SIGNED>(kernel) };
        }
        if has!("avx2") && has!("fma") && has!("f16c") {
            // SAFETY: the processor has the features.
            return unsafe { avx2::<K, BITS, SIGNED>(kernel) };
        }
    }
    // SAFETY: plain arithmetic, which every processor has.
    unsafe { kernel.run::<super::vector::Plain, BITS, SIGNED>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn avx512<K: Kernel, const BITS: u32, const SIGNED: bool>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<super::vector::Avx512, BITS, SIGNED>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<K: Kernel, const BITS: u32, const SIGNED: bool>(kernel: K) -> K::Output {
    // SAFETY: the caller's promise.
    unsafe { kernel.run::<super::vector::Avx2, BITS, SIGNED>() }
}
