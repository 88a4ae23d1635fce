//! Times of resolvent attention and its gradients against length, after checking a short problem against the recurrence.
//!
//! `KILN_TEST_BACKEND=cuda cargo run --release -p kiln-bk --features cuda --example bench_attention`
//!
//! `KILN_TEST_BACKEND` is `flex` when unset; any other backend needs the feature of its name. Every figure is a median
//! over runs; a run is several calls between two synchronisations. `with gradients` is the operation and the gradients of
//! all its inputs, by calls given one by one and, where the device keeps graphs, recorded as a graph, as training runs
//! them; the cotangent is ones, written anew in each call. `to linear` is the time a token over that at the longest length
//! of the same type: one everywhere if time is proportional to length. Peak memory is not counted here.
//!
//! Arguments replace the shapes, `8x4096x12x64` being batch, seq, heads and d_key = d_value, and the types, `bf16` or `f32`.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints figures"
)]

mod timing;

use burn::tensor::{DType, Device, Distribution, Tensor};
use kiln_bk::{ResolventForm, ResolventInputs, resolvent_attention};
use kiln_graph::Places;

use self::timing::{Recorded, on_flex, plain};

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
/// Seconds after which a figure makes do with the runs it has.
const PATIENCE: f64 = 0.4;

struct Inputs {
    /// q, k and v, `[batch, seq, heads, width]`.
    operands: [Tensor<4>; 3],
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
            operands: [(); 3].map(|()| {
                let shape = [batch, seq, heads, width];
                let x: Tensor<4> = Tensor::random(shape, uniform(-1.0, 1.0), device);
                x.cast(operand)
            }),
            potential: Tensor::random([batch, seq, heads], uniform(-1.0, 1.0), device),
            hopping: Tensor::random([heads], uniform(0.5, 1.5), device),
            energy: Tensor::cat(vec![real, imaginary], 0),
        }
    }

    /// Where what [`Inputs::halved`] changes lies.
    fn places(&self) -> Places {
        let mut places = Places::default();
        places.add(self.operands[2].clone());
        places.add(self.potential.clone());
        places
    }

    /// Other numbers in the same places, if nobody else holds them.
    fn halved(self) -> Self {
        let [q, k, v] = self.operands;
        Self {
            operands: [q, k, v.mul_scalar(0.5)],
            potential: self.potential.mul_scalar(0.5),
            ..self
        }
    }

    fn forward(&self) -> Tensor<4> {
        let [q, k, v] = self.operands.clone();
        let inputs = ResolventInputs {
            q,
            k,
            v,
            potential: self.potential.clone(),
            bound: None,
            hopping: self.hopping.clone(),
            energy: self.energy.clone(),
            state: None,
        };
        let mixed = resolvent_attention(inputs, ResolventForm::Born);
        mixed.unwrap().output
    }

    /// The gradient of q, which is there once all are.
    fn step(&self) -> Tensor<4> {
        let tracked = Self {
            operands: self.operands.clone().map(|x| x.autodiff().require_grad()),
            potential: self.potential.clone().autodiff().require_grad(),
            hopping: self.hopping.clone().autodiff().require_grad(),
            energy: self.energy.clone().autodiff().require_grad(),
        };
        let mut grads = tracked.forward().backward();
        tracked.energy.grad_remove(&mut grads).unwrap();
        tracked.operands[0].grad_remove(&mut grads).unwrap()
    }
}

/// Seconds of one shape.
struct Found {
    shape: [usize; 4],
    forward: f64,
    with_gradients: f64,
    /// The same as a graph, where the device keeps graphs.
    recorded: Option<f64>,
}

impl Found {
    fn new(device: &Device, shape: [usize; 4], operand: DType) -> Self {
        let inputs = Inputs::random(shape, operand, device);
        let forward = plain(device, PATIENCE, || drop(inputs.forward()));
        let with_gradients = plain(device, PATIENCE, || drop(inputs.step()));
        let before = inputs.step();
        let graph = Recorded::new(device, &inputs.places(), || inputs.step());
        let recorded = graph.map(|graph| {
            let seconds = graph.time(device, PATIENCE);
            let inputs = inputs.halved();
            graph.assert_fresh(&inputs.places(), before, inputs.step());
            seconds
        });
        Self {
            shape,
            forward,
            with_gradients,
            recorded,
        }
    }

    /// Nanoseconds a token of `with gradients`, recorded where it could be.
    fn a_token(&self) -> f64 {
        let seconds = self.recorded.unwrap_or(self.with_gradients);
        seconds / (self.shape[0] * self.shape[1]) as f64 * 1e9
    }

    fn print(&self, operand: DType) {
        let ms = |seconds: f64| format!("{:9.3}", seconds * 1e3);
        println!(
            "{:?} {operand:?} forward {}   with gradients {}   as a graph {}   {:7.2} ns a token",
            self.shape,
            ms(self.forward),
            ms(self.with_gradients),
            self.recorded.map_or("-".into(), ms),
            self.a_token(),
        );
    }
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
    let device = timing::device();
    println!("{device:?}, ms");
    let shape = |text: &String| -> Option<[usize; 4]> {
        let axes: Option<Vec<usize>> = text.split('x').map(|axis| axis.parse().ok()).collect();
        axes?.try_into().ok()
    };
    let (shapes, types): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .partition(|text| shape(text).is_some());
    let mut shapes: Vec<[usize; 4]> = shapes.iter().filter_map(shape).collect();
    if shapes.is_empty() {
        shapes.extend(if on_flex() { &ON_FLEX[..] } else { &SHAPES[..] });
    }
    const TYPES: [(&str, DType); 2] = [("bf16", DType::BF16), ("f32", DType::F32)];
    for asked in &types {
        let known = TYPES.iter().any(|(name, _)| name == asked);
        assert!(
            known,
            "`{asked}` is neither a shape like 8x4096x12x64 nor one of bf16 and f32"
        );
    }
    for (name, operand) in TYPES {
        let wanted = types.is_empty() || types.iter().any(|asked| asked == name);
        // Flex computes in f32.
        let runs = operand == DType::F32 || (!on_flex() && device.supports_dtype(operand));
        if !(wanted && runs) {
            continue;
        }
        check(&device, operand);
        let mut all = Vec::new();
        for &shape in &shapes {
            let found = Found::new(&device, shape, operand);
            found.print(operand);
            all.push(found);
        }
        let longest = all.iter().max_by_key(|found| found.shape[1]).unwrap();
        let ratios = all.iter().map(|found| {
            let ratio = found.a_token() / longest.a_token();
            format!("{} {ratio:.3}", found.shape[1])
        });
        let ratios: Vec<String> = ratios.collect();
        println!("{operand:?} to linear: {}", ratios.join("   "));
    }
}
