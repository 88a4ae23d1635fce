//! GELU, SwiGLU, softplus and the soft bound: each unit takes one vector.

use burn::backend::TensorMetadata;
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};
use kiln_native::{sigmoid, softplus as softplus_of, tanh};

use super::{CUBE_UNITS, address_type, empty_like, math::normal, packed, vector, with_float};

/// Launches a kernel over buffers of one length and type, the vectors of which are units.
macro_rules! elementwise {
    ($kernel:ident, [$first:ident $(, $buffer:ident)*] $(, $scalar:expr)*) => {{
        let total = $first.shape().num_elements();
        if total > 0 {
            let wide = vector(&$first, total);
            let dim = CubeDim::new_1d(CUBE_UNITS);
            let count = calculate_cube_count_elemwise(&$first.client, total / wide, dim);
            // SAFETY: the buffers are packed and of one length, and surplus units leave at once.
            unsafe {
                with_float!($first, E => $kernel::launch_unchecked::<E>(
                    &$first.client,
                    count,
                    dim,
                    address_type!($first $(, $buffer)*),
                    wide,
                    $first.clone().into_buffer_arg(),
                    $($buffer.clone().into_buffer_arg(),)*
                    total / wide,
                    $($scalar,)*
                ));
            }
        }
    }};
}

/// Whether numbers have 16 bits.
fn is_narrow(tensor: &CubeTensor) -> bool {
    tensor.dtype.size() == 2
}

pub(super) fn gelu(x: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    let y = empty_like(&x);
    elementwise!(gelu_value, [x, y], is_narrow(&x));
    y
}

pub(super) fn gelu_adjoint(x: CubeTensor, grad: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    let grad = packed(grad, x.dtype);
    let d_x = empty_like(&x);
    elementwise!(gelu_gradient, [x, grad, d_x], is_narrow(&x));
    d_x
}

pub(super) fn swiglu(gate: CubeTensor, up: CubeTensor) -> CubeTensor {
    let gate = into_contiguous(gate);
    let up = packed(up, gate.dtype);
    let y = empty_like(&gate);
    elementwise!(swiglu_value, [gate, up, y]);
    y
}

pub(super) fn swiglu_adjoint(
    gate: CubeTensor,
    up: CubeTensor,
    grad: CubeTensor,
) -> [CubeTensor; 2] {
    let gate = into_contiguous(gate);
    let (up_type, dtype) = (up.dtype, gate.dtype);
    let [up, grad] = [up, grad].map(|x| packed(x, dtype));
    let [d_gate, d_up] = [&gate, &up].map(empty_like);
    elementwise!(swiglu_gradient, [gate, up, grad, d_gate, d_up]);
    [d_gate, packed(d_up, up_type)]
}

pub(super) fn soft_bound(x: CubeTensor, bound: f32) -> CubeTensor {
    let x = into_contiguous(x);
    let y = empty_like(&x);
    elementwise!(soft_bound_value, [x, y], bound);
    y
}

pub(super) fn soft_bound_adjoint(x: CubeTensor, bound: f32, grad: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    let grad = packed(grad, x.dtype);
    let d_x = empty_like(&x);
    elementwise!(soft_bound_gradient, [x, grad, d_x], bound);
    d_x
}

pub(super) fn softplus(x: CubeTensor, floor: f32) -> CubeTensor {
    let x = into_contiguous(x);
    let y = empty_like(&x);
    elementwise!(softplus_value, [x, y], floor);
    y
}

pub(super) fn softplus_adjoint(x: CubeTensor, grad: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    let grad = packed(grad, x.dtype);
    let d_x = empty_like(&x);
    elementwise!(softplus_gradient, [x, grad, d_x]);
    d_x
}

/// `x Phi(x)`
#[cube(launch_unchecked, address_type = "dynamic")]
fn gelu_value<E: Float, N: Size>(
    x: &[Vector<E, N>],
    y: &mut [Vector<E, N>],
    total: usize,
    #[comptime] coarse: bool,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]);
    let mut value = x;
    #[unroll]
    for i in 0..x.vector_size() {
        let x = x.extract(i);
        value.insert(i, x * normal(x, coarse).below);
    }
    y[ABSOLUTE_POS] = Vector::<E, N>::cast_from(value);
}

/// `g (Phi(x) + x phi(x))`
#[cube(launch_unchecked, address_type = "dynamic")]
fn gelu_gradient<E: Float, N: Size>(
    x: &[Vector<E, N>],
    grad: &[Vector<E, N>],
    d_x: &mut [Vector<E, N>],
    total: usize,
    #[comptime] coarse: bool,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]);
    let mut slope = x;
    #[unroll]
    for i in 0..x.vector_size() {
        let x = x.extract(i);
        let normal = normal(x, coarse);
        slope.insert(i, normal.below + x * normal.density);
    }
    let grad = Vector::<f32, N>::cast_from(grad[ABSOLUTE_POS]);
    d_x[ABSOLUTE_POS] = Vector::<E, N>::cast_from(grad * slope);
}

/// `silu(gate) up`
#[cube(launch_unchecked, address_type = "dynamic")]
fn swiglu_value<E: Float, N: Size>(
    gate: &[Vector<E, N>],
    up: &[Vector<E, N>],
    y: &mut [Vector<E, N>],
    total: usize,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let gate = Vector::<f32, N>::cast_from(gate[ABSOLUTE_POS]);
    let mut silu = gate;
    #[unroll]
    for i in 0..gate.vector_size() {
        let gate = gate.extract(i);
        silu.insert(i, gate * sigmoid(gate));
    }
    let up = Vector::<f32, N>::cast_from(up[ABSOLUTE_POS]);
    y[ABSOLUTE_POS] = Vector::<E, N>::cast_from(silu * up);
}

/// `d gate = g up s (1 + gate (1 - s))`, `d up = g gate s` with `s = 1 / (1 + e^-gate)`
#[cube(launch_unchecked, address_type = "dynamic")]
fn swiglu_gradient<E: Float, N: Size>(
    gate: &[Vector<E, N>],
    up: &[Vector<E, N>],
    grad: &[Vector<E, N>],
    d_gate: &mut [Vector<E, N>],
    d_up: &mut [Vector<E, N>],
    total: usize,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let gate = Vector::<f32, N>::cast_from(gate[ABSOLUTE_POS]);
    let mut silu = gate;
    let mut slope = gate;
    #[unroll]
    for i in 0..gate.vector_size() {
        let gate = gate.extract(i);
        let s = sigmoid(gate);
        silu.insert(i, gate * s);
        slope.insert(i, s * (1.0f32 + gate * (1.0f32 - s)));
    }
    let up = Vector::<f32, N>::cast_from(up[ABSOLUTE_POS]);
    let grad = Vector::<f32, N>::cast_from(grad[ABSOLUTE_POS]);
    d_gate[ABSOLUTE_POS] = Vector::<E, N>::cast_from(grad * up * slope);
    d_up[ABSOLUTE_POS] = Vector::<E, N>::cast_from(grad * silu);
}

/// `bound tanh(x / bound)`
#[cube(launch_unchecked, address_type = "dynamic")]
fn soft_bound_value<E: Float, N: Size>(
    x: &[Vector<E, N>],
    y: &mut [Vector<E, N>],
    total: usize,
    bound: f32,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]);
    let mut value = x;
    #[unroll]
    for i in 0..x.vector_size() {
        value.insert(i, bound * tanh(x.extract(i) / bound));
    }
    y[ABSOLUTE_POS] = Vector::<E, N>::cast_from(value);
}

/// `g (1 - tanh(x / bound)^2)`
#[cube(launch_unchecked, address_type = "dynamic")]
fn soft_bound_gradient<E: Float, N: Size>(
    x: &[Vector<E, N>],
    grad: &[Vector<E, N>],
    d_x: &mut [Vector<E, N>],
    total: usize,
    bound: f32,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]);
    let mut slope = x;
    #[unroll]
    for i in 0..x.vector_size() {
        let t = tanh(x.extract(i) / bound);
        slope.insert(i, (1.0f32 - t) * (1.0f32 + t));
    }
    let grad = Vector::<f32, N>::cast_from(grad[ABSOLUTE_POS]);
    d_x[ABSOLUTE_POS] = Vector::<E, N>::cast_from(grad * slope);
}

/// `max(x, 0) + ln(1 + e^-|x|) + floor`
#[cube(launch_unchecked, address_type = "dynamic")]
fn softplus_value<E: Float, N: Size>(
    x: &[Vector<E, N>],
    y: &mut [Vector<E, N>],
    total: usize,
    floor: f32,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]);
    let mut value = x;
    #[unroll]
    for i in 0..x.vector_size() {
        value.insert(i, softplus_of(x.extract(i)) + floor);
    }
    y[ABSOLUTE_POS] = Vector::<E, N>::cast_from(value);
}

/// `g / (1 + e^-x)`
#[cube(launch_unchecked, address_type = "dynamic")]
fn softplus_gradient<E: Float, N: Size>(
    x: &[Vector<E, N>],
    grad: &[Vector<E, N>],
    d_x: &mut [Vector<E, N>],
    total: usize,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]);
    let mut slope = x;
    #[unroll]
    for i in 0..x.vector_size() {
        slope.insert(i, sigmoid(x.extract(i)));
    }
    let grad = Vector::<f32, N>::cast_from(grad[ABSOLUTE_POS]);
    d_x[ABSOLUTE_POS] = Vector::<E, N>::cast_from(grad * slope);
}
