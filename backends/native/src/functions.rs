//! The functions, and how an instruction is called by name.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// `2^x`.
#[cube]
pub fn exp2(x: f32) -> f32 {
    let native = is_native().comptime();
    if comptime!(native) {
        f32::reinterpret(ex2_of_bits(u32::reinterpret(x)))
    } else {
        (x * core::f32::consts::LN_2).exp()
    }
}

/// `e^x`.
#[cube]
pub fn exp(x: f32) -> f32 {
    let native = is_native().comptime();
    if comptime!(native) {
        let exponent = x * core::f32::consts::LOG2_E;
        f32::reinterpret(ex2_of_bits(u32::reinterpret(exponent)))
    } else {
        x.exp()
    }
}

/// `1 / x`.
#[cube]
pub fn reciprocal(x: f32) -> f32 {
    let native = is_native().comptime();
    if comptime!(native) {
        f32::reinterpret(rcp_of_bits(u32::reinterpret(x)))
    } else {
        1.0f32 / x
    }
}

/// `1 / sqrt(x)` of a positive x.
#[cube]
pub fn inverse_sqrt(x: f32) -> f32 {
    let native = is_native().comptime();
    if comptime!(native) {
        f32::reinterpret(rsqrt_of_bits(u32::reinterpret(x)))
    } else {
        1.0f32 / x.sqrt()
    }
}

/// Whether kernels are compiled by LLVM for NVIDIA: the code generator through C++ has asynchronous copies, this one has not.
#[cube]
fn is_native() -> comptime_type!(bool) {
    let properties = comptime::device_properties().comptime();
    comptime!(cfg!(feature = "cuda") && !properties.features.copy_async)
}

/// A function of the bits of one number, which is the instruction of that name on the device and never called on the host.
macro_rules! instruction {
    ($name:ident, $assembly:literal) => {
        #[cube]
        fn $name(bits: u32) -> u32 {
            intrinsic!(|scope| call(scope, $assembly, bits))
        }
    };
}

instruction!(ex2_of_bits, "ex2.approx.ftz.f32 $0, $1;");
instruction!(rcp_of_bits, "rcp.approx.ftz.f32 $0, $1;");
instruction!(rsqrt_of_bits, "rsqrt.approx.ftz.f32 $0, $1;");

#[cfg(feature = "cuda")]
fn call(
    scope: &cubecl::ir::Scope,
    assembly: &'static str,
    bits: NativeExpand<u32>,
) -> NativeExpand<u32> {
    use cubecl::ir::pliron::builtin::types::{IntegerType, Signedness};
    use pliron_llvm::ops::InlineAsmOp;

    unary_expand(scope, bits.into(), |ctx, bits| {
        let word = IntegerType::get(ctx, 32, Signedness::Signless).into();
        InlineAsmOp::new(ctx, word, vec![bits], assembly, "=r,r", false)
    })
    .into()
}

/// Without CUDA no device is native, and nothing is called.
#[cfg(not(feature = "cuda"))]
fn call(
    _scope: &cubecl::ir::Scope,
    _assembly: &'static str,
    bits: NativeExpand<u32>,
) -> NativeExpand<u32> {
    bits
}
