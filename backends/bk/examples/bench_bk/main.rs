//! Times of the operations and their gradients, after checking them against double-precision recurrences.
//!
//! `KILN_TEST_BACKEND=cuda cargo run --release -p kiln-bk --features cuda --example bench_bk`
//!
//! `KILN_TEST_BACKEND` is `flex` when unset; any other backend needs the feature of its name. Bytes are those that must
//! move, per element: forward reads 4 and writes 8; the backward pass reads 16 (left: features and gradient) or 12
//! (diagonal: potential and gradient) and writes 4. Figures are medians, of calls given one by one and, where the device
//! keeps graphs, of calls recorded as one graph, as training runs them. Shares are of what a copy on a GPU moves, read and
//! written bytes both counted: of a large one, and of one that moves as many bytes as the pass and may lie in a cache as
//! the pass does. `with gradients` is `bk_left` under autodiff and the gradients of all its inputs.
//!
//! Arguments are filters: shapes (`b8n4096h64`), operations (`left`, `diagonal`) and strategies (`LookBack`, or `all`).
//! A kind without a filter takes every shape, both operations, and what the operations choose for themselves.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program that prints figures"
)]

mod check;
mod implementations;
#[path = "../timing/mod.rs"]
mod timing;

use std::{cell::RefCell, collections::BTreeMap};

use burn::tensor::{Device, Distribution, Tensor};
use kiln_bk::bk_left;
use kiln_graph::Places;

use self::{
    check::check,
    implementations::{Implementation, Named, implementations},
    timing::{Recorded, backend, on_flex, plain},
};

/// `[batch, seq, heads]`
const SHAPES: [[usize; 3]; 5] = [
    [16, 1024, 768],
    [64, 1024, 32],
    [8, 4096, 64],
    [2, 65_536, 64],
    [1, 1_048_576, 16],
];
const ON_FLEX: [[usize; 3]; 2] = [[16, 1024, 64], [8, 4096, 64]];
/// Elements of the largest problem that the reference is timed on.
const REFERENCE_MOST: usize = 1 << 20;
/// Seconds after which a figure makes do with the runs it has.
const PATIENCE: f64 = 0.15;
/// Bytes that a large copy moves: far more than any cache holds.
const LARGE_COPY: usize = 1 << 31;

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

impl Inputs {
    fn random([batch, seq, heads]: [usize; 3], device: &Device) -> Self {
        device.seed(0);
        let uniform = |low, high| Distribution::Uniform(low, high);
        let real = Tensor::<2>::random([1, heads], uniform(-1.0, 1.0), device);
        let imaginary = Tensor::<2>::random([1, heads], uniform(0.1, 1.0), device);
        Self {
            potential: Tensor::random([batch, seq, heads], uniform(-2.0, 2.0), device),
            hopping: Tensor::random([heads], uniform(0.5, 1.5), device),
            energy: Tensor::cat(vec![real, imaginary], 0),
            state: Tensor::zeros([batch, 2 * heads], device),
            grad: Tensor::random([batch, seq, 2 * heads], uniform(-1.0, 1.0), device),
        }
    }

    /// Where what [`Inputs::halved`] changes lies.
    fn places(&self) -> Places {
        let mut places = Places::default();
        places.add(self.potential.clone());
        places.add(self.grad.clone());
        places
    }

    /// Other numbers in the same places, if nobody else holds them.
    fn halved(self) -> Self {
        Self {
            potential: self.potential.mul_scalar(0.5),
            grad: self.grad.mul_scalar(0.5),
            ..self
        }
    }

    /// `bk_left` and the gradients of all its inputs; returns the potential's.
    fn step(&self) -> Tensor<3> {
        let potential = self.potential.clone().autodiff().require_grad();
        let hopping = self.hopping.clone().autodiff().require_grad();
        let energy = self.energy.clone().autodiff().require_grad();
        let state = self.state.clone().autodiff().require_grad();
        let left = bk_left(potential.clone(), hopping, energy, Some(state)).unwrap();
        let mut grads = left.features.backward();
        potential.grad_remove(&mut grads).unwrap()
    }
}

/// What one figure is of.
struct Figure<'a> {
    what: &'a str,
    /// That must move, an element.
    bytes: usize,
    run: &'a dyn Fn(&Inputs) -> Tensor<3>,
}

/// Bytes a second that copies on a GPU move.
struct Copies {
    device: Device,
    large: f64,
    /// Of other sizes, by the bytes they move.
    others: RefCell<BTreeMap<usize, f64>>,
}

impl Copies {
    fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            large: copy(device, LARGE_COPY),
            others: RefCell::default(),
        }
    }

    /// The shares of a large copy, and of one that moves as many bytes.
    fn shares(&self, bytes: usize, seconds: f64) -> String {
        let mut others = self.others.borrow_mut();
        let alike = *others
            .entry(bytes)
            .or_insert_with(|| copy(&self.device, bytes));
        let of = |rate: f64| 100.0 * bytes as f64 / seconds / rate;
        format!(
            "{:5.1} % of the large copy, {:5.1} % of one as large ({:.2} TB/s)",
            of(self.large),
            of(alike),
            alike / 1e12
        )
    }
}

/// Bytes a second of an elementwise pass that changes nothing, half of the bytes read and half written.
fn copy(device: &Device, bytes: usize) -> f64 {
    let elements = bytes / 8;
    let from = Tensor::<1>::ones([elements], device);
    let call = || from.clone().mul_scalar(1.0);
    let given = plain(device, PATIENCE, || drop(call()));
    let recorded = Recorded::new(device, &Places::default(), call);
    let best = recorded.map_or(given, |graph| graph.time(device, PATIENCE).min(given));
    8.0 * elements as f64 / best
}

fn main() {
    let device = timing::device();
    let name = backend();
    println!("{name}: median time of a call, and the speed at which it moves the bytes that must");
    // Burn's elementwise passes on Flex run on one core, far from what memory moves.
    let copies = (!on_flex()).then(|| Copies::new(&device));
    if let Some(copies) = &copies {
        println!("large copy: {:.2} TB/s", copies.large / 1e12);
    }
    let filters: Vec<String> = std::env::args().skip(1).collect();
    let wanted = Wanted::new(&filters);
    let shapes: &[[usize; 3]] = if on_flex() { &ON_FLEX } else { &SHAPES };
    let mut is_any = false;
    for &shape in shapes {
        let [batch, seq, heads] = shape;
        if !wanted.shape(&format!("b{batch}n{seq}h{heads}")) {
            continue;
        }
        for named in implementations(&name) {
            // Thousands of positions by a dozen tensor operations each are a matter of minutes.
            let slow = named.how == "reference" && batch * seq * heads > REFERENCE_MOST;
            if !slow && wanted.strategy(&named) {
                is_any = true;
                let inputs = Inputs::random(shape, &device);
                check(shape, &inputs, named.implementation.as_ref());
                bench(&device, inputs, &named, &wanted, copies.as_ref());
            }
        }
    }
    assert!(is_any, "{name} has nothing that {filters:?} asks for");
}

/// What the arguments ask for.
struct Wanted<'a> {
    shapes: Vec<&'a str>,
    operations: Vec<&'a str>,
    strategies: Vec<&'a str>,
}

impl<'a> Wanted<'a> {
    fn new(filters: &'a [String]) -> Self {
        let is_shape = |filter: &str| {
            let mut rest = filter.strip_prefix('b').into_iter().flat_map(str::chars);
            rest.next().is_some_and(|first| first.is_ascii_digit())
        };
        let is_operation = |filter: &str| ["left", "diagonal"].contains(&filter);
        let (shapes, rest): (Vec<&str>, Vec<&str>) = filters
            .iter()
            .map(String::as_str)
            .partition(|&filter| is_shape(filter));
        let (operations, strategies) = rest.into_iter().partition(|&filter| is_operation(filter));
        Self {
            shapes,
            operations,
            strategies,
        }
    }

    fn shape(&self, label: &str) -> bool {
        self.shapes.is_empty() || self.shapes.contains(&label)
    }

    fn operation(&self, what: &str) -> bool {
        self.operations.is_empty() || self.operations.iter().any(|name| what.starts_with(name))
    }

    fn strategy(&self, named: &Named) -> bool {
        let asked = |filter: &&str| *filter == "all" || named.how.contains(filter);
        match self.strategies.is_empty() {
            true => named.is_default,
            false => self.strategies.iter().any(asked),
        }
    }
}

fn bench(
    device: &Device,
    inputs: Inputs,
    named: &Named,
    wanted: &Wanted<'_>,
    copies: Option<&Copies>,
) {
    let implementation: &dyn Implementation = named.implementation.as_ref();
    let features = implementation.left(inputs.clone());
    let left = |inputs: &Inputs| implementation.left(inputs.clone());
    let left_adjoint =
        |inputs: &Inputs| implementation.left_adjoint(features.clone(), inputs.clone());
    let diagonal = |inputs: &Inputs| implementation.diagonal(inputs.clone());
    let diagonal_adjoint = |inputs: &Inputs| implementation.diagonal_adjoint(inputs.clone());
    let figure = |what, bytes, run| Figure { what, bytes, run };
    let mut figures = vec![
        figure("left forward", 12, &left as &dyn Fn(&Inputs) -> Tensor<3>),
        figure("left backward", 20, &left_adjoint),
    ];
    if named.is_default {
        figures.push(figure("left with gradients", 32, &Inputs::step));
    }
    figures.push(figure("diagonal forward", 12, &diagonal));
    figures.push(figure("diagonal backward", 16, &diagonal_adjoint));
    let mut inputs = inputs;
    for figure in figures {
        if wanted.operation(figure.what) {
            inputs = measure(device, inputs, &named.how, &figure, copies);
        }
    }
}

/// Prints a figure, and hands the inputs back, smaller if they were changed on the way.
fn measure(
    device: &Device,
    inputs: Inputs,
    how: &str,
    figure: &Figure<'_>,
    copies: Option<&Copies>,
) -> Inputs {
    let Figure { what, bytes, run } = figure;
    let shape @ [batch, seq, heads] = inputs.potential.dims();
    let bytes = shape.iter().product::<usize>() * bytes;
    let print = |how: &str, seconds: f64| {
        let speed = bytes as f64 / seconds / 1e12;
        let shares = copies.map(|copies| copies.shares(bytes, seconds));
        println!(
            "{:<20} {what:<20} {how:<42} {:9.4} ms {speed:6.3} TB/s   {}",
            format!("b{batch} n{seq} h{heads}"),
            seconds * 1e3,
            shares.unwrap_or_default()
        );
    };
    print(how, plain(device, PATIENCE, || drop(run(&inputs))));
    let before = run(&inputs);
    let Some(recorded) = Recorded::new(device, &inputs.places(), || run(&inputs)) else {
        return inputs;
    };
    let how = format!("{how}, as a graph");
    print(&how, recorded.time(device, PATIENCE));
    let inputs = inputs.halved();
    recorded.assert_fresh(&inputs.places(), before, run(&inputs));
    inputs
}
