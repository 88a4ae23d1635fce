//! Norms of gradients, and the factor that clips them.

use burn::tensor::{Device, Tensor};

#[cfg(feature = "flex")]
use crate::ops::on_flex;
use crate::{ops::on_cube, reference};

/// `sum x^2`, for the norm of a gradient; `x` is not tracked.
///
/// # Shapes
/// - any; output `[1]`
///
/// # Cost
/// 2 operations an element; one tensor of memory traffic.
pub fn square_sum<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    #[cfg(feature = "flex")]
    if on_flex(&x) && !x.device().is_autodiff() {
        return crate::flex::square_sum(x);
    }
    let len = x.shape().num_elements();
    if on_cube(&x) && len > 0 {
        return square_sums(vec![x.reshape([len])]);
    }
    reference::square_sum(x)
}

/// `sum x^2` over several tensors, for the norm of all gradients of a model; none of them is tracked. On CubeCL backends one pass
/// over each and one over what they leave, which the device adds up without telling the host.
///
/// # Shapes
/// - any lengths; output `[1]`
///
/// # Panics
/// If there is no tensor.
pub fn square_sums(tensors: Vec<Tensor<1>>) -> Tensor<1> {
    #[cfg(feature = "_cube")]
    if tensors
        .iter()
        .all(|x| on_cube(x) && x.dims() != [0] && !x.device().is_autodiff())
    {
        return crate::cube::square_sums(tensors);
    }
    Tensor::cat(tensors.into_iter().map(square_sum).collect(), 0).sum()
}

/// Norm of the gradient of a loss, and what the gradient is multiplied by so that its norm is at most `bound`, `min(1, bound / norm)`,
/// or 1 where the bound is 0. The factor is NaN if norm or loss are not finite, at which [`ScaledAdamW`](crate::ScaledAdamW) leaves
/// everything as it is. The host need not know either.
///
/// The gradient that `square_sum` is of may be that of `loss_scale` times the loss: the norm is of the loss' own, and the factor takes
/// the scale off.
///
/// # Shapes
/// - square_sum and loss `[1]`, not tracked; outputs norm and factor, `[1]` each
pub fn clip_factor(
    square_sum: Tensor<1>,
    loss: Tensor<1>,
    bound: f64,
    loss_scale: f64,
) -> [Tensor<1>; 2] {
    #[cfg(feature = "_cube")]
    if on_cube(&square_sum) && on_cube(&loss) && !square_sum.device().is_autodiff() {
        let inverse = (1.0 / loss_scale) as f32;
        return crate::cube::clip_factor(square_sum, loss, bound as f32, inverse);
    }
    reference::clip_factor(square_sum, loss, bound, loss_scale)
}

/// Whether a device is one to which the host gives work ahead, so that a number read back costs time: those of CubeCL backends.
pub fn runs_behind(device: &Device) -> bool {
    #[cfg(feature = "_cube")]
    {
        matches!(
            device.clone().inner().as_dispatch(),
            burn::backend::DispatchDevice::Cube(_)
        )
    }
    #[cfg(not(feature = "_cube"))]
    {
        let _ = device;
        false
    }
}

/// Does work on the thread that hands a device its orders, where giving one costs no way to that thread and none waits for those
/// before it; on other devices where it is. Meant for a training step: some hundred products of a foreign library, each of which
/// must otherwise wait until all that was ordered before has been handed on.
///
/// # Panics
/// Where the work does, or if the device's thread is gone.
pub fn on_device_thread<T: Send + 'static>(device: &Device, work: impl FnOnce() -> T + Send) -> T {
    #[cfg(feature = "_cube")]
    if let burn::backend::DispatchDevice::Cube(device) = device.clone().inner().as_dispatch() {
        return kiln_profile::on_thread_of(&device.client(), work);
    }
    let _ = device;
    work()
}
