//! Times of the operations of a training step beside the same in plain tensor operations.
//!
//! `KILN_TEST_BACKEND=cuda cargo run --release -p kiln-fused --features cuda --example bench_fused -- bf16 16384x768x32768`
//!
//! `KILN_TEST_BACKEND` is `flex` when unset; any other backend needs the feature of its name. Arguments are element types (`f32`,
//! `bf16`, `f16`; all that are named are run), shapes `ROWSxWIDTHxVOCAB`, and operations by the beginning of their names.
//!
//! Every line is an object of JSON: the operation; its form, `fused` or `reference`; the pass, `forward` or `both` for forward and
//! backward together; seconds, the median over runs of several calls between two synchronisations after as many to warm up; the
//! bytes that must move; and the speed at which they did. Backward, tensors that were inputs or outputs are counted again, but not
//! the ones that the output's gradient is filled with.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints figures"
)]

use std::time::Instant;

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
use burn::tensor::DeviceKind::DefaultDevice;
use burn::{
    optim::{AdamWState, Optimizer},
    tensor::{DType, Device, Distribution, Int, Tensor},
};
use kiln_fused::{self as fused, AdamW, reference};

/// Positions of a sequence, width of a head and taps of a convolution, where an operation has them.
const SEQ: usize = 1024;
const HEAD: usize = 64;
const TAPS: usize = 4;
/// A run is that many calls, fewer if they then take longer than `LONG_RUN` seconds.
const MAX_CALLS: usize = 16;
const LONG_RUN: f64 = 0.1;
const MAX_RUNS: usize = 21;
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

/// What is measured.
struct Bench {
    device: Device,
    dtype: DType,
    shape: [usize; 3],
    filters: Vec<String>,
}

/// An operation on tensors of one shape.
struct Operation<'a> {
    name: &'a str,
    inputs: Vec<Tensor<2>>,
    /// Tensors of the inputs' kind that are read and written, forward and backward.
    moved: [f64; 2],
    fused: &'a dyn Fn(&[Tensor<2>]) -> Tensor<2>,
    reference: &'a dyn Fn(&[Tensor<2>]) -> Tensor<2>,
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| name.starts_with(filter))
    }

    fn random(&self, shape: [usize; 2]) -> Tensor<2> {
        Tensor::random(
            shape,
            Distribution::Uniform(-1.0, 1.0),
            (&self.device, self.dtype),
        )
    }

    fn constant<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let options = (&self.device, DType::F32);
        Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), options)
    }

    /// Seconds a call, the median over runs.
    fn time(&self, mut call: impl FnMut()) -> f64 {
        let mut run = |calls: usize| {
            self.device.sync().unwrap();
            let began = Instant::now();
            (0..calls).for_each(|_| call());
            self.device.sync().unwrap();
            began.elapsed().as_secs_f64() / calls as f64
        };
        // The first compiles, the second is as long as those that count.
        run(1);
        let once = run(2);
        let calls = MAX_CALLS.min((LONG_RUN / once) as usize).max(1);
        run(calls);
        let began = Instant::now();
        let mut runs = Vec::new();
        while runs.len() < MAX_RUNS && (runs.len() < 3 || began.elapsed().as_secs_f64() < PATIENCE)
        {
            runs.push(run(calls));
        }
        runs.sort_by(f64::total_cmp);
        runs[runs.len() / 2]
    }

    fn print(&self, name: &str, form: &str, pass: &str, bytes: f64, seconds: f64) {
        let [rows, width, vocab] = self.shape;
        println!(
            "{{\"operation\":\"{name}\",\"form\":\"{form}\",\"pass\":\"{pass}\",\"dtype\":\"{:?}\",\"shape\":[{rows},{width},{vocab}],\"seconds\":{seconds:.3e},\"bytes\":{bytes:.0},\"gb_per_s\":{:.1}}}",
            self.dtype,
            bytes / seconds / 1e9
        );
    }

    fn operation(&self, operation: &Operation) {
        let Operation { name, inputs, .. } = operation;
        if !self.wants(name) {
            return;
        }
        let bytes = (inputs[0].shape().num_elements() * self.dtype.size()) as f64;
        let [forward, backward] = operation.moved.map(|tensors| tensors * bytes);
        for (form, call) in [
            ("fused", operation.fused),
            ("reference", operation.reference),
        ] {
            let seconds = self.time(|| drop(call(inputs)));
            self.print(name, form, "forward", forward, seconds);
            let seconds = self.time(|| {
                let leaves: Vec<Tensor<2>> = inputs
                    .iter()
                    .map(|x| Tensor::from_inner(x.clone()).require_grad())
                    .collect();
                let y = call(&leaves);
                drop(y.backward());
            });
            self.print(name, form, "both", forward + backward, seconds);
        }
    }

    fn elementwise(&self) {
        let [rows, width, _] = self.shape;
        let wide = [rows, 4 * width];
        self.operation(&Operation {
            name: "gelu",
            inputs: vec![self.random(wide)],
            moved: [2.0, 3.0],
            fused: &|x| fused::gelu(x[0].clone()),
            reference: &|x| reference::gelu(x[0].clone()),
        });
        self.operation(&Operation {
            name: "swiglu",
            inputs: vec![self.random(wide), self.random(wide)],
            moved: [3.0, 5.0],
            fused: &|x| fused::swiglu(x[0].clone(), x[1].clone()),
            reference: &|x| reference::swiglu(x[0].clone(), x[1].clone()),
        });
        self.operation(&Operation {
            name: "soft_bound",
            inputs: vec![self.random([rows, width])],
            moved: [2.0, 3.0],
            fused: &|x| fused::soft_bound(x[0].clone(), 4.0),
            reference: &|x| reference::soft_bound(x[0].clone(), 4.0),
        });
        self.operation(&Operation {
            name: "cayley",
            inputs: vec![self.random([rows, width])],
            moved: [2.0, 3.0],
            fused: &|x| fused::cayley(x[0].clone()),
            reference: &|x| reference::cayley(x[0].clone()),
        });
    }

    fn norms(&self) {
        let [rows, width, _] = self.shape;
        let inputs = || vec![self.random([rows, width]), self.random([1, width])];
        let gamma = |x: &[Tensor<2>]| x[1].clone().reshape([width]);
        self.operation(&Operation {
            name: "rms_norm",
            inputs: inputs(),
            moved: [2.0, 3.0],
            fused: &|x| fused::rms_norm(x[0].clone(), gamma(x), 1e-5),
            reference: &|x| reference::rms_norm(x[0].clone(), gamma(x), 1e-5),
        });
        self.operation(&Operation {
            name: "layer_norm",
            inputs: inputs(),
            moved: [2.0, 3.0],
            fused: &|x| fused::layer_norm(x[0].clone(), gamma(x), None, 1e-5),
            reference: &|x| reference::layer_norm(x[0].clone(), gamma(x), None, 1e-5),
        });
    }

    fn sequences(&self) {
        let [rows, width, _] = self.shape;
        let seq = SEQ.min(rows);
        let batch = rows / seq;
        let packed = [batch, seq, 3 * width];
        let heads = (width / HEAD).max(1);
        let angles = [seq, width / heads / 2];
        let [cos, sin] = [(); 2].map(|()| self.constant(angles));
        let track = |x: &Tensor<2>, constant: &Tensor<2>| match x.device().is_autodiff() {
            true => Tensor::from_inner(constant.clone()),
            false => constant.clone(),
        };
        let narrow = |x: &Tensor<2>| x.clone().cast(self.dtype);
        self.operation(&Operation {
            name: "rotate",
            inputs: vec![self.random([batch * seq, 3 * width])],
            moved: [2.0, 2.0],
            fused: &|x| {
                let angles = [&cos, &sin].map(|angle| track(&x[0], angle));
                let [cos, sin] = angles;
                fused::rotate(x[0].clone().reshape(packed), cos, sin, heads)
                    .reshape([batch * seq, 3 * width])
            },
            reference: &|x| {
                let angles = [&cos, &sin].map(|angle| track(&x[0], &narrow(angle)));
                let [cos, sin] = angles;
                reference::rotate(x[0].clone().reshape(packed), cos, sin, heads)
                    .reshape([batch * seq, 3 * width])
            },
        });
        let lanes = [batch, seq, width];
        self.operation(&Operation {
            name: "causal_conv",
            inputs: vec![
                self.random([batch * seq, width]),
                self.random([width, TAPS]),
            ],
            moved: [2.0, 3.0],
            fused: &|x| {
                fused::causal_conv(x[0].clone().reshape(lanes), x[1].clone(), None, true)
                    .0
                    .reshape([batch * seq, width])
            },
            reference: &|x| {
                reference::causal_conv(x[0].clone().reshape(lanes), x[1].clone(), 0, true)
                    .reshape([batch * seq, width])
            },
        });
    }

    fn loss(&self) {
        let [rows, width, vocab] = self.shape;
        let targets = Tensor::<1, Int>::arange(0..rows as i64, &self.device) % vocab as i32;
        let targets = |x: &Tensor<2>| match x.device().is_autodiff() {
            true => Tensor::from_inner(targets.clone()),
            false => targets.clone(),
        };
        self.operation(&Operation {
            name: "cross_entropy",
            inputs: vec![self.random([rows, vocab])],
            moved: [1.0, 2.0],
            fused: &|x| fused::cross_entropy(x[0].clone(), targets(&x[0])).unsqueeze(),
            reference: &|x| reference::cross_entropy(x[0].clone(), targets(&x[0])).unsqueeze(),
        });
        // With the head. Counted are the scores: written and read, then turned into their gradient and read twice. Beside it are
        // the two operations that it is made of, whose forward pass leaves the gradient to the backward pass.
        let scores = vocab as f64 / width as f64;
        self.operation(&Operation {
            name: "linear_cross_entropy",
            inputs: vec![self.random([rows, width]), self.random([vocab, width])],
            moved: [2.0 * scores, 3.0 * scores],
            fused: &|x| {
                let (rows, weight) = (x[0].clone(), x[1].clone());
                let options = fused::LossOptions::default();
                let found = fused::linear_cross_entropy(rows, weight, targets(&x[0]), options);
                found.minimised.unsqueeze()
            },
            reference: &|x| {
                let scores = fused::linear(x[0].clone(), x[1].clone().transpose(), None);
                let nats = fused::cross_entropy(scores, targets(&x[0]));
                nats.sum().unsqueeze()
            },
        });
    }

    /// An optimizer step and the square sum of a gradient as large as the vocabulary's embedding.
    fn updates(&self) {
        let [_, width, vocab] = self.shape;
        let grad = self.random([vocab, width]);
        let numbers = (vocab * width) as f64;
        let narrow = numbers * self.dtype.size() as f64;
        if self.wants("adamw") {
            let fused = AdamW {
                betas: [0.9, 0.99],
                epsilon: 1e-8,
                weight_decay: 0.1,
            };
            let plain = burn::optim::AdamWConfig::new().build();
            let bytes = 6.0 * 4.0 * numbers + narrow;
            let seconds = self.step(&fused, &grad);
            self.print("adamw", "fused", "forward", bytes, seconds);
            let seconds = self.step(&plain, &grad.clone().cast(DType::F32));
            self.print("adamw", "reference", "forward", bytes, seconds);
        }
        if self.wants("square_sum") {
            let seconds = self.time(|| drop(fused::square_sum(grad.clone())));
            self.print("square_sum", "fused", "forward", narrow, seconds);
            let seconds = self.time(|| drop(reference::square_sum(grad.clone())));
            self.print("square_sum", "reference", "forward", narrow, seconds);
        }
    }

    fn step(&self, optimizer: &impl Optimizer<State<2> = AdamWState<2>>, grad: &Tensor<2>) -> f64 {
        let mut now = Some((self.constant(grad.dims()), None));
        self.time(|| {
            let (x, state) = now.take().unwrap();
            now = Some(optimizer.step(1e-3, x, grad.clone(), state));
        })
    }
}

fn main() {
    let (mut dtypes, mut shapes, mut filters) = (Vec::new(), Vec::new(), Vec::new());
    for argument in std::env::args().skip(1) {
        let numbers: Vec<usize> = argument.split('x').filter_map(|n| n.parse().ok()).collect();
        match (argument.as_str(), numbers.as_slice()) {
            ("f32", _) => dtypes.push(DType::F32),
            ("bf16", _) => dtypes.push(DType::BF16),
            ("f16", _) => dtypes.push(DType::F16),
            (_, &[rows, width, vocab]) => shapes.push([rows, width, vocab]),
            _ => filters.push(argument),
        }
    }
    if dtypes.is_empty() {
        dtypes.push(DType::F32);
    }
    if shapes.is_empty() {
        shapes.push([16_384, 768, 32_768]);
    }
    for &dtype in &dtypes {
        for &shape in &shapes {
            let bench = Bench {
                device: device(),
                dtype,
                shape,
                filters: filters.clone(),
            };
            bench.elementwise();
            bench.norms();
            bench.sequences();
            bench.loss();
            bench.updates();
        }
    }
}
