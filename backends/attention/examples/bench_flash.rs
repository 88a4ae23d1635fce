//! Times of flash attention, forward and with gradients.
//!
//! `KILN_TEST_BACKEND=cuda cargo run --release -p kiln-attention --features cuda --example bench_flash`
//!
//! Every figure is a median over runs of several calls between two synchronisations, launches and allocation included; causal,
//! `bf16`, without dropout of weights and with. Arguments replace the shapes: `16x1024x12x64` is batch, seq, heads and d_head.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints figures"
)]

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};
use kiln_attention::{WeightDropout, flash_attention, serves};

const SHAPES: [[usize; 4]; 4] = [
    [16, 1_024, 12, 64],
    [8, 4_096, 12, 64],
    [8, 16_384, 12, 64],
    [8, 4_096, 8, 128],
];
const CALLS: usize = 10;
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

fn shapes() -> Vec<[usize; 4]> {
    let asked: Vec<[usize; 4]> = std::env::args()
        .skip(1)
        .map(|text| {
            let sizes: Vec<usize> = text.split('x').map(|n| n.parse().unwrap()).collect();
            sizes.try_into().expect("batch x seq x heads x d_head")
        })
        .collect();
    match asked.is_empty() {
        true => SHAPES.to_vec(),
        false => asked,
    }
}

fn main() {
    for shape in shapes() {
        for probability in [0.0, 0.2] {
            measure(shape, probability);
        }
    }
}

/// One line of figures, with dropout of weights where the probability is not 0.
fn measure([batch, seq, heads, d_head]: [usize; 4], probability: f64) {
    let device = device();
    let tracked = device.clone().autodiff();
    let random = |width: usize| {
        let uniform = Distribution::Uniform(-1.0, 1.0);
        Tensor::<3>::random([batch, seq, width * heads * d_head], uniform, &device)
            .cast(DType::BF16)
    };
    let dropout = |device: &Device| Some(WeightDropout::seeded(probability, [1, 2], device));
    let (packed, grad) = (random(3), random(1));
    if !serves(&packed, heads) {
        println!("not served on {device:?}");
        return;
    }
    let plain = dropout(&device);
    let forward = seconds(&device, || {
        flash_attention(packed.clone(), heads, true, plain.clone());
    });
    let move_to =
        |tensor: Tensor<3>| Tensor::<3>::from_data(tensor.into_data(), (&tracked, DType::BF16));
    let (packed, grad) = (move_to(packed).require_grad(), move_to(grad));
    let dropout = dropout(&tracked);
    let both = seconds(&device, || {
        let output = flash_attention(packed.clone(), heads, true, dropout.clone());
        // One pass over the output, and one number: some bytes more than the peers', who hand the gradient in.
        (output * grad.clone()).sum().backward();
    });
    // Products of the causal half: 2 forward, 7 backward of which 5 are counted, as is the custom.
    let operations = |products: f64| products * (batch * heads * seq * seq * d_head) as f64;
    println!(
        "{{\"shape\":[{batch},{seq},{heads},{d_head}],\"dropout\":{probability},\"forward_ms\":{:.4},\"forward_tflops\":{:.1},\"with_gradients_ms\":{:.4},\"with_gradients_tflops\":{:.1}}}",
        forward * 1e3,
        operations(2.0) / forward / 1e12,
        both * 1e3,
        operations(7.0) / both / 1e12,
    );
}
