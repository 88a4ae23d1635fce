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
    CUBE_UNITS, address_type, empty,
    gathered::{self, Waiting, is_gathered},
    lift, lower,
    math::{is_finite, nan},
    packed, vector, with_float, writable,
};
use crate::optimizer::Factors;

/// See [`AdamW`](crate::AdamW): parameter and moments after the step, in the same buffers if nothing else holds them. The gradient
/// counts `scale [1]` times; if that is not finite, nothing changes. All but the largest parameters join those that wait,
/// where any do: their steps are not taken before [`step_waiting`].
pub(crate) fn adamw<const D: usize>(
    factors: Factors,
    values: [Tensor<D>; 3],
    grad: Tensor<D>,
    scale: Option<Tensor<1>>,
    waiting: Option<&mut Vec<Waiting>>,
) -> [Tensor<D>; 3] {
    let [parameter, moment_1, moment_2] = values.map(|value| writable(lower(value), DType::F32));
    let grad = into_contiguous(lower(grad));
    let client = grad.client.clone();
    let len = grad.shape().num_elements();
    if let Some(waiting) = waiting.filter(|_| is_gathered(len)) {
        let values = [parameter, moment_1, moment_2];
        waiting.push(Waiting {
            factors,
            values: values.clone(),
            grad,
        });
        return values.map(lift);
    }
    let scale = scale_or_one(scale, &grad);
    let gradient = grad.dtype;
    let of = || operation(len, gradient);
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
                factors.on_device(),
                len / wide,
            ));
        }
    };
    if len > 0 {
        kiln_profile::operation(of, launch);
    }
    [parameter, moment_1, moment_2].map(lift)
}

/// Takes the steps of parameters that wait, whose gradients count `scale [1]` times.
pub(crate) fn step_waiting(waiting: Vec<Waiting>, scale: Option<Tensor<1>>) {
    if let Some(Waiting { grad, .. }) = waiting.first() {
        let scale = scale_or_one(scale, grad);
        gathered::step_waiting(waiting, &scale);
    }
}

/// The factor of a gradient on its device.
fn scale_or_one(scale: Option<Tensor<1>>, grad: &CubeTensor) -> CubeTensor {
    match scale {
        Some(scale) => packed(lower(scale), DType::F32),
        None => {
            let (client, device) = (grad.client.clone(), grad.device.clone());
            ones_client(client, device, [1].into(), DType::F32)
        }
    }
}

/// A step of so many numbers, with gradients of this type: parameter and moments are read and written.
pub(super) fn operation(numbers: usize, gradient: DType) -> Operation {
    Operation {
        name: "AdamW",
        flops: 0.0,
        bytes: (numbers * (6 * size_of::<f32>() + gradient.size())) as f64,
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
pub(super) struct FactorsOnDevice {
    beta_1: f32,
    beta_2: f32,
    share_1: f32,
    share_2: f32,
    rate: f32,
    correction: f32,
    epsilon: f32,
    keep: f32,
}

impl Factors {
    pub(super) fn on_device(self) -> FactorsOnDeviceLaunch {
        FactorsOnDeviceLaunch::new(
            self.betas[0],
            self.betas[1],
            self.shares[0],
            self.shares[1],
            self.rate,
            self.correction,
            self.epsilon,
            self.keep,
        )
    }
}

#[cube]
pub(super) fn next_moment_1<N: Size>(
    m: Vector<f32, N>,
    g: Vector<f32, N>,
    factors: &FactorsOnDevice,
) -> Vector<f32, N> {
    m * Vector::<f32, N>::new(factors.beta_1) + g * Vector::<f32, N>::new(factors.share_1)
}

#[cube]
pub(super) fn next_moment_2<N: Size>(
    v: Vector<f32, N>,
    g: Vector<f32, N>,
    factors: &FactorsOnDevice,
) -> Vector<f32, N> {
    v * Vector::<f32, N>::new(factors.beta_2) + g * g * Vector::<f32, N>::new(factors.share_2)
}

/// The parameter after the step, from the moments after it.
#[cube]
pub(super) fn next_parameter<N: Size>(
    p: Vector<f32, N>,
    m: Vector<f32, N>,
    v: Vector<f32, N>,
    factors: &FactorsOnDevice,
) -> Vector<f32, N> {
    let root = (v * Vector::<f32, N>::new(factors.correction)).sqrt();
    let step = m / (root + Vector::<f32, N>::new(factors.epsilon));
    p * Vector::<f32, N>::new(factors.keep) - step * Vector::<f32, N>::new(factors.rate)
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
    let m = next_moment_1::<N>(m, g, &factors);
    let v = next_moment_2::<N>(v, g, &factors);
    parameter[at] = next_parameter::<N>(p, m, v, &factors);
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
