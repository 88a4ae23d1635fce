//! Milliseconds of a training step on the CPU, by phase: `cargo run --release -p kiln-train --example step_time -- PRESET`
//!
//! The model is the preset with nanoGPT's character vocabulary of 65, the batch 12 sequences of its own length unless
//! given: `step_time PRESET BATCH STEPS`. A step is all of `Learner::update`: loss, gradients, clipping, AdamW.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a command that prints what it measured, and stops at the first surprise"
)]

use std::time::Instant;

use burn::tensor::Device;
use kiln_loader::TokenBatch;
use kiln_train::{DeviceBatch, Learner, Loss, OptimizerConfig};
use kiln_zoo::ModelConfig;

/// The allocator of the `kiln` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VOCAB: usize = 65;
const WARM_UP: usize = 10;

fn main() {
    let mut args = std::env::args().skip(1);
    let preset = args.next().unwrap_or_else(|| "nanogpt-cpu".into());
    let batch = args.next().map_or(12, |n| n.parse().unwrap());
    let steps = args.next().map_or(100, |n| n.parse().unwrap());
    let mut config = ModelConfig::preset(&preset).unwrap();
    config.backbone.vocab_size = VOCAB;
    let device = Device::flex().autodiff();
    let model = config.init(1, &device).unwrap();
    let optimizer = OptimizerConfig::default().init(&model);
    let batches: Vec<_> = (0..WARM_UP + steps)
        .map(|step| tokens(batch, config.backbone.max_seq, step))
        .collect();

    let mut forwards = Vec::new();
    let gradients: Vec<f64> = batches
        .iter()
        .map(|batch| {
            let start = Instant::now();
            let on_device = DeviceBatch::new(batch, &device);
            let nats = on_device.nats(&model).unwrap().mean();
            forwards.push(milliseconds(start));
            std::hint::black_box(nats.backward());
            milliseconds(start)
        })
        .collect();
    let mut learner = Some(Learner {
        model,
        optimizer,
        scale: None,
    });
    let updates: Vec<f64> = batches
        .iter()
        .map(|batch| {
            let start = Instant::now();
            let this = learner.take().unwrap();
            let (next, _) = this
                .update(
                    std::slice::from_ref(batch),
                    &mut Loss::CrossEntropy,
                    1e-3,
                    1.0,
                    &device,
                )
                .unwrap();
            learner = Some(next);
            milliseconds(start)
        })
        .collect();

    println!(
        "{preset}, batch {batch}, seq {}, {} threads, {steps} steps",
        config.backbone.max_seq,
        std::thread::available_parallelism().unwrap(),
    );
    println!("ms           min   median");
    let [forward, gradient, step] = [forwards, gradients, updates].map(least_and_median);
    let row = |name: &str, [min, median]: [f64; 2]| println!("{name:9} {min:6.2}   {median:6.2}");
    let minus = |a: [f64; 2], b: [f64; 2]| [a[0] - b[0], a[1] - b[1]];
    row("forward", forward);
    row("backward", minus(gradient, forward));
    row("update", minus(step, gradient));
    row("step", step);
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn least_and_median(mut times: Vec<f64>) -> [f64; 2] {
    times.drain(..WARM_UP);
    times.sort_by(f64::total_cmp);
    [times[0], times[times.len() / 2]]
}

/// Tokens that differ from step to step.
fn tokens(batch: usize, seq: usize, step: usize) -> TokenBatch {
    let id = |i: usize| ((i * 7 + i * i + step * 13) % VOCAB) as u32;
    TokenBatch {
        batch,
        seq,
        inputs: (0..batch * seq).map(id).collect(),
        targets: (1..=batch * seq).map(id).collect(),
        mask: vec![true; batch * seq],
    }
}
