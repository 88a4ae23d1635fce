//! The elementwise recurrence: against sums in double precision, finite differences of those, and itself in pieces.

use burn::tensor::{DType, Tensor};
use kiln_gla::linear_recurrence;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::common::{assert_close, device, tensor, vector, widen};

/// A random problem with the weights of a linear loss, all as the tensors are laid out.
#[derive(Clone)]
struct Problem {
    shape: [usize; 3],
    decay: Vec<f32>,
    input: Vec<f32>,
    entering: Vec<f32>,
    weights: Vec<f32>,
}

/// States, and the gradients of decay, input and entering state.
struct Exact {
    states: Vec<f64>,
    gradients: [Vec<f64>; 3],
}

impl Problem {
    fn random(shape: [usize; 3]) -> Self {
        let [batch, seq, channels] = shape;
        let mut rng = ChaCha8Rng::seed_from_u64((seq * 1000 + channels) as u64);
        let mut draw = |len: usize, low: f32, high: f32| -> Vec<f32> {
            (0..len).map(|_| rng.random_range(low..high)).collect()
        };
        let len = batch * seq * channels;
        Self {
            shape,
            decay: draw(len, 0.0, 1.0),
            input: draw(len, -1.0, 1.0),
            entering: draw(batch * channels, -1.0, 1.0),
            weights: draw(len, -1.0, 1.0),
        }
    }

    /// Channel by channel in double precision: `h_t = sum_s x_s prod_{s < r <= t} a_r`, and its derivatives by the chain rule.
    fn exact(&self) -> Exact {
        let [batch, seq, channels] = self.shape;
        let [a, x, h0, w] =
            [&self.decay, &self.input, &self.entering, &self.weights].map(|v| widen(v));
        let mut states = vec![0.0; a.len()];
        let mut gradients = [vec![0.0; a.len()], vec![0.0; a.len()], vec![0.0; h0.len()]];
        for lane in 0..batch * channels {
            let at = |t: usize| (lane / channels * seq + t) * channels + lane % channels;
            let before = |states: &[f64], t: usize| match t {
                0 => h0[lane],
                t => states[at(t - 1)],
            };
            for t in 0..seq {
                states[at(t)] = a[at(t)] * before(&states, t) + x[at(t)];
            }
            // What a unit at s is worth: every later position sees it through the decays between.
            for s in 0..seq {
                let (mut kept, mut worth) = (1.0, 0.0);
                for t in s..seq {
                    kept *= if t == s { 1.0 } else { a[at(t)] };
                    worth += kept * w[at(t)];
                }
                gradients[1][at(s)] = worth;
                gradients[0][at(s)] = worth * before(&states, s);
                if s == 0 {
                    gradients[2][lane] = worth * a[at(0)];
                }
            }
        }
        Exact { states, gradients }
    }
}

fn check(problem: &Problem) {
    let device = device().autodiff();
    let [batch, seq, channels] = problem.shape;
    let exact = problem.exact();
    let of = |what: &str| format!("{what} of {:?}", problem.shape);
    let [decay, input] = [&problem.decay, &problem.input]
        .map(|x| tensor(x, [batch, seq, channels], &device).require_grad());
    let entering = tensor(&problem.entering, [batch, channels], &device).require_grad();
    let states = linear_recurrence(decay.clone(), input.clone(), Some(entering.clone())).unwrap();
    assert_close(&of("states"), &vector(states.clone()), &exact.states, 1e-6);
    let weights: Tensor<3> = tensor(&problem.weights, problem.shape, &device);
    let grads = (states * weights).sum().backward();
    let found = [
        vector(decay.grad(&grads).unwrap()),
        vector(input.grad(&grads).unwrap()),
        vector(entering.grad(&grads).unwrap()),
    ];
    let names = ["d decay", "d input", "d entering"];
    for ((found, expected), name) in found.iter().zip(&exact.gradients).zip(names) {
        assert_close(&of(name), found, expected, 1e-5);
    }
}

#[test]
fn values_and_gradients() {
    for shape in [
        [1, 1, 1],
        [2, 2, 3],
        [3, 7, 5],
        [2, 8, 64],
        [2, 9, 65],
        [1, 100, 130],
        [5, 33, 200],
    ] {
        check(&Problem::random(shape));
    }
}

/// Decays of 0 and 1: a memory that is emptied, and one that adds up.
#[test]
fn decays_at_their_ends() {
    for end in [0.0, 1.0] {
        let mut problem = Problem::random([2, 40, 9]);
        problem.decay.fill(end);
        check(&problem);
    }
}

/// A sequence in two pieces is the whole, and a fresh start is one from zeros.
#[test]
fn pieces() {
    let device = device();
    let shape @ [batch, seq, channels] = [2, 21, 70];
    let problem = Problem::random(shape);
    let [decay, input]: [Tensor<3>; 2] =
        [&problem.decay, &problem.input].map(|x| tensor(x, shape, &device));
    let whole = linear_recurrence(decay.clone(), input.clone(), None).unwrap();
    let zeros = Some(Tensor::zeros([batch, channels], &device));
    let from_zeros = linear_recurrence(decay.clone(), input.clone(), zeros).unwrap();
    assert_eq!(vector(whole.clone()), vector(from_zeros));
    for cut in [1, 8, 20] {
        let part = |x: &Tensor<3>, first: usize, len: usize| x.clone().narrow(1, first, len);
        let first = linear_recurrence(part(&decay, 0, cut), part(&input, 0, cut), None).unwrap();
        let state = part(&first, cut - 1, 1).squeeze_dim(1);
        let rest = seq - cut;
        let second = linear_recurrence(
            part(&decay, cut, rest),
            part(&input, cut, rest),
            Some(state),
        );
        let pieces = Tensor::cat(vec![first, second.unwrap()], 1);
        assert_eq!(vector(pieces), vector(whole.clone()), "cut at {cut}");
    }
}

/// Arguments whose axes were swapped are read by what they mean, not by where they lie.
#[test]
fn strided_arguments() {
    let device = device();
    let problem = Problem::random([3, 12, 10]);
    let exact = problem.exact();
    let turned = |x: &[f32]| {
        let turned: Tensor<3> = tensor(x, problem.shape, &device);
        let stored = turned.swap_dims(1, 2) + 0.0;
        stored.swap_dims(1, 2)
    };
    let entering = Some(tensor(&problem.entering, [3, 10], &device));
    let states =
        linear_recurrence(turned(&problem.decay), turned(&problem.input), entering).unwrap();
    assert_close("states", &vector(states), &exact.states, 1e-6);
}

#[test]
fn the_definition_agrees() {
    let device = device();
    let problem = Problem::random([2, 11, 6]);
    let exact = problem.exact();
    let of = |x: &[f32]| -> Tensor<3> { tensor(x, problem.shape, &device) };
    let entering: Tensor<2> = tensor(&problem.entering, [2, 6], &device);
    let states = kiln_gla::recurrence::reference::forward(
        of(&problem.decay),
        of(&problem.input),
        entering.clone(),
    );
    assert_close("states", &vector(states.clone()), &exact.states, 1e-6);
    let (d_decay, d_input, d_entering) = kiln_gla::recurrence::reference::adjoint(
        of(&problem.decay),
        states,
        entering,
        of(&problem.weights),
    );
    let found = [vector(d_decay), vector(d_input), vector(d_entering)];
    for (found, expected) in found.iter().zip(&exact.gradients) {
        assert_close("gradient", found, expected, 1e-5);
    }
}

#[test]
fn what_is_refused() {
    let device = device();
    let zeros = |shape: [usize; 3]| Tensor::<3>::zeros(shape, &device);
    let message = |decay: Tensor<3>, input: Tensor<3>, entering: Option<Tensor<2>>| {
        let result = linear_recurrence(decay, input, entering);
        result.unwrap_err().to_string()
    };
    assert_eq!(
        message(zeros([2, 3, 4]), zeros([2, 4, 3]), None),
        "linear_recurrence: input must have shape [batch, seq, channels] = [2, 3, 4], not [2, 4, 3]"
    );
    let entering = Some(Tensor::zeros([4, 2], &device));
    assert_eq!(
        message(zeros([2, 3, 4]), zeros([2, 3, 4]), entering),
        "linear_recurrence: entering must have shape [batch, channels] = [2, 4], not [4, 2]"
    );
    assert_eq!(
        message(zeros([2, 0, 4]), zeros([2, 0, 4]), None),
        "linear_recurrence: decay [batch, seq, channels] has an empty axis: [2, 0, 4]"
    );
    if device.supports_dtype(DType::F64) {
        let double = Tensor::<3>::zeros([2, 3, 4], (&device, DType::F64));
        assert_eq!(
            message(zeros([2, 3, 4]), double, None),
            "linear_recurrence: input must be F32, not F64; cast it first"
        );
    }
}
