//! Reciprocals where a division to the last bit, some ten instructions, is more than is asked for.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// The power of two from `1 / x` to below `2 / x`, of a positive normal `x` below `2^127`: what is multiplied by it is not rounded.
#[cube]
pub(super) fn inverse_power(x: f32) -> f32 {
    // The exponent, of bias 127, is mirrored.
    f32::reinterpret(0x7F00_0000u32 - (u32::reinterpret(x) & 0x7F80_0000u32))
}

/// `1 / x`, to about a unit in the last place where it is `native`, NVIDIA's own instruction, which takes denormals for zero.
#[cube]
pub(super) fn reciprocal(x: f32, #[comptime] native: bool) -> f32 {
    if comptime!(native) {
        f32::reinterpret(native_reciprocal(u32::reinterpret(x)))
    } else {
        1.0f32 / x
    }
}

/// The instruction on the bits of numbers; of the kernel language, never called on the host.
fn native_reciprocal(bits: u32) -> u32 {
    f32::from_bits(bits).recip().to_bits()
}

mod native_reciprocal {
    use super::cubecl::{ir::Scope, prelude::*};

    #[cfg(feature = "cuda")]
    pub(super) fn expand(scope: &Scope, bits: NativeExpand<u32>) -> NativeExpand<u32> {
        use super::cubecl::ir::pliron::builtin::types::{IntegerType, Signedness};
        use pliron_llvm::ops::InlineAsmOp;

        unary_expand(scope, bits.into(), |ctx, bits| {
            let word = IntegerType::get(ctx, 32, Signedness::Signless).into();
            InlineAsmOp::new(
                ctx,
                word,
                vec![bits],
                "rcp.approx.ftz.f32 $0, $1;",
                "=r,r",
                false,
            )
        })
        .into()
    }

    /// Without CUDA no device is native.
    #[cfg(not(feature = "cuda"))]
    pub(super) fn expand(_scope: &Scope, bits: NativeExpand<u32>) -> NativeExpand<u32> {
        bits
    }
}
