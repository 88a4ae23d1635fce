//! The Cayley map `w = (z - i) / (z + i)` and its adjoint; each unit takes one vector of complex numbers.

use burn::backend::TensorMetadata;
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};

use super::{CUBE_UNITS, address_type, empty_like, last_axis, packed, vector, with_float};

pub(super) fn forward(z: CubeTensor) -> CubeTensor {
    let z = into_contiguous(z);
    let w = empty_like(&z);
    let heads = last_axis(&z) / 2;
    let wide = vector(&z, heads.max(1));
    let total = z.shape().num_elements() / (2 * wide);
    if total > 0 {
        let dim = CubeDim::new_1d(CUBE_UNITS);
        // SAFETY: every unit has a pair of vectors of its own, and surplus units leave at once.
        unsafe {
            with_float!(z, E => map_to_disc::launch_unchecked::<E>(
                &z.client,
                calculate_cube_count_elemwise(&z.client, total, dim),
                dim,
                address_type!(z, w),
                wide,
                z.clone().into_buffer_arg(),
                w.clone().into_buffer_arg(),
                heads / wide,
                total,
            ));
        }
    }
    w
}

pub(super) fn adjoint(z: CubeTensor, grad: CubeTensor) -> CubeTensor {
    let z = into_contiguous(z);
    let grad = packed(grad, z.dtype);
    let d_z = empty_like(&z);
    let heads = last_axis(&z) / 2;
    let wide = vector(&z, heads.max(1));
    let total = z.shape().num_elements() / (2 * wide);
    if total > 0 {
        let dim = CubeDim::new_1d(CUBE_UNITS);
        // SAFETY: as in `forward`.
        unsafe {
            with_float!(z, E => gradient_from_disc::launch_unchecked::<E>(
                &z.client,
                calculate_cube_count_elemwise(&z.client, total, dim),
                dim,
                address_type!(z, d_z),
                wide,
                z.clone().into_buffer_arg(),
                grad.into_buffer_arg(),
                d_z.clone().into_buffer_arg(),
                heads / wide,
                total,
            ));
        }
    }
    d_z
}

/// With `z = x + i y`: `(x^2 + y^2 - 1 - 2 i x) / (x^2 + (y + 1)^2)`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn map_to_disc<E: Float, N: Size>(
    z: &[Vector<E, N>],
    w: &mut [Vector<E, N>],
    half: usize,
    total: usize,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let at = ABSOLUTE_POS / half * (2 * half) + ABSOLUTE_POS % half;
    let one = Vector::<f32, N>::new(1.0f32);
    let two = Vector::<f32, N>::new(2.0f32);
    let re = Vector::<f32, N>::cast_from(z[at]);
    let im = Vector::<f32, N>::cast_from(z[at + half]);
    let square = re * re + im * im;
    let inverse = one / (square + two * im + one);
    w[at] = Vector::<E, N>::cast_from((square - one) * inverse);
    w[at + half] = Vector::<E, N>::cast_from((-two * re) * inverse);
}

/// `conj(w') g` with `w' = 2 i / (z + i)^2`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn gradient_from_disc<E: Float, N: Size>(
    z: &[Vector<E, N>],
    grad: &[Vector<E, N>],
    d_z: &mut [Vector<E, N>],
    half: usize,
    total: usize,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let at = ABSOLUTE_POS / half * (2 * half) + ABSOLUTE_POS % half;
    let one = Vector::<f32, N>::new(1.0f32);
    let two = Vector::<f32, N>::new(2.0f32);
    let x = Vector::<f32, N>::cast_from(z[at]);
    let y = Vector::<f32, N>::cast_from(z[at + half]) + one;
    let g_re = Vector::<f32, N>::cast_from(grad[at]);
    let g_im = Vector::<f32, N>::cast_from(grad[at + half]);
    // (z + i)^2 / |z + i|^4, times two.
    let inverse = one / (x * x + y * y);
    let scale = two * inverse * inverse;
    let re = (x - y) * (x + y) * scale;
    let im = two * x * y * scale;
    d_z[at] = Vector::<E, N>::cast_from(im * g_re + re * g_im);
    d_z[at + half] = Vector::<E, N>::cast_from(im * g_im - re * g_re);
}
