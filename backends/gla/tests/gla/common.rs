//! Devices, random problems, and comparisons.

use burn::tensor::{Device, Tensor, TensorData};
use kiln_gla::{GatedAttention, Strategy, gated_linear_attention_by};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What gradients are of, in the order in which they are returned.
pub const NAMES: [&str; 5] = ["d q", "d k", "d v", "d log_decay", "d state"];

pub fn backend() -> String {
    std::env::var("KILN_TEST_BACKEND").unwrap_or_else(|_| "flex".into())
}

/// Whether single-precision products run on matrix units that round operands to 11 bits (TF32), as Burn's do on CUDA.
pub fn rounds_operands() -> bool {
    backend() == "cuda"
}

/// Values: sums of products in single precision, relative to the largest; four roundings of an operand in TF32.
pub fn value_tolerance() -> f64 {
    if rounds_operands() { 2e-3 } else { 1e-5 }
}

/// Gradients: products of several such values, summed.
pub fn gradient_tolerance() -> f64 {
    if rounds_operands() { 1e-2 } else { 1e-4 }
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

/// Whether Burn's matrix products are right on this device.
///
/// On SwiftShader, the software Vulkan driver, most of the kernels they choose from return zeros: there the recurrence, which
/// has no products, is what can be tested. Any other device has to multiply.
pub fn multiplies() -> bool {
    static ANSWER: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ANSWER.get_or_init(|| {
        if backend() != "vulkan" {
            return true;
        }
        let device = device();
        let right = [[1, 1, 5, 2], [1, 1, 64, 32]].into_iter().all(|shape| {
            let ones: Tensor<4> = Tensor::ones(shape, &device);
            let product = vector(ones.clone().matmul(ones.swap_dims(2, 3)));
            product.iter().all(|&x| x == shape[3] as f32)
        });
        if !right {
            println!("this device multiplies matrices wrong: only the recurrence is tested");
        }
        right
    })
}

/// What stands for the default on this device, see [`multiplies`].
pub fn auto() -> Strategy {
    if multiplies() {
        Strategy::Auto
    } else {
        Strategy::Recurrent
    }
}

/// All of them, see [`multiplies`].
pub fn strategies() -> Vec<Strategy> {
    let mut all = vec![Strategy::Recurrent];
    if multiplies() {
        all.push(Strategy::Auto);
        all.extend([1, 5, 16, 64].map(|chunk| Strategy::Chunked { chunk }));
    }
    all
}

/// How strong the gates of a problem are.
#[derive(Clone, Copy, Debug)]
pub enum Gates {
    /// Uniform in -2 .. 0.
    Moderate,
    /// Mostly 1e-6 .. 1, evenly in the logarithm: states that live for thousands of positions.
    Weak,
    /// Each 0, -1e-3 or -50.
    Extreme,
}

/// A random problem with the weights of a linear loss. All arrays are laid out as the tensors are.
#[derive(Clone, Debug)]
pub struct Problem {
    pub batch: usize,
    pub seq: usize,
    pub heads: usize,
    pub d_key: usize,
    pub d_value: usize,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub log_decay: Vec<f32>,
    /// Zeros where the operation is called without a state.
    pub state: Vec<f32>,
    pub with_state: bool,
    /// The loss is the sum of the output times these, plus
    pub weights: Vec<f32>,
    /// the final state times these.
    pub state_weights: Vec<f32>,
}

impl Problem {
    /// `[batch, seq, heads, d_key, d_value]`
    pub fn random(dims: [usize; 5], gates: Gates, with_state: bool) -> Self {
        let [batch, seq, heads, d_key, d_value] = dims;
        let seed = dims
            .iter()
            .fold(gates as u64, |seed, &d| seed * 1009 + d as u64);
        let mut rng = ChaCha8Rng::seed_from_u64(2 * seed + u64::from(with_state));
        let log_decay = (0..batch * seq * heads)
            .map(|_| match gates {
                Gates::Moderate => rng.random_range(-2.0..0.0),
                Gates::Weak => -rng.random_range(-6.0_f32..0.0).exp2().powi(3),
                Gates::Extreme => [0.0, -1e-3, -50.0][rng.random_range(0..3)],
            })
            .collect();
        let mut draw =
            |len: usize| -> Vec<f32> { (0..len).map(|_| rng.random_range(-1.0..1.0)).collect() };
        let states = batch * heads * d_key * d_value;
        Self {
            batch,
            seq,
            heads,
            d_key,
            d_value,
            q: draw(batch * seq * heads * d_key),
            k: draw(batch * seq * heads * d_key),
            v: draw(batch * seq * heads * d_value),
            log_decay,
            state: if with_state {
                draw(states)
            } else {
                vec![0.0; states]
            },
            with_state,
            weights: draw(batch * seq * heads * d_value),
            state_weights: draw(states),
        }
    }

    pub fn keys(&self) -> [usize; 4] {
        [self.batch, self.seq, self.heads, self.d_key]
    }

    pub fn values(&self) -> [usize; 4] {
        [self.batch, self.seq, self.heads, self.d_value]
    }

    pub fn states(&self) -> [usize; 4] {
        [self.batch, self.heads, self.d_key, self.d_value]
    }

    pub fn tensors(&self, device: &Device) -> Tensors {
        Tensors {
            q: tensor(&self.q, self.keys(), device),
            k: tensor(&self.k, self.keys(), device),
            v: tensor(&self.v, self.values(), device),
            log_decay: tensor(&self.log_decay, [self.batch, self.seq, self.heads], device),
            state: tensor(&self.state, self.states(), device),
            with_state: self.with_state,
        }
    }

    /// `sum weights y + sum state_weights S_N`
    pub fn loss(&self, out: GatedAttention, device: &Device) -> Tensor<1> {
        let weights = tensor(&self.weights, self.values(), device);
        let state_weights = tensor(&self.state_weights, self.states(), device);
        (out.output * weights).sum() + (out.state * state_weights).sum()
    }
}

/// The arguments of the operation.
#[derive(Clone)]
pub struct Tensors {
    pub q: Tensor<4>,
    pub k: Tensor<4>,
    pub v: Tensor<4>,
    pub log_decay: Tensor<3>,
    pub state: Tensor<4>,
    pub with_state: bool,
}

impl Tensors {
    pub fn require_grad(self) -> Self {
        Self {
            q: self.q.require_grad(),
            k: self.k.require_grad(),
            v: self.v.require_grad(),
            log_decay: self.log_decay.require_grad(),
            state: self.state.require_grad(),
            with_state: self.with_state,
        }
    }

    pub fn run(&self, strategy: Strategy) -> GatedAttention {
        gated_linear_attention_by(
            strategy,
            self.q.clone(),
            self.k.clone(),
            self.v.clone(),
            self.log_decay.clone(),
            self.with_state.then(|| self.state.clone()),
        )
        .unwrap()
    }

    /// Positions `first .. first + len`.
    pub fn piece(&self, first: usize, len: usize) -> Self {
        Self {
            q: self.q.clone().narrow(1, first, len),
            k: self.k.clone().narrow(1, first, len),
            v: self.v.clone().narrow(1, first, len),
            log_decay: self.log_decay.clone().narrow(1, first, len),
            ..self.clone()
        }
    }

    /// Gradients of q, k, v, log_decay and (where `loss` depends on it) state.
    pub fn gradients(&self, loss: Tensor<1>) -> Vec<Vec<f32>> {
        let grads = loss.backward();
        let mut found = vec![
            vector(self.q.grad(&grads).expect("q")),
            vector(self.k.grad(&grads).expect("k")),
            vector(self.v.grad(&grads).expect("v")),
            vector(self.log_decay.grad(&grads).expect("log_decay")),
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
pub fn largest_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "lengths");
    let scale = expected.iter().fold(1e-30_f64, |m, x| m.max(x.abs()));
    found.iter().zip(expected).fold(0.0, |worst, (&f, &e)| {
        let error = (f64::from(f) - e).abs() / scale;
        // A NaN must not get lost in a maximum.
        if error <= worst { worst } else { error }
    })
}

pub fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    let error = largest_error(found, expected);
    assert!(
        error <= tolerance,
        "{what}: error {error:.1e}, not {tolerance:.0e}"
    );
}

pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}
