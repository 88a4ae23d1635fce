//! GELU, SwiGLU and the soft bound.

use std::mem::MaybeUninit;

use super::math::{normal, sigmoid, tanh};
use super::parallel::{Output, for_each_piece};
use super::simd::{self, Kernel};

type Part<'a> = &'a mut [MaybeUninit<f32>];

struct Map<'a, const I: usize, const O: usize, F> {
    inputs: [&'a [f32]; I],
    outputs: [Part<'a>; O],
    of: F,
}

impl<const I: usize, const O: usize, F: Fn([f32; I]) -> [f32; O]> Kernel for Map<'_, I, O, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self {
            inputs,
            mut outputs,
            of,
        } = self;
        let len = outputs[0].len();
        // Equal lengths, known to the compiler, keep bounds checks out of the loop.
        let inputs = inputs.map(|input| &input[..len]);
        for output in &mut outputs {
            *output = &mut std::mem::take(output)[..len];
        }
        for i in 0..len {
            let values = of(inputs.map(|input| input[i]));
            for (output, value) in outputs.iter_mut().zip(values) {
                output[i].write(value);
            }
        }
    }
}

/// `O` new buffers, each element a function of the same element of the `I` inputs.
fn map<const I: usize, const O: usize>(
    inputs: [&[f32]; I],
    of: impl Fn([f32; I]) -> [f32; O] + Copy + Sync + Send,
) -> [Vec<f32>; O] {
    let len = inputs[0].len();
    assert!(inputs.iter().all(|input| input.len() == len));
    let outputs = [(); O].map(|()| Output::new(len));
    for_each_piece(len, 1, |_, range| {
        simd::run(Map {
            inputs: inputs.map(|input| &input[range.clone()]),
            // SAFETY: pieces do not overlap.
            outputs: std::array::from_fn(|o| unsafe { outputs[o].part(range.clone()) }),
            of,
        });
    });
    // SAFETY: the pieces cover the buffers, and the kernel writes all of its part.
    outputs.map(|output| unsafe { output.finish() })
}

pub(super) fn gelu(x: &[f32]) -> Vec<f32> {
    #[inline(always)]
    fn of([x]: [f32; 1]) -> [f32; 1] {
        [x * normal(x).0]
    }
    let [y] = map([x], of);
    y
}

/// `g (Phi + x phi)`
pub(super) fn gelu_adjoint(x: &[f32], grad: &[f32]) -> Vec<f32> {
    #[inline(always)]
    fn of([x, g]: [f32; 2]) -> [f32; 1] {
        let (below, density) = normal(x);
        [g * (below + x * density)]
    }
    let [d_x] = map([x, grad], of);
    d_x
}

pub(super) fn swiglu(gate: &[f32], up: &[f32]) -> Vec<f32> {
    #[inline(always)]
    fn of([gate, up]: [f32; 2]) -> [f32; 1] {
        [gate * sigmoid(gate) * up]
    }
    let [y] = map([gate, up], of);
    y
}

/// `g up s (1 + gate (1 - s))` and `g gate s`, with `s` the sigmoid of the gate
pub(super) fn swiglu_adjoint(gate: &[f32], up: &[f32], grad: &[f32]) -> [Vec<f32>; 2] {
    #[inline(always)]
    fn of([gate, up, g]: [f32; 3]) -> [f32; 2] {
        let s = sigmoid(gate);
        [g * up * s * (1.0 + gate * (1.0 - s)), g * gate * s]
    }
    map([gate, up, grad], of)
}

pub(super) fn soft_bound(x: &[f32], bound: f32) -> Vec<f32> {
    let inverse = 1.0 / bound;
    let [y] = map([x], move |[x]| [bound * tanh(x * inverse)]);
    y
}

/// `g (1 - tanh^2)`
pub(super) fn soft_bound_adjoint(x: &[f32], bound: f32, grad: &[f32]) -> Vec<f32> {
    let inverse = 1.0 / bound;
    let [d_x] = map([x, grad], move |[x, g]| {
        let t = tanh(x * inverse);
        [g * ((1.0 - t) * (1.0 + t))]
    });
    d_x
}
