//! `2^x` in one instruction.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// `2^x`, to about two units in the last place, with zero for what would be denormal. The kernel language has only `e^x`, which
/// the code generator for NVIDIA takes from a library of eight instructions: where it is `native`, its own instruction is
/// called by name.
#[cube]
pub(super) fn exp2(x: f32, #[comptime] native: bool) -> f32 {
    if comptime!(native) {
        f32::reinterpret(native_exp2(u32::reinterpret(x)))
    } else {
        (x * core::f32::consts::LN_2).exp()
    }
}

/// The instruction on the bits of numbers; of the kernel language, never called on the host.
fn native_exp2(bits: u32) -> u32 {
    f32::from_bits(bits).exp2().to_bits()
}

mod native_exp2 {
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
                "ex2.approx.ftz.f32 $0, $1;",
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
