//! Compiling a kernel for the instruction sets of the machine, and complex lanes.
//!
//! The arithmetic is written once on arrays; products and sums are never fused, so every instruction set gives the same
//! bits.

use super::plan::{Block, Dims, Kernel, load};

/// One number for each head of a block.
pub(super) type Lanes<const W: usize> = [f32; W];

/// Runs the kernel with the widest vectors that the processor has.
pub(super) fn run<const W: usize>(kernel: &impl Kernel, block: Block) {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature.
            return unsafe { avx512::<W>(kernel, block) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature.
            return unsafe { avx2::<W>(kernel, block) };
        }
    }
    kernel.run::<W>(block);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512<const W: usize>(kernel: &impl Kernel, block: Block) {
    kernel.run::<W>(block);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<const W: usize>(kernel: &impl Kernel, block: Block) {
    kernel.run::<W>(block);
}

/// Complex numbers, one for each head of a block.
#[derive(Clone, Copy)]
pub(super) struct Pair<const W: usize> {
    pub re: Lanes<W>,
    pub im: Lanes<W>,
}

impl<const W: usize> Pair<W> {
    pub const ZERO: Self = Self {
        re: [0.0; W],
        im: [0.0; W],
    };

    /// Reads the block's lanes of a packed row `[2 * heads]` that starts at `row`.
    #[inline(always)]
    pub fn load(source: &[f32], row: usize, heads: usize, block: Block) -> Self {
        let start = row + block.first;
        Self {
            re: load(source, start, block.count, 0.0),
            im: load(source, start + heads, block.count, 0.0),
        }
    }
}

/// Hopping and energy of a block. Lanes without a head get `z = i` and no hopping, which keeps them finite.
pub(super) struct Medium<const W: usize> {
    pub beta: Lanes<W>,
    pub z_re: Lanes<W>,
    pub z_im: Lanes<W>,
}

impl<const W: usize> Medium<W> {
    #[inline(always)]
    pub fn load(dims: Dims, hopping: &[f32], energy: &[f32], block: Block) -> Self {
        let Block { first, count, .. } = block;
        Self {
            beta: load(hopping, first, count, 0.0),
            z_re: load(energy, first, count, 0.0),
            z_im: load(energy, dims.heads + first, count, 1.0),
        }
    }

    /// `1 / (a - z - beta x)` in one lane, `x = re + i im`.
    #[inline(always)]
    pub fn resolvent(&self, lane: usize, a: f32, re: f32, im: f32) -> (f32, f32) {
        let d_re = a - self.z_re[lane] - self.beta[lane] * re;
        let d_im = self.z_im[lane] + self.beta[lane] * im; // of the conjugate
        let q = 1.0 / (d_re * d_re + d_im * d_im);
        (d_re * q, d_im * q)
    }

    /// `x <- 1 / (a - z - beta x)`
    #[inline(always)]
    pub fn advance(&self, a: &Lanes<W>, x: &mut Pair<W>) {
        for l in 0..W {
            (x.re[l], x.im[l]) = self.resolvent(l, a[l], x.re[l], x.im[l]);
        }
    }
}

/// The complex product, in one lane.
#[inline(always)]
pub(super) fn mul(a: (f32, f32), b: (f32, f32)) -> (f32, f32) {
    (a.0 * b.0 - a.1 * b.1, a.0 * b.1 + a.1 * b.0)
}

/// The complex square, in one lane.
#[inline(always)]
pub(super) fn square(re: f32, im: f32) -> (f32, f32) {
    (re * re - im * im, 2.0 * re * im)
}
