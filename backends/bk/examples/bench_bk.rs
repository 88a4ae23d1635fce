//! Time of the operations on Flex at batch 8, seq 1024, heads 64, after checking them against the reference.
//!
//! `cargo run --release -p kiln-bk --example bench_bk`
//!
//! Bytes are those that must move: forward reads 4 and writes 8 an element; backward reads 16 (left: features and
//! gradient) or 12 (diagonal: potential and gradient) and writes 4. The gradient of ones that starts the backward pass
//! is made inside the timed region. Medians of 50 runs after 10 to warm up.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints figures"
)]

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use kiln_bk::{bk_diagonal, bk_left, reference};

const SHAPE: [usize; 3] = [8, 1024, 64];
const WARM_UP: usize = 10;
const RUNS: usize = 50;

fn main() {
    let device = Device::flex();
    let heads = SHAPE[2];
    device.seed(0);
    let potential = Tensor::<3>::random(SHAPE, Distribution::Uniform(-2.0, 2.0), &device);
    let hopping = Tensor::<1>::random([heads], Distribution::Uniform(0.5, 1.5), &device);
    let real = Tensor::<2>::random([1, heads], Distribution::Uniform(-1.0, 1.0), &device);
    let imaginary = Tensor::<2>::random([1, heads], Distribution::Uniform(0.1, 1.0), &device);
    let energy = Tensor::cat(vec![real, imaginary], 0);
    let (a, b, z) = (potential, hopping, energy);

    let state = Tensor::zeros([SHAPE[0], 2 * heads], &device);
    let left = |a, b, z| bk_left(a, b, z, None).unwrap().features;
    let diagonal = |a, b, z| bk_diagonal(a, b, z).unwrap();
    check(
        left(a.clone(), b.clone(), z.clone()),
        reference::left(a.clone(), b.clone(), z.clone(), state),
    );
    check(
        diagonal(a.clone(), b.clone(), z.clone()),
        reference::diagonal(a.clone(), b.clone(), z.clone()),
    );

    println!(
        "flex, {} threads, [batch, seq, heads] = {SHAPE:?}",
        rayon::current_num_threads()
    );
    report("left      forward", 12, || {
        left(a.clone(), b.clone(), z.clone());
    });
    report("diagonal  forward", 12, || {
        diagonal(a.clone(), b.clone(), z.clone());
    });
    let tracked = device.autodiff();
    let a = Tensor::<3>::from_data(a.into_data(), &tracked).require_grad();
    let b = Tensor::<1>::from_data(b.into_data(), &tracked).require_grad();
    let z = Tensor::<2>::from_data(z.into_data(), &tracked).require_grad();
    report("left      forward + backward", 12 + 20, || {
        drop(left(a.clone(), b.clone(), z.clone()).backward());
    });
    report("diagonal  forward + backward", 12 + 16, || {
        drop(diagonal(a.clone(), b.clone(), z.clone()).backward());
    });
}

fn check(found: Tensor<3>, expected: Tensor<3>) {
    let error = (found - expected).abs().max().into_scalar::<f32>();
    assert!(error < 1e-5, "differs from the reference by {error}");
}

fn report(name: &str, bytes: usize, mut run: impl FnMut()) {
    (0..WARM_UP).for_each(|_| run());
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_nanos() as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let elements = SHAPE.iter().product::<usize>() as f64;
    let time = times[RUNS / 2] / elements;
    println!(
        "{name:<29} {time:6.2} ns/element {:6.2} GB/s",
        bytes as f64 / time
    );
}
