//! Rates of the products of linear layers, ours beside Burn's own.
//!
//! `KILN_TEST_BACKEND=cuda cargo run --release -p kiln-matmul --features cuda --example bench_matmul`
//!
//! Every figure is a median over runs of several calls between two synchronisations; each call allocates its result and is
//! launched as in training. `bf16` operands; the weight is `bf16` too, so that nothing is cast. Arguments replace the shapes:
//! `16384x768x3072` is rows, d_in and d_out.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints figures"
)]

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};

/// `[rows, d_in, d_out]`: the layers of a model of width 768 with 32,768 tokens on 16 sequences of 1,024, and squares.
const SHAPES: [[usize; 3]; 7] = [
    [16_384, 768, 2_304],
    [16_384, 768, 768],
    [16_384, 768, 3_072],
    [16_384, 3_072, 768],
    [16_384, 768, 32_768],
    [4_096, 4_096, 4_096],
    [8_192, 8_192, 8_192],
];
const CALLS: usize = 20;
const RUNS: usize = 5;

fn device() -> Device {
    match std::env::var("KILN_TEST_BACKEND").as_deref() {
        Ok("flex") | Err(_) => Device::flex(),
        #[cfg(feature = "vulkan")]
        Ok("vulkan") => Device::vulkan(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "cuda")]
        Ok("cuda") => Device::cuda(0),
        other => panic!("KILN_TEST_BACKEND={other:?} was not compiled in"),
    }
}

/// Median seconds of a call.
fn seconds(device: &Device, call: impl Fn()) -> f64 {
    call();
    call();
    device.sync().unwrap();
    let mut runs: Vec<f64> = (0..RUNS)
        .map(|_| {
            let began = Instant::now();
            (0..CALLS).for_each(|_| call());
            device.sync().unwrap();
            began.elapsed().as_secs_f64() / CALLS as f64
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    runs[RUNS / 2]
}

fn shapes() -> Vec<[usize; 3]> {
    let asked: Vec<[usize; 3]> = std::env::args()
        .skip(1)
        .map(|text| {
            let sizes: Vec<usize> = text.split('x').map(|n| n.parse().unwrap()).collect();
            sizes.try_into().expect("rows x d_in x d_out")
        })
        .collect();
    match asked.is_empty() {
        true => SHAPES.to_vec(),
        false => asked,
    }
}

fn main() {
    let device = device();
    if let Some(reason) = kiln_matmul::library_missing(&device) {
        println!("the vendor's library does not multiply here: {reason}");
    }
    let tracked = device.clone().autodiff();
    for [rows, d_in, d_out] in shapes() {
        let random = |shape: [usize; 2]| {
            Tensor::<2>::random(shape, Distribution::Uniform(-1.0, 1.0), &device).cast(DType::BF16)
        };
        let (x, weight) = (random([rows, d_in]), random([d_in, d_out]));
        let rate = |seconds: f64, products: f64| {
            2.0 * products * (rows * d_in * d_out) as f64 / seconds / 1e12
        };
        let ours = seconds(&device, || {
            kiln_matmul::linear(x.clone(), weight.clone());
        });
        let difference =
            kiln_matmul::linear(x.clone(), weight.clone()) - x.clone().matmul(weight.clone());
        let difference = difference.cast(DType::F32).abs().max().into_scalar::<f32>();
        assert!(
            difference < 0.02 * (d_in as f32).sqrt(),
            "{rows}x{d_in}x{d_out}: the products differ by {difference}"
        );
        let burn = seconds(&device, || {
            x.clone().matmul(weight.clone());
        });
        let grad = random([rows, d_out]);
        let [x, weight, grad] = [x, weight, grad]
            .map(|tensor| Tensor::from_data(tensor.into_data(), (&tracked, DType::BF16)));
        let (x, weight) = (x.require_grad(), weight.require_grad());
        let both = seconds(&device, || {
            let y = kiln_matmul::linear(x.clone(), weight.clone());
            (y * grad.clone()).sum().backward();
        });
        println!(
            "{{\"shape\":[{rows},{d_in},{d_out}],\"ms\":{:.4},\"tflops\":{:.1},\"burn_ms\":{:.4},\"burn_tflops\":{:.1},\"with_gradients_ms\":{:.4}}}",
            ours * 1e3,
            rate(ours, 1.0),
            burn * 1e3,
            rate(burn, 1.0),
            both * 1e3,
        );
    }
}
