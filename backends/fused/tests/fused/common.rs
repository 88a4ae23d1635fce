//! Random tensors, comparisons and gradients.

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use kiln_fused::AttentionMask;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Largest difference relative to the largest element: single precision keeps sums of some hundred terms to about 1e-6.
pub const TOLERANCE: f64 = 5e-6;

pub fn random<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| rng.random_range(-2.0..2.0))
        .collect();
    Tensor::from_data(TensorData::new(values, shape), &device())
}

/// Whether the tests run on Flex, the one backend with kernels for `linear` and `attention`.
pub fn on_flex() -> bool {
    backend() == "flex"
}

pub fn backend() -> String {
    std::env::var("KILN_TEST_BACKEND").unwrap_or_else(|_| "flex".into())
}

/// The device under test.
pub fn device() -> Device {
    let device = match backend().as_str() {
        #[cfg(feature = "flex")]
        "flex" => Device::flex(),
        #[cfg(feature = "vulkan")]
        "vulkan" => Device::vulkan(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "wgpu")]
        "wgpu" => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "metal")]
        "metal" => Device::metal(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "cuda")]
        "cuda" => Device::cuda(0),
        #[cfg(feature = "rocm")]
        "rocm" => Device::rocm(0),
        other => panic!("KILN_TEST_BACKEND={other} was not compiled in"),
    };
    device.autodiff()
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

pub fn bits<const D: usize>(tensor: Tensor<D>) -> Vec<u32> {
    values(tensor).into_iter().map(f32::to_bits).collect()
}

#[track_caller]
pub fn assert_close<const D: usize>(what: &str, found: Tensor<D>, expected: Tensor<D>) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let (found, expected) = (values(found), values(expected));
    let largest = expected
        .iter()
        .fold(1e-3, |m: f64, &x| m.max(f64::from(x).abs()));
    for (i, (&f, &e)) in found.iter().zip(&expected).enumerate() {
        let error = (f64::from(f) - f64::from(e)).abs() / largest;
        assert!(
            error < TOLERANCE,
            "{what}[{i}]: {f} instead of {e}, off by {error:e}"
        );
    }
}

/// Gradients of a loss that weights every output differently.
pub fn gradients<const D: usize>(y: &Tensor<D>) -> Gradients {
    let weights = random(y.dims(), 99).detach();
    (y.clone() * weights).sum().backward()
}

/// Values and gradients of the inputs, fused against reference.
macro_rules! compare {
    ($what:expr, [$($input:ident),+], $fused:expr, $reference:expr) => {{
        $(let $input = $input.require_grad();)+
        let y = $fused;
        let expected = $reference;
        let (grads, expected_grads) = (gradients(&y), gradients(&expected));
        assert_close(&format!("{} value", $what), y, expected);
        $(assert_close(
            &format!("{} gradient of {}", $what, stringify!($input)),
            $input.grad(&grads).unwrap(),
            $input.grad(&expected_grads).unwrap(),
        );)+
    }};
}

pub fn window(window: usize, sinks: usize) -> AttentionMask {
    AttentionMask::Window { window, sinks }
}

pub(crate) use compare;

/// `x Phi(x)` from the error function. Burn's gradient of its own GELU is that of the approximation by tanh on CubeCL backends.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let below = (x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf();
    x * (below + 1.0) * 0.5
}
