//! Functions made of the elementary ones, with polynomials where these would lose digits. On Flex `kiln_fused` has the same.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use crate::functions::{exp, reciprocal};

/// `1 / (1 + e^-x)`
#[cube]
pub fn sigmoid(x: f32) -> f32 {
    reciprocal(1.0f32 + exp(-x))
}

/// `tanh x`: Cephes' odd polynomial near zero, `1 - 2 / (e^2|x| + 1)` elsewhere.
#[cube]
pub fn tanh(x: f32) -> f32 {
    let z = x * x;
    let p = -5.704_988_7e-3f32 * z + 2.063_908_8e-2f32;
    let p = p * z - 5.373_971_6e-2f32;
    let p = p * z + 1.333_144_2e-1f32;
    let p = p * z - 3.333_328e-1f32;
    let near = p * z * x + x;
    // Beyond 20 nothing changes, and the exponential stays finite.
    let size = min(x.abs(), 20.0f32);
    let far = 1.0f32 - 2.0f32 * reciprocal(exp(2.0f32 * size) + 1.0f32);
    let far = select(x < 0.0f32, -far, far);
    select(size < 0.625f32, near, far)
}

/// `ln(1 + x)` for x not negative: six terms of the series near zero, where the device's logarithm would lose digits.
#[cube]
pub fn ln_one_plus(x: f32) -> f32 {
    let small = min(x, 0.0625f32);
    let p = 0.2f32 - small * 0.166_666_67f32;
    let p = 0.25f32 - small * p;
    let p = 0.333_333_34f32 - small * p;
    let p = 0.5f32 - small * p;
    let near = small * (1.0f32 - small * p);
    select(x < 0.0625f32, near, (1.0f32 + x).ln())
}

/// `1 - e^x` for x not positive: seven terms of the series near zero, where the difference would lose digits.
#[cube]
pub fn one_minus_exp(x: f32) -> f32 {
    let small = max(x, -0.25f32);
    let p = 1.0f32 + small * 0.142_857_15f32;
    let p = 1.0f32 + small * 0.166_666_67f32 * p;
    let p = 1.0f32 + small * 0.2f32 * p;
    let p = 1.0f32 + small * 0.25f32 * p;
    let p = 1.0f32 + small * 0.333_333_34f32 * p;
    let p = 1.0f32 + small * 0.5f32 * p;
    select(x > -0.25f32, -(small * p), 1.0f32 - x.exp())
}

/// `ln(1 + e^x)`
#[cube]
pub fn softplus(x: f32) -> f32 {
    max(x, 0.0f32) + ln_one_plus((-x.abs()).exp())
}
