//! AdamW in place, and the factor that clips a gradient, which the device keeps to itself.

use burn::{
    backend::TensorMetadata,
    tensor::{DType, Tensor},
};
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    ops::numeric::ones_client,
    tensor::CubeTensor,
};
use kiln_profile::Operation;

use super::{
    CUBE_UNITS, address_type, empty, lift, lower,
    math::{is_finite, nan},
    packed, vector, with_float,
};
use crate::optimizer::Factors;

/// See [`AdamW`](crate::AdamW): parameter and moments after the step, in the same buffers if nothing else holds them. The gradient
/// counts `scale [1]` times; if that is not finite, nothing changes.
pub(crate) fn adamw<const D: usize>(
    factors: Factors,
    values: [Tensor<D>; 3],
    grad: Tensor<D>,
    scale: Option<Tensor<1>>,
) -> [Tensor<D>; 3] {
    let [parameter, moment_1, moment_2] = values.map(|value| writable(lower(value)));
    let grad = into_contiguous(lower(grad));
    let client = grad.client.clone();
    let scale = match scale {
        Some(scale) => packed(lower(scale), DType::F32),
        None => ones_client(client.clone(), grad.device.clone(), [1].into(), DType::F32),
    };
    let len = grad.shape().num_elements();
    // Parameter and moments are read and written.
    let bytes = len * (6 * size_of::<f32>() + grad.dtype.size());
    let of = || Operation {
        name: "AdamW",
        flops: 0.0,
        bytes: bytes as f64,
    };
    let launch = || {
        let wide = vector(&parameter, len);
        let dim = CubeDim::new_1d(CUBE_UNITS);
        // SAFETY: parameter, moments and gradient are packed and of one length, and surplus units leave at once.
        unsafe {
            with_float!(grad, E => update_adamw::launch_unchecked::<E>(
                &client,
                calculate_cube_count_elemwise(&client, len / wide, dim),
                dim,
                address_type!(parameter),
                wide,
                parameter.clone().into_buffer_arg(),
                moment_1.clone().into_buffer_arg(),
                moment_2.clone().into_buffer_arg(),
                grad.into_buffer_arg(),
                scale.into_buffer_arg(),
                FactorsOnDeviceLaunch::new(
                    factors.betas[0],
                    factors.betas[1],
                    factors.shares[0],
                    factors.shares[1],
                    factors.rate,
                    factors.correction,
                    factors.epsilon,
                    factors.keep,
                ),
                len / wide,
            ));
        }
    };
    if len > 0 {
        kiln_profile::operation(of, launch);
    }
    [parameter, moment_1, moment_2].map(lift)
}

/// A packed tensor that nothing else holds.
fn writable(tensor: CubeTensor) -> CubeTensor {
    let tensor = packed(tensor, DType::F32);
    if tensor.can_mut() {
        tensor
    } else {
        into_contiguous(tensor.copy())
    }
}

/// See [`clip_factor`](crate::clip_factor).
pub(crate) fn clip_factor(
    square_sum: Tensor<1>,
    loss: Tensor<1>,
    bound: f32,
    inverse: f32,
) -> [Tensor<1>; 2] {
    let [squares, loss] = [square_sum, loss].map(|x| packed(lower(x), DType::F32));
    let [norm, factor] = [(); 2].map(|()| empty(&squares, [1], DType::F32));
    let client = squares.client.clone();
    // SAFETY: every buffer has its one number.
    unsafe {
        find_factor::launch_unchecked(
            &client,
            CubeCount::new_single(),
            CubeDim::new_single(),
            address_type!(squares),
            squares.into_buffer_arg(),
            loss.into_buffer_arg(),
            norm.clone().into_buffer_arg(),
            factor.clone().into_buffer_arg(),
            bound,
            inverse,
        );
    }
    [lift(norm), lift(factor)]
}

/// [`Factors`] as a kernel is given them.
#[derive(CubeLaunch, CubeType)]
struct FactorsOnDevice {
    beta_1: f32,
    beta_2: f32,
    share_1: f32,
    share_2: f32,
    rate: f32,
    correction: f32,
    epsilon: f32,
    keep: f32,
}

/// One vector of parameter and moments, see [`AdamW`](crate::AdamW).
#[cube(launch_unchecked, address_type = "dynamic")]
fn update_adamw<E: Float, N: Size>(
    parameter: &mut [Vector<f32, N>],
    moment_1: &mut [Vector<f32, N>],
    moment_2: &mut [Vector<f32, N>],
    grad: &[Vector<E, N>],
    scale: &[f32],
    factors: FactorsOnDevice,
    total: usize,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let at = ABSOLUTE_POS;
    // All loads are issued before the first of them is waited for.
    let g = Vector::<f32, N>::cast_from(grad[at]);
    let p = parameter[at];
    let m = moment_1[at];
    let v = moment_2[at];
    let scale = scale[0];
    if !is_finite(scale) {
        terminate!();
    }
    let g = g * Vector::<f32, N>::new(scale);
    let m = m * Vector::<f32, N>::new(factors.beta_1) + g * Vector::<f32, N>::new(factors.share_1);
    let v =
        v * Vector::<f32, N>::new(factors.beta_2) + g * g * Vector::<f32, N>::new(factors.share_2);
    let root = (v * Vector::<f32, N>::new(factors.correction)).sqrt();
    let step = m / (root + Vector::<f32, N>::new(factors.epsilon));
    parameter[at] =
        p * Vector::<f32, N>::new(factors.keep) - step * Vector::<f32, N>::new(factors.rate);
    moment_1[at] = m;
    moment_2[at] = v;
}

/// `norm = sqrt(squares) inverse` and `factor = min(1, bound / norm) inverse`, where a bound of 0 does not count; the factor is NaN if
/// the squares or the loss are not finite.
#[cube(launch_unchecked, address_type = "dynamic")]
fn find_factor(
    squares: &[f32],
    loss: &[f32],
    norm: &mut [f32],
    factor: &mut [f32],
    bound: f32,
    inverse: f32,
) {
    let length = squares[0].sqrt() * inverse;
    let mut found = inverse;
    if bound > 0.0f32 && length > bound {
        found = bound / length * inverse;
    }
    if !is_finite(squares[0]) || !is_finite(loss[0]) {
        found = nan();
    }
    norm[0] = length;
    factor[0] = found;
}
