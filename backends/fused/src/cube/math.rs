//! The normal distribution, and numbers by their bits; what else kernels compute is in `kiln_native`.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// `1 / sqrt(2 pi)`
const FRAC_1_SQRT_TAU: f32 = 0.398_942_3;

/// `Phi(x)` and `phi(x)`, distribution function and density of the standard normal.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Normal {
    pub(super) below: f32,
    pub(super) density: f32,
}

/// `Phi(-|x|) = e^(-x^2/2) t P(t)` with `t = 1 / (1 + c |x|)`; P has relative error 3e-8 on [0, 14]. `x^2` is split so that its rounding
/// does not grow in the exponential. For results of 16 bits, `coarse`, a shorter P of relative error 3e-5, a sixteenth of the rounding of
/// `f16`: the unit that computes is then faster than the memory.
#[cube]
pub(super) fn normal(x: f32, #[comptime] coarse: bool) -> Normal {
    if comptime!(coarse) {
        let bell = (-0.5f32 * x * x).exp();
        let t = 1.0f32 / (1.0f32 + 0.36f32 * x.abs());
        let p = -0.092_728_48f32 * t + 0.238_001_77f32;
        let p = p * t + 0.052_699_89f32;
        let p = p * t + 0.159_790_96f32;
        let p = p * t + 0.142_248_69f32;
        Normal::of_tail(x, bell, p * t)
    } else {
        let high = f32::reinterpret(u32::reinterpret(x) & 0xffff_f000u32); // twelve bits: its square is exact
        let u = 0.5f32 * ((x - high) * (x + high)); // at most x^2 / 2048, small enough for three terms
        let near = 1.0f32 - u * (1.0f32 - u * (0.5f32 - u * 0.166_666_67f32));
        let bell = (-0.5f32 * (high * high)).exp() * near;
        let t = 1.0f32 / (1.0f32 + 0.35f32 * x.abs());
        let p = -0.029_144_352f32 * t + 0.143_964_53f32;
        let p = p * t - 0.255_700_23f32;
        let p = p * t + 0.159_158_69f32;
        let p = p * t - 0.023_099_316f32;
        let p = p * t + 0.105_503_514f32;
        let p = p * t + 0.119_834_036f32;
        let p = p * t + 0.139_861_7f32;
        let p = p * t + 0.139_621_4f32;
        Normal::of_tail(x, bell, p * t)
    }
}

#[cube]
impl Normal {
    /// From `e^(-x^2/2)` and what `Phi(-|x|)` is of it.
    fn of_tail(x: f32, bell: f32, share: f32) -> Normal {
        let tail = bell * share;
        Normal {
            below: select(x < 0.0f32, tail, 1.0f32 - tail),
            density: FRAC_1_SQRT_TAU * bell,
        }
    }
}

/// Whether a number is neither infinite nor NaN, by its bits: compilers may take all numbers for finite.
#[cube]
pub(super) fn is_finite(x: f32) -> bool {
    u32::reinterpret(x) & 0x7f80_0000u32 != 0x7f80_0000u32
}

/// Not a number, by its bits.
#[cube]
pub(super) fn nan() -> f32 {
    f32::reinterpret(0x7fc0_0000u32.runtime())
}
