//! Times of the solve, its causal half and their gradients.
//!
//! `KILN_TEST_BACKEND=cuda cargo run --release -p kiln-bk --features cuda --example bench_solve`
//!
//! `KILN_TEST_BACKEND` is `flex` when unset; any other backend needs the feature of its name. "and backward" is a forward
//! and a backward pass together. Bytes are those that must move, per position, head and column: forward reads 4 and writes 8,
//! backward reads 16 (gradient and solution) and writes 4. Every figure is the median of runs after a first one.
//! The values are checked by the tests of this crate.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints figures"
)]

use std::time::Instant;

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
use burn::tensor::DeviceKind::DefaultDevice;
use burn::tensor::{Device, Distribution, Tensor};
use kiln_bk::{bk_solve, bk_solve_causal};

/// `[batch, seq, heads, columns]`
const SHAPES: [[usize; 4]; 4] = [
    [8, 256, 8, 32],
    [8, 1024, 12, 64],
    [1, 16_384, 8, 64],
    [16, 512, 64, 4],
];
const RUNS: usize = 21;
/// Seconds after which a figure makes do with the runs it has.
const PATIENCE: f64 = 2.0;

fn main() {
    let name = std::env::var("KILN_TEST_BACKEND").unwrap_or_else(|_| "flex".into());
    let device = device(&name);
    println!("{name}: median time of a call, and the speed at which it moves the bytes that must");
    for shape in SHAPES {
        for is_full in [false, true] {
            bench(shape, is_full, &device);
        }
    }
}

fn device(name: &str) -> Device {
    match name {
        #[cfg(feature = "flex")]
        "flex" => Device::flex(),
        #[cfg(feature = "wgpu")]
        "wgpu" => Device::wgpu(DefaultDevice),
        #[cfg(feature = "vulkan")]
        "vulkan" => Device::vulkan(DefaultDevice),
        #[cfg(feature = "metal")]
        "metal" => Device::metal(DefaultDevice),
        #[cfg(feature = "cuda")]
        "cuda" => Device::cuda(0),
        #[cfg(feature = "rocm")]
        "rocm" => Device::rocm(0),
        other => panic!("KILN_TEST_BACKEND={other} was not compiled in"),
    }
}

fn bench(shape: [usize; 4], is_full: bool, device: &Device) {
    let [batch, seq, heads, columns] = shape;
    let elements = shape.iter().product::<usize>() as f64;
    let report = |what: &str, bytes: f64, seconds: f64| {
        let side = if is_full { "full" } else { "causal" };
        let speed = elements * bytes / seconds / 1e9;
        println!(
            "b{batch:<3} n{seq:<6} h{heads:<3} d{columns:<3} {side:<7} {what:<22} {:10.3} ms {speed:8.2} GB/s",
            seconds * 1e3
        );
    };
    let call = problem(shape, is_full, false, device);
    let forward = time(device, &|| drop(call()));
    report("forward", 12.0, forward);
    let call = problem(shape, is_full, true, device);
    let both = time(device, &|| drop(call().sum().backward()));
    report("forward and backward", 32.0, both);
}

/// A solve of a fixed random problem.
fn problem(
    shape: [usize; 4],
    is_full: bool,
    with_gradients: bool,
    device: &Device,
) -> impl Fn() -> Tensor<4> + use<> {
    let [batch, seq, heads, _] = shape;
    device.seed(0);
    let device = &match with_gradients {
        true => device.clone().autodiff(),
        false => device.clone(),
    };
    let uniform = |low, high| Distribution::Uniform(low, high);
    let real = Tensor::<2>::random([1, heads], uniform(-1.0, 1.0), device);
    let imaginary = Tensor::<2>::random([1, heads], uniform(0.1, 1.0), device);
    let energy = Tensor::cat(vec![real, imaginary], 0).set_require_grad(with_gradients);
    let potential = Tensor::<3>::random([batch, seq, heads], uniform(-2.0, 2.0), device);
    let potential = potential.set_require_grad(with_gradients);
    let coupling =
        Tensor::<1>::random([heads], uniform(0.5, 1.2), device).set_require_grad(with_gradients);
    let values =
        Tensor::<4>::random(shape, uniform(-1.0, 1.0), device).set_require_grad(with_gradients);
    move || {
        let (values, potential) = (values.clone(), potential.clone());
        let (upper, lower, energy) = (coupling.clone(), coupling.clone(), energy.clone());
        if is_full {
            bk_solve(values, potential, upper, lower, energy).unwrap()
        } else {
            bk_solve_causal(values, potential, upper, lower, energy, None)
                .unwrap()
                .values
        }
    }
}

/// Seconds a call, the median over runs.
fn time(device: &Device, call: &dyn Fn()) -> f64 {
    let run = || {
        let start = Instant::now();
        call();
        device.sync().unwrap();
        start.elapsed().as_secs_f64()
    };
    run(); // compiles what has not been
    let start = Instant::now();
    let mut times = vec![run()];
    while times.len() < RUNS && start.elapsed().as_secs_f64() < PATIENCE {
        times.push(run());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
