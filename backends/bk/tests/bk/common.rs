//! Devices, random problems, and comparisons.

use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Values: single precision keeps the ratio form within a few 1e-7 of the exact result; energies of 0.1 amplify it.
pub const VALUE_TOLERANCE: f64 = 1e-5;
/// Gradients: products of several such values, summed.
pub const GRADIENT_TOLERANCE: f64 = 1e-4;
/// The same sum in two compilations of a kernel, which may fuse products and sums differently.
pub const SAME_SUM: f64 = 1e-5;

pub fn backend() -> String {
    std::env::var("KILN_TEST_BACKEND").unwrap_or_else(|_| "flex".into())
}

/// Whether the tests run on Flex, where results are reproducible to the bit and long sequences are quick.
pub fn on_flex() -> bool {
    backend() == "flex"
}

/// The device under test, without autodiff.
pub fn device() -> Device {
    match backend().as_str() {
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
    }
}

/// A random problem with the weights of a linear loss. All arrays are laid out as the tensors are.
#[derive(Clone, Debug)]
pub struct Problem {
    pub batch: usize,
    pub seq: usize,
    pub heads: usize,
    pub potential: Vec<f32>,
    pub hopping: Vec<f32>,
    pub energy: Vec<f32>,
    /// Zeros where the operation is called without a state.
    pub state: Vec<f32>,
    pub with_state: bool,
    /// The loss is the sum of the features times these, plus
    pub weights: Vec<f32>,
    /// the final state times these (left only).
    pub state_weights: Vec<f32>,
}

impl Problem {
    pub fn random(batch: usize, seq: usize, heads: usize, with_state: bool) -> Self {
        let seed = (batch * 1_000_003 + seq * 1009 + heads * 2 + usize::from(with_state)) as u64;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut draw = |len: usize, low: f32, high: f32| -> Vec<f32> {
            (0..len).map(|_| rng.random_range(low..high)).collect()
        };
        let potential = draw(batch * seq * heads, -2.5, 2.5);
        let hopping = draw(heads, 0.2, 1.5);
        let mut energy = draw(heads, -1.0, 1.0);
        energy.extend(draw(heads, 0.1, 1.2));
        let mut state = vec![0.0; 2 * batch * heads];
        if with_state {
            for row in state.chunks_exact_mut(2 * heads) {
                row[..heads].copy_from_slice(&draw(heads, -1.0, 1.0));
                row[heads..].copy_from_slice(&draw(heads, 0.01, 1.0));
            }
        }
        Self {
            batch,
            seq,
            heads,
            potential,
            hopping,
            energy,
            state,
            with_state,
            weights: draw(2 * batch * seq * heads, -1.0, 1.0),
            state_weights: draw(2 * batch * heads, -1.0, 1.0),
        }
    }

    pub fn tensors(&self, device: &Device) -> Inputs {
        let Self {
            batch, seq, heads, ..
        } = *self;
        Inputs {
            potential: tensor(&self.potential, [batch, seq, heads], device),
            hopping: tensor(&self.hopping, [heads], device),
            energy: tensor(&self.energy, [2, heads], device),
            state: tensor(&self.state, [batch, 2 * heads], device),
        }
    }

    pub fn weights(&self, device: &Device) -> Tensor<3> {
        let shape = [self.batch, self.seq, 2 * self.heads];
        tensor(&self.weights, shape, device)
    }

    pub fn state_weights(&self, device: &Device) -> Tensor<2> {
        tensor(&self.state_weights, [self.batch, 2 * self.heads], device)
    }
}

/// The arguments of the operations.
#[derive(Clone)]
pub struct Inputs {
    pub potential: Tensor<3>,
    pub hopping: Tensor<1>,
    pub energy: Tensor<2>,
    pub state: Tensor<2>,
}

impl Inputs {
    pub fn require_grad(self) -> Self {
        Self {
            potential: self.potential.require_grad(),
            hopping: self.hopping.require_grad(),
            energy: self.energy.require_grad(),
            state: self.state.require_grad(),
        }
    }

    /// Gradients of potential, hopping, energy and (where `loss` depends on it) state.
    pub fn gradients(&self, loss: Tensor<1>) -> Vec<Vec<f32>> {
        let grads = loss.backward();
        let mut found = vec![
            vector(self.potential.grad(&grads).expect("potential")),
            vector(self.hopping.grad(&grads).expect("hopping")),
            vector(self.energy.grad(&grads).expect("energy")),
        ];
        found.extend(self.state.grad(&grads).map(vector));
        found
    }
}

pub fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

pub fn vector<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// The largest difference relative to the largest reference value.
pub fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    let scale = expected.iter().fold(1e-30_f64, |m, x| m.max(x.abs()));
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs() / scale;
        assert!(
            error <= tolerance,
            "{what}[{i}]: {found}, not {expected} (error {error:.1e} of {scale:.1e})"
        );
    }
}

/// The largest error of a complex element relative to its own modulus; `width` is `2 * heads`.
pub fn relative_error(found: &[f32], expected: &[f64], width: usize) -> f64 {
    let mut worst = 0.0_f64;
    for (found, expected) in found.chunks_exact(width).zip(expected.chunks_exact(width)) {
        for h in 0..width / 2 {
            let (re, im) = (expected[h], expected[width / 2 + h]);
            let d_re = f64::from(found[h]) - re;
            let d_im = f64::from(found[width / 2 + h]) - im;
            worst = worst.max(d_re.hypot(d_im) / re.hypot(im));
        }
    }
    worst
}

pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}
