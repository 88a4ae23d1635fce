//! Times of the operations and their gradients, after checking them against double-precision recurrences.
//!
//! `KILN_TEST_BACKEND=cuda cargo run --release -p kiln-bk --features cuda --example bench_bk`
//!
//! `KILN_TEST_BACKEND` is `flex` when unset; any other backend needs the feature of its name. Bytes are those that must
//! move, per element: forward reads 4 and writes 8; the backward pass reads 16 (left: features and gradient) or 12
//! (diagonal: potential and gradient) and writes 4. Every figure is a median over runs; a run is several calls between
//! two synchronisations, which hides their launches where the device is the slower side.
//!
//! Arguments are filters: only shapes (`b8n4096h64`) and strategies whose names contain one of them are run.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints figures"
)]

use std::time::Instant;

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
use burn::tensor::DeviceKind::DefaultDevice;
use burn::tensor::{Device, Distribution, Tensor};
#[cfg(feature = "_cube")]
use kiln_bk::cube::{self, Strategy};
use kiln_bk::{GradRule, adjoint, reference};
use num_complex::Complex64 as C;

/// `[batch, seq, heads]`
const SHAPES: [[usize; 3]; 6] = [
    [16, 1024, 64],
    [16, 1024, 768],
    [64, 1024, 32],
    [8, 4096, 64],
    [2, 65_536, 64],
    [1, 1_048_576, 16],
];
/// Calls in a run, fewer if they then take longer than this many seconds.
const MAX_CALLS: usize = 16;
const LONG_RUN: f64 = 0.1;
const MAX_RUNS: usize = 51;
/// Elements of the largest problem that the reference is timed on.
const REFERENCE_MOST: usize = 1 << 20;
/// Seconds after which a figure makes do with the runs it has.
const PATIENCE: f64 = 0.3;
/// Of the largest value or gradient of a sequence.
const TOLERANCE: f64 = 1e-4;

/// The arguments of one problem.
#[derive(Clone)]
struct Inputs {
    potential: Tensor<3>,
    hopping: Tensor<1>,
    energy: Tensor<2>,
    state: Tensor<2>,
    /// The cotangent of the features.
    grad: Tensor<3>,
}

/// An implementation: values, and gradients of the potential.
trait Implementation {
    fn left(&self, inputs: Inputs) -> Tensor<3>;
    fn left_adjoint(&self, features: Tensor<3>, inputs: Inputs) -> Tensor<3>;
    fn diagonal(&self, inputs: Inputs) -> Tensor<3>;
    fn diagonal_adjoint(&self, inputs: Inputs) -> Tensor<3>;
}

/// The equations in plain tensor operations, position by position: what the kernels are measured against on the CPU.
struct Reference;

impl Implementation for Reference {
    fn left(&self, inputs: Inputs) -> Tensor<3> {
        reference::left(
            inputs.potential,
            inputs.hopping,
            inputs.energy,
            inputs.state,
        )
    }

    fn left_adjoint(&self, features: Tensor<3>, inputs: Inputs) -> Tensor<3> {
        let Inputs {
            hopping,
            state,
            grad,
            ..
        } = inputs;
        adjoint::left(features, hopping, state, grad, GradRule::Exact).0
    }

    fn diagonal(&self, inputs: Inputs) -> Tensor<3> {
        reference::diagonal(inputs.potential, inputs.hopping, inputs.energy)
    }

    fn diagonal_adjoint(&self, inputs: Inputs) -> Tensor<3> {
        let Inputs {
            potential,
            hopping,
            energy,
            grad,
            ..
        } = inputs;
        adjoint::diagonal(potential, hopping, energy, grad, GradRule::Exact).0
    }
}

#[cfg(feature = "flex")]
mod on_flex {
    use super::{GradRule, Implementation, Inputs, Tensor};
    use burn::backend::{Flex, tensor::FloatTensor};
    use kiln_bk::{BkAdjoint, bk_diagonal, bk_left};

    pub struct OnFlex;

    fn lower<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Flex> {
        tensor.try_into_primitive::<Flex>().unwrap()
    }

    impl Implementation for OnFlex {
        fn left(&self, inputs: Inputs) -> Tensor<3> {
            let out = bk_left(inputs.potential, inputs.hopping, inputs.energy, None);
            out.unwrap().features
        }

        fn left_adjoint(&self, features: Tensor<3>, inputs: Inputs) -> Tensor<3> {
            let [potential, ..] = Flex::bk_left_adjoint(
                lower(features),
                lower(inputs.hopping),
                lower(inputs.state),
                lower(inputs.grad),
                GradRule::Exact,
            );
            Tensor::from_primitive::<Flex>(potential)
        }

        fn diagonal(&self, inputs: Inputs) -> Tensor<3> {
            bk_diagonal(inputs.potential, inputs.hopping, inputs.energy).unwrap()
        }

        fn diagonal_adjoint(&self, inputs: Inputs) -> Tensor<3> {
            let [potential, ..] = Flex::bk_diagonal_adjoint(
                lower(inputs.potential),
                lower(inputs.hopping),
                lower(inputs.energy),
                lower(inputs.grad),
                GradRule::Exact,
            );
            Tensor::from_primitive::<Flex>(potential)
        }
    }
}

#[cfg(feature = "_cube")]
impl Implementation for Strategy {
    fn left(&self, inputs: Inputs) -> Tensor<3> {
        let Inputs {
            potential,
            hopping,
            energy,
            state,
            ..
        } = inputs;
        cube::left(*self, potential, hopping, energy, state)
    }

    fn left_adjoint(&self, features: Tensor<3>, inputs: Inputs) -> Tensor<3> {
        let Inputs {
            hopping,
            state,
            grad,
            ..
        } = inputs;
        cube::left_adjoint(*self, features, hopping, state, grad, GradRule::Exact).0
    }

    fn diagonal(&self, inputs: Inputs) -> Tensor<3> {
        cube::diagonal(*self, inputs.potential, inputs.hopping, inputs.energy)
    }

    fn diagonal_adjoint(&self, inputs: Inputs) -> Tensor<3> {
        let Inputs {
            potential,
            hopping,
            energy,
            grad,
            ..
        } = inputs;
        cube::diagonal_adjoint(*self, potential, hopping, energy, grad, GradRule::Exact).0
    }
}

fn main() {
    let name = std::env::var("KILN_TEST_BACKEND").unwrap_or_else(|_| "flex".into());
    let device = device(&name);
    println!("{name}: median time of a call, and the speed at which it moves the bytes that must");
    let filters: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f));
    for shape @ [batch, seq, heads] in SHAPES {
        let label = format!("b{batch}n{seq}h{heads}");
        let all = wanted(&label);
        let inputs = inputs(shape, &device);
        for (how, implementation) in implementations(&name) {
            // Thousands of positions by a dozen tensor operations each are a matter of minutes.
            let slow = how == "reference" && batch * seq * heads > REFERENCE_MOST;
            if slow || !(all || wanted(&how)) {
                continue;
            }
            check(shape, &inputs, implementation.as_ref());
            bench(shape, &inputs, &how, implementation.as_ref(), &device);
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

fn implementations(name: &str) -> Vec<(String, Box<dyn Implementation>)> {
    match name {
        #[cfg(feature = "flex")]
        "flex" => vec![
            (name.to_owned(), Box::new(on_flex::OnFlex)),
            ("reference".to_owned(), Box::new(Reference)),
        ],
        #[cfg(feature = "_cube")]
        _ => {
            let strategies = [
                Strategy::Auto,
                Strategy::Sequential,
                Strategy::Chunked { chunk: 64 },
                Strategy::Chunked { chunk: 256 },
                Strategy::Chunked { chunk: 1024 },
                Strategy::LookBack { subs: 8, count: 8 },
                Strategy::LookBack { subs: 8, count: 16 },
                Strategy::LookBack { subs: 16, count: 8 },
                Strategy::LookBack {
                    subs: 16,
                    count: 16,
                },
                Strategy::LookBack { subs: 32, count: 8 },
                Strategy::LookBack {
                    subs: 32,
                    count: 16,
                },
                Strategy::LookBack {
                    subs: 16,
                    count: 32,
                },
                Strategy::LookBack {
                    subs: 32,
                    count: 32,
                },
            ];
            let boxed = |strategy| Box::new(strategy) as Box<dyn Implementation>;
            strategies.map(|s| (format!("{s:?}"), boxed(s))).into()
        }
        #[cfg(not(feature = "_cube"))]
        _ => vec![],
    }
}

fn inputs([batch, seq, heads]: [usize; 3], device: &Device) -> Inputs {
    device.seed(0);
    let uniform = |low, high| Distribution::Uniform(low, high);
    let real = Tensor::<2>::random([1, heads], uniform(-1.0, 1.0), device);
    let imaginary = Tensor::<2>::random([1, heads], uniform(0.1, 1.0), device);
    Inputs {
        potential: Tensor::random([batch, seq, heads], uniform(-2.0, 2.0), device),
        hopping: Tensor::random([heads], uniform(0.5, 1.5), device),
        energy: Tensor::cat(vec![real, imaginary], 0),
        state: Tensor::zeros([batch, 2 * heads], device),
        grad: Tensor::random([batch, seq, 2 * heads], uniform(-1.0, 1.0), device),
    }
}

fn bench(
    shape: [usize; 3],
    inputs: &Inputs,
    how: &str,
    implementation: &dyn Implementation,
    device: &Device,
) {
    let [batch, seq, heads] = shape;
    let elements = shape.iter().product::<usize>() as f64;
    let report = |what: &str, bytes: f64, run: &dyn Fn() -> Tensor<3>| {
        let seconds = time(device, run);
        let speed = elements * bytes / seconds / 1e12;
        println!(
            "b{batch:<3} n{seq:<8} h{heads:<4} {how:<24} {what:<18} {:10.4} ms {speed:8.4} TB/s",
            seconds * 1e3
        );
    };
    let features = implementation.left(inputs.clone());
    report("left forward", 12.0, &|| {
        implementation.left(inputs.clone())
    });
    report("left backward", 20.0, &|| {
        implementation.left_adjoint(features.clone(), inputs.clone())
    });
    report("diagonal forward", 12.0, &|| {
        implementation.diagonal(inputs.clone())
    });
    report("diagonal backward", 16.0, &|| {
        implementation.diagonal_adjoint(inputs.clone())
    });
}

/// Seconds a call, the median over runs.
fn time(device: &Device, call: &dyn Fn() -> Tensor<3>) -> f64 {
    let run = |calls: usize| {
        let start = Instant::now();
        (0..calls).for_each(|_| drop(call()));
        device.sync().unwrap();
        start.elapsed().as_secs_f64() / calls as f64
    };
    let start = Instant::now();
    run(1); // compiles what has not been
    let calls = ((LONG_RUN / run(1)) as usize).clamp(1, MAX_CALLS);
    let mut times = vec![run(calls)]; // warms up, and counts only if nothing else does
    while times.len() <= MAX_RUNS && start.elapsed().as_secs_f64() < PATIENCE {
        times.push(run(calls));
    }
    let counted = if times.len() > 1 {
        &mut times[1..]
    } else {
        &mut times
    };
    counted.sort_by(f64::total_cmp);
    counted[counted.len() / 2]
}

/// The first and the last sequence against double precision: values, and gradients of the potential.
fn check(shape: [usize; 3], inputs: &Inputs, implementation: &dyn Implementation) {
    let [batch, _, heads] = shape;
    let left = implementation.left(inputs.clone());
    let d_left = implementation.left_adjoint(left.clone(), inputs.clone());
    let diagonal = implementation.diagonal(inputs.clone());
    let d_diagonal = implementation.diagonal_adjoint(inputs.clone());
    for (b, h) in [(0, 0), (batch - 1, heads - 1)] {
        let column = |tensor: &Tensor<3>, column: usize| -> Vec<f64> {
            let lane = tensor.clone().narrow(0, b, 1).narrow(2, column, 1);
            lane.into_data().iter::<f64>().collect()
        };
        let complex = |tensor: &Tensor<3>| -> Vec<C> {
            let (re, im) = (column(tensor, h), column(tensor, heads + h));
            re.into_iter()
                .zip(im)
                .map(|(re, im)| C::new(re, im))
                .collect()
        };
        let energy: Vec<f64> = inputs.energy.to_data().iter::<f64>().collect();
        let hopping: Vec<f64> = inputs.hopping.to_data().iter::<f64>().collect();
        let (z, beta) = (C::new(energy[h], energy[heads + h]), hopping[h]);
        let alpha: Vec<C> = column(&inputs.potential, h).iter().map(|a| a - z).collect();
        let g: Vec<C> = complex(&inputs.grad).iter().map(C::conj).collect();
        let exact = exact(&alpha, beta, &g);
        assert_close("left", &complex(&left), &exact.left);
        assert_close("diagonal", &complex(&diagonal), &exact.diagonal);
        let real = |values: Vec<f64>| values.into_iter().map(C::from).collect::<Vec<_>>();
        assert_close("left gradient", &real(column(&d_left, h)), &exact.d_left);
        assert_close(
            "diagonal gradient",
            &real(column(&d_diagonal, h)),
            &exact.d_diagonal,
        );
    }
}

fn assert_close(what: &str, found: &[C], expected: &[C]) {
    let scale = expected.iter().fold(0.0_f64, |m, x| m.max(x.norm()));
    let differences = found.iter().zip(expected).map(|(x, y)| (x - y).norm());
    let error = differences.fold(0.0, f64::max) / scale;
    assert!(error < TOLERANCE, "{what} differs by {error:.1e}");
}

struct Exact {
    left: Vec<C>,
    diagonal: Vec<C>,
    d_left: Vec<C>,
    d_diagonal: Vec<C>,
}

fn exact(alpha: &[C], beta: f64, g: &[C]) -> Exact {
    let n = alpha.len();
    let next = |x: &mut C, alpha: &C| {
        *x = (alpha - beta * *x).inv();
        Some(*x)
    };
    let left: Vec<C> = alpha.iter().scan(C::ZERO, next).collect();
    let mut right: Vec<C> = alpha.iter().rev().scan(C::ZERO, next).collect();
    right.reverse();
    let or_zero = |x: Option<&C>| x.copied().unwrap_or(C::ZERO);
    let centre = |i: usize| {
        let below = or_zero(i.checked_sub(1).and_then(|i| left.get(i)));
        (alpha[i] - beta * (below + or_zero(right.get(i + 1)))).inv()
    };
    let diagonal: Vec<C> = (0..n).map(centre).collect();

    let mut carry = C::ZERO;
    let mut d_left = vec![C::ZERO; n];
    for i in (0..n).rev() {
        let w = left[i].powi(2) * (g[i] + carry);
        d_left[i] = C::from(-w.re);
        carry = beta * w;
    }
    let m: Vec<C> = g.iter().zip(&diagonal).map(|(g, x)| g * x * x).collect();
    let mut d_diagonal: Vec<C> = m.iter().map(|m| C::from(-m.re)).collect();
    for (side, reverse) in [(&left, true), (&right, false)] {
        let mut carry = C::ZERO;
        for step in 0..n {
            let i = if reverse { n - 1 - step } else { step };
            let passed = side[i].powi(2) * carry;
            d_diagonal[i] -= passed.re;
            carry = beta * (m[i] + passed);
        }
    }
    Exact {
        left,
        diagonal,
        d_left,
        d_diagonal,
    }
}
