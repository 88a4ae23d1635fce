//! The CubeCL implementation: kernels of one source for CUDA, ROCm, Vulkan, WebGPU and Metal.
//!
//! Storage is `f32`, `f16` or `bf16`, arithmetic is `f32`. Kernels are bound by memory: every one reads its inputs and writes its
//! outputs once, 16 bytes a unit at a time where rows allow it. Sums are added up in an order that follows from the shapes and
//! the device alone, so that a device repeats its results to the bit. Buffers are packed: asked for by rows, CUDA would pad them.

#![allow(
    clippy::too_many_arguments,
    clippy::manual_is_multiple_of,
    reason = "every buffer of a kernel is an argument, and the kernel language has operators only"
)]

mod beside;
mod cayley;
mod conv;
mod device;
mod dropout;
mod elementwise;
mod gathered;
mod head;
mod heads;
mod loss;
mod math;
mod norm;
mod readout;
mod rotate;
mod rows;
mod sums;
mod team;
mod update;
mod written;

use burn::{
    backend::{
        Cube, TensorMetadata,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Shape, Tensor},
};
use burn_cubecl::{
    cubecl::prelude::Client, kernel::into_contiguous, ops::numeric::empty_device_contiguous_dtype,
    tensor::CubeTensor,
};

pub(crate) use self::{
    gathered::Waiting,
    heads::takes_heads,
    readout::takes_readout,
    sums::square_sums,
    update::{adamw, clip_factor, step_waiting},
};
use crate::backend::{FusedAdjoint, FusedBackend};

type Primitive = FloatTensor<Cube>;

/// Units of a cube of elementwise work.
const CUBE_UNITS: u32 = 256;
/// Processors of a device that does not say how many it has.
const USUAL_PROCESSORS: usize = 64;

/// The address type that reaches every element of these tensors.
macro_rules! address_type {
    ($($tensor:expr),*) => {
        [$($tensor.required_address_type()),*].into_iter().max().unwrap_or_default()
    };
}

/// Evaluates an expression with `$E` the type that a tensor of floats holds.
macro_rules! with_float {
    ($tensor:expr, $E:ident => $body:expr) => {
        match $tensor.dtype {
            burn::tensor::DType::BF16 => {
                type $E = burn::tensor::bf16;
                $body
            }
            burn::tensor::DType::F16 => {
                type $E = burn::tensor::f16;
                $body
            }
            _ => {
                type $E = f32;
                $body
            }
        }
    };
}

use {address_type, with_float};

fn lift<const D: usize>(primitive: Primitive) -> Tensor<D> {
    Tensor::from_primitive::<Cube>(primitive)
}

fn lower<const D: usize>(tensor: Tensor<D>) -> Primitive {
    tensor
        .try_into_primitive::<Cube>()
        .expect("a tensor of a CubeCL backend, without autodiff")
}

/// A new buffer, not initialised.
fn empty(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(
        like.client.clone(),
        like.device.clone(),
        shape.into(),
        dtype,
    )
}

/// A new buffer of the shape and type of another.
fn empty_like(like: &CubeTensor) -> CubeTensor {
    empty(like, like.shape(), like.dtype)
}

/// Row-major without gaps, holding `dtype`.
fn packed(tensor: CubeTensor, dtype: DType) -> CubeTensor {
    let tensor = if tensor.dtype == dtype {
        tensor
    } else {
        burn_cubecl::kernel::cast(tensor, dtype)
    };
    into_contiguous(tensor)
}

/// The same of a tensor that nothing else holds.
fn writable(tensor: CubeTensor, dtype: DType) -> CubeTensor {
    let tensor = packed(tensor, dtype);
    match tensor.can_mut() {
        true => tensor,
        false => into_contiguous(tensor.copy()),
    }
}

/// Numbers that a unit reads and writes at once: what the device loads in one instruction, if `width` is a multiple of it.
fn vector(tensor: &CubeTensor, width: usize) -> usize {
    let size = tensor.dtype.size();
    let mut sizes = tensor.client.io_optimized_vector_sizes(size);
    sizes.find(|&size| width.is_multiple_of(size)).unwrap_or(1)
}

fn processors(client: &Client) -> usize {
    let count = client.properties().hardware.num_streaming_multiprocessors;
    count.map_or(USUAL_PROCESSORS, |count| count as usize)
}

fn last_axis(tensor: &CubeTensor) -> usize {
    let shape = tensor.shape();
    shape[shape.num_dims() - 1]
}

impl FusedBackend for Cube {
    fn fused_gelu(x: Primitive) -> Primitive {
        elementwise::gelu(x)
    }

    fn fused_swiglu(gate: Primitive, up: Primitive) -> Primitive {
        elementwise::swiglu(gate, up)
    }

    fn fused_soft_bound(x: Primitive, bound: f32) -> Primitive {
        elementwise::soft_bound(x, bound)
    }

    fn fused_cayley(z: Primitive) -> Primitive {
        cayley::forward(z)
    }

    fn fused_norm(x: Primitive, gamma: Primitive, epsilon: f32, centred: bool) -> Primitive {
        norm::forward(x, gamma, epsilon, centred)
    }

    fn fused_rotate(x: Primitive, cos: Primitive, sin: Primitive, heads: usize) -> Primitive {
        rotate::turn(x, cos, sin, heads, 1.0)
    }

    fn fused_causal_conv(x: Primitive, weight: Primitive, past: usize, silu: bool) -> Primitive {
        conv::forward(x, weight, past, silu)
    }

    fn fused_cross_entropy(logits: Primitive, targets: IntTensor<Cube>) -> Primitive {
        loss::forward(logits, targets)
    }
}

impl FusedAdjoint for Cube {
    fn gelu_adjoint(x: Primitive, grad: Primitive) -> Primitive {
        elementwise::gelu_adjoint(x, grad)
    }

    fn swiglu_adjoint(gate: Primitive, up: Primitive, grad: Primitive) -> [Primitive; 2] {
        elementwise::swiglu_adjoint(gate, up, grad)
    }

    fn soft_bound_adjoint(x: Primitive, bound: f32, grad: Primitive) -> Primitive {
        elementwise::soft_bound_adjoint(x, bound, grad)
    }

    fn cayley_adjoint(z: Primitive, grad: Primitive) -> Primitive {
        cayley::adjoint(z, grad)
    }

    fn norm_adjoint(
        x: Primitive,
        gamma: Primitive,
        epsilon: f32,
        centred: bool,
        grad: Primitive,
        so_far: Option<Primitive>,
        gamma_asked: bool,
    ) -> (Primitive, Option<Primitive>) {
        norm::adjoint(x, gamma, epsilon, centred, grad, so_far, gamma_asked)
    }

    fn rotate_adjoint(cos: Primitive, sin: Primitive, heads: usize, grad: Primitive) -> Primitive {
        rotate::turn(grad, cos, sin, heads, -1.0)
    }

    fn causal_conv_adjoint(
        x: Primitive,
        weight: Primitive,
        past: usize,
        silu: bool,
        grad: Primitive,
    ) -> [Primitive; 2] {
        conv::adjoint(x, weight, past, silu, grad)
    }

    fn cross_entropy_adjoint(
        logits: Primitive,
        targets: IntTensor<Cube>,
        nats: Primitive,
        grad: Primitive,
    ) -> Primitive {
        loss::adjoint(logits, targets, nats, grad)
    }
}
