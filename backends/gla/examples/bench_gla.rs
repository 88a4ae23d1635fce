//! Times of gated linear attention and its gradient, by strategy, after checking that the strategies agree.
//!
//! `KILN_TEST_BACKEND=cuda cargo run --release -p kiln-gla --features cuda --example bench_gla`
//!
//! `KILN_TEST_BACKEND` is `flex` when unset; any other backend needs the feature of its name. Every figure is a median
//! over runs; a run is several calls between two synchronisations, which hides their launches where the device is the
//! slower side. Operations are those of the crate's table, of the chunks of 64 that are the default.
//!
//! Arguments replace the shapes: `8x4096x12x64x64` is batch, seq, heads, d_key and d_value.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints figures"
)]

use std::time::Instant;

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
use burn::tensor::DeviceKind::DefaultDevice;
use burn::tensor::{DType, Device, Distribution, Tensor};
use kiln_gla::{GatedAttention, Strategy, gated_linear_attention_by};

/// `[batch, seq, heads, d_key, d_value]`
const SHAPES: [[usize; 5]; 4] = [
    [12, 64, 4, 32, 32],
    [16, 1024, 4, 32, 32],
    [64, 256, 6, 64, 64],
    [1, 65_536, 8, 64, 64],
];
const STRATEGIES: [(&str, Strategy); 4] = [
    ("auto", Strategy::Auto),
    ("chunks of 32", Strategy::Chunked { chunk: 32 }),
    ("chunks of 64", Strategy::Chunked { chunk: 64 }),
    ("chunks of 128", Strategy::Chunked { chunk: 128 }),
];
/// Calls in a run, fewer if they then take longer than this many seconds.
const MAX_CALLS: usize = 16;
const LONG_RUN: f64 = 0.1;
const MAX_RUNS: usize = 31;
/// Seconds after which a figure makes do with the runs it has.
const PATIENCE: f64 = 2.0;
/// Between strategies, of the largest value; matrix units may round operands.
const TOLERANCE: f32 = 2e-2;

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

#[derive(Clone)]
struct Inputs {
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    log_decay: Tensor<3>,
    weights: Tensor<4>,
}

impl Inputs {
    fn random([batch, seq, heads, d_key, d_value]: [usize; 5], device: &Device) -> Self {
        let uniform = Distribution::Uniform(-1.0, 1.0);
        let (keys, values) = ([batch, seq, heads, d_key], [batch, seq, heads, d_value]);
        Self {
            q: Tensor::random(keys, uniform, device),
            k: Tensor::random(keys, uniform, device),
            v: Tensor::random(values, uniform, device),
            log_decay: Tensor::random(
                [batch, seq, heads],
                Distribution::Uniform(-0.2, 0.0),
                device,
            ),
            weights: Tensor::random(values, uniform, device),
        }
    }

    fn cast(mut self, operand: DType) -> Self {
        self.q = self.q.cast(operand);
        self.k = self.k.cast(operand);
        self.v = self.v.cast(operand);
        self.weights = self.weights.cast(operand);
        self
    }

    fn forward(&self, strategy: Strategy) -> GatedAttention {
        gated_linear_attention_by(
            strategy,
            self.q.clone(),
            self.k.clone(),
            self.v.clone(),
            self.log_decay.clone(),
            None,
        )
        .unwrap()
    }

    /// Gradients of q, k, v and log_decay.
    fn step(&self, strategy: Strategy) -> (Tensor<4>, Tensor<3>) {
        let q = self.q.clone().detach().require_grad();
        let log_decay = self.log_decay.clone().detach().require_grad();
        let out = gated_linear_attention_by(
            strategy,
            q.clone(),
            self.k.clone().detach().require_grad(),
            self.v.clone().detach().require_grad(),
            log_decay.clone(),
            None,
        );
        let grads = (out.unwrap().output * self.weights.clone())
            .sum()
            .backward();
        (q.grad(&grads).unwrap(), log_decay.grad(&grads).unwrap())
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

fn error<const D: usize>(found: Tensor<D>, expected: Tensor<D>) -> f32 {
    let scale: f32 = expected.clone().abs().max().cast(DType::F32).into_scalar();
    let worst: f32 = (found - expected)
        .abs()
        .max()
        .cast(DType::F32)
        .into_scalar();
    worst / scale
}

fn parse(shape: &str) -> [usize; 5] {
    let axes: Vec<usize> = shape.split('x').map(|axis| axis.parse().unwrap()).collect();
    axes.try_into().unwrap()
}

fn main() {
    let device = device();
    println!("{device:?}, seconds x 1e-3 and 1e9 operations a second");
    let on_flex = std::env::var("KILN_TEST_BACKEND").map_or(true, |name| name == "flex");
    let mut shapes: Vec<[usize; 5]> = std::env::args().skip(1).map(|arg| parse(&arg)).collect();
    if shapes.is_empty() {
        shapes.extend(if on_flex { &SHAPES[..2] } else { &SHAPES[..] });
    }
    for shape in shapes {
        let [batch, seq, heads, d_key, d_value] = shape;
        let positions = (batch * seq * heads) as f64;
        let (sum, state) = ((d_key + d_value) as f64, (d_key * d_value) as f64);
        let forward = positions * (2.0 * 64.0 * sum + 4.0 * state);
        let backward =
            positions * (2.0 * 64.0 * (3.0 * d_key as f64 + 2.0 * d_value as f64) + 10.0 * state);
        for operand in [DType::F32, DType::BF16] {
            if operand == DType::BF16 && (on_flex || !device.supports_dtype(operand)) {
                continue; // Flex computes in f32
            }
            let inputs = Inputs::random(shape, &device).cast(operand);
            let tracked = Inputs::random(shape, &device.clone().autodiff()).cast(operand);
            let expected = inputs.forward(Strategy::Auto).output;
            let (d_q, d_gate) = tracked.step(Strategy::Auto);
            for (name, strategy) in STRATEGIES {
                let worst = error(inputs.forward(strategy).output, expected.clone());
                let (found_q, found_gate) = tracked.step(strategy);
                let worst = worst
                    .max(error(found_q, d_q.clone()))
                    .max(error(found_gate, d_gate.clone()));
                assert!(worst < TOLERANCE, "{name} of {shape:?}: {worst}");
                let values = time(&device, || drop(inputs.forward(strategy)));
                let both = time(&device, || drop(tracked.step(strategy)));
                println!(
                    "{shape:?} {operand:?} {name:14} forward {:8.3} ({:6.1})   with gradients {:8.3} ({:6.1})   apart {worst:.0e}",
                    values * 1e3,
                    forward / values * 1e-9,
                    both * 1e3,
                    (forward + backward) / both * 1e-9,
                );
            }
        }
    }
}
