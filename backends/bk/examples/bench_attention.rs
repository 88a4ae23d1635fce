//! Times of resolvent attention and its gradients against length, after checking a short problem against the recurrence.
//!
//! `KILN_TEST_BACKEND=cuda cargo run --release -p kiln-bk --features cuda --example bench_attention`
//!
//! `KILN_TEST_BACKEND` is `flex` when unset; any other backend needs the feature of its name. Every figure is a median
//! over runs; a run is several calls between two synchronisations. `with gradients` is the operation and the gradients of
//! all its inputs; peak memory is not counted here.
//!
//! Arguments replace the shapes: `8x4096x12x64` is batch, seq, heads and d_key = d_value.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints figures"
)]

use std::time::Instant;

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
use burn::tensor::DeviceKind::DefaultDevice;
use burn::tensor::{DType, Device, Distribution, Tensor};
use kiln_bk::{ResolventForm, resolvent_attention};

/// `[batch, seq, heads, d_key = d_value]`
const SHAPES: [[usize; 4]; 7] = [
    [8, 1024, 12, 64],
    [8, 2048, 12, 64],
    [8, 4096, 12, 64],
    [8, 8192, 12, 64],
    [8, 16_384, 12, 64],
    [8, 32_768, 12, 64],
    [8, 65_536, 12, 64],
];
const ON_FLEX: [[usize; 4]; 2] = [[2, 1024, 4, 32], [2, 4096, 4, 32]];
/// Calls in a run, fewer if they then take longer than this many seconds.
const MAX_CALLS: usize = 16;
const LONG_RUN: f64 = 0.1;
const MAX_RUNS: usize = 31;
/// Seconds after which a figure makes do with the runs it has.
const PATIENCE: f64 = 1.0;

fn device() -> Device {
    match std::env::var("KILN_TEST_BACKEND").as_deref() {
        #[cfg(feature = "flex")]
        Ok("flex") | Err(_) => Device::flex(),
        #[cfg(feature = "vulkan")]
        Ok("vulkan") => Device::vulkan(DefaultDevice),
        #[cfg(feature = "wgpu")]
        Ok("wgpu") => Device::wgpu(DefaultDevice),
        #[cfg(feature = "metal")]
        Ok("metal") => Device::metal(DefaultDevice),
        #[cfg(feature = "cuda")]
        Ok("cuda") => Device::cuda(0),
        #[cfg(feature = "rocm")]
        Ok("rocm") => Device::rocm(0),
        other => panic!("KILN_TEST_BACKEND={other:?} was not compiled in"),
    }
}

struct Inputs {
    /// q, k, v and the weights of the loss, `[batch, seq, heads, width]`.
    operands: [Tensor<4>; 4],
    potential: Tensor<3>,
    hopping: Tensor<1>,
    energy: Tensor<2>,
}

impl Inputs {
    fn random([batch, seq, heads, width]: [usize; 4], operand: DType, device: &Device) -> Self {
        let uniform = |low, high| Distribution::Uniform(low, high);
        let real = Tensor::<2>::random([1, heads], uniform(-1.0, 1.0), device);
        let imaginary = Tensor::<2>::random([1, heads], uniform(0.1, 1.0), device);
        Self {
            operands: [(); 4].map(|()| {
                let shape = [batch, seq, heads, width];
                let x: Tensor<4> = Tensor::random(shape, uniform(-1.0, 1.0), device);
                x.cast(operand)
            }),
            potential: Tensor::random([batch, seq, heads], uniform(-1.0, 1.0), device),
            hopping: Tensor::random([heads], uniform(0.5, 1.5), device),
            energy: Tensor::cat(vec![real, imaginary], 0),
        }
    }

    fn forward(&self) -> Tensor<4> {
        self.clone_with(|x| x).0
    }

    /// The output, with the tensors that it was computed from.
    fn clone_with(&self, track: fn(Tensor<4>) -> Tensor<4>) -> (Tensor<4>, [Tensor<4>; 3]) {
        let [q, k, v, _] = self.operands.clone();
        let operands = [q, k, v].map(track);
        let [q, k, v] = operands.clone();
        let (potential, hopping, energy) = (
            self.potential.clone(),
            self.hopping.clone(),
            self.energy.clone(),
        );
        let form = ResolventForm::Born;
        let mixed = resolvent_attention(q, k, v, potential, hopping, energy, None, form).unwrap();
        (mixed.output, operands)
    }

    /// The gradient of q, which is there once all are.
    fn step(&self) -> Tensor<4> {
        let tracked = Self {
            operands: self.operands.clone(),
            potential: self.potential.clone().detach().require_grad(),
            hopping: self.hopping.clone().detach().require_grad(),
            energy: self.energy.clone().detach().require_grad(),
        };
        let (output, [q, ..]) = tracked.clone_with(|x| x.detach().require_grad());
        let grads = (output * self.operands[3].clone()).sum().backward();
        tracked.potential.grad(&grads).unwrap();
        q.grad(&grads).unwrap()
    }
}

/// Median seconds of a call.
fn time(device: &Device, call: impl Fn()) -> f64 {
    let run = |calls: usize| {
        device.sync().unwrap();
        let start = Instant::now();
        (0..calls).for_each(|_| call());
        device.sync().unwrap();
        start.elapsed().as_secs_f64() / calls as f64
    };
    run(2); // compiles and tunes
    let calls = ((LONG_RUN / run(1)) as usize).clamp(1, MAX_CALLS);
    let start = Instant::now();
    let mut runs = Vec::new();
    while runs.len() < 3 || (runs.len() < MAX_RUNS && start.elapsed().as_secs_f64() < PATIENCE) {
        runs.push(run(calls));
    }
    runs.sort_by(f64::total_cmp);
    runs[runs.len() / 2]
}

/// Rows of the attention sum to one: values of one give an output of one wherever q . k is one.
fn check(device: &Device, operand: DType) {
    let shape = [1, 300, 2, 64];
    let mut inputs = Inputs::random(shape, operand, device);
    let first = Tensor::<4>::ones([1, 300, 2, 1], device);
    let rest = Tensor::<4>::zeros([1, 300, 2, 63], device);
    let unit = Tensor::cat(vec![first, rest], 3).cast(operand);
    inputs.operands[0] = unit.clone();
    inputs.operands[1] = unit;
    inputs.operands[2] = Tensor::<4>::ones(shape, device).cast(operand);
    let off = (inputs.forward().cast(DType::F32) - 1.0).abs().max();
    let off: f32 = off.into_scalar();
    assert!(off < 2e-2, "{operand:?}: rows sum to one but for {off}");
}

fn main() {
    let device = device();
    println!("{device:?}, ms");
    let on_flex = std::env::var("KILN_TEST_BACKEND").map_or(true, |name| name == "flex");
    let parse = |shape: String| -> [usize; 4] {
        let axes: Vec<usize> = shape.split('x').map(|axis| axis.parse().unwrap()).collect();
        axes.try_into().unwrap()
    };
    let mut shapes: Vec<[usize; 4]> = std::env::args().skip(1).map(parse).collect();
    if shapes.is_empty() {
        shapes.extend(if on_flex { &ON_FLEX[..] } else { &SHAPES[..] });
    }
    for operand in [DType::BF16, DType::F32] {
        if operand == DType::BF16 && (on_flex || !device.supports_dtype(operand)) {
            continue; // Flex computes in f32
        }
        check(&device, operand);
        for &shape in &shapes {
            let inputs = Inputs::random(shape, operand, &device);
            let values = time(&device, || drop(inputs.forward()));
            let tracked = Inputs::random(shape, operand, &device.clone().autodiff());
            let both = time(&device, || drop(tracked.step()));
            let positions = (shape[0] * shape[1]) as f64;
            println!(
                "{shape:?} {operand:?} forward {:9.3}   with gradients {:9.3}   {:7.2} ns a token",
                values * 1e3,
                both * 1e3,
                both / positions * 1e9,
            );
        }
    }
}
