//! Steps of rounded weights that are learned (LSQ, Esser et al., arXiv 1902.08153).
//!
//! ```text
//! w' = s q,    q = clamp(round(w / s), -N, P),    s = e^t
//! dL/dw = g                 where -N < w/s < P, else 0
//! dL/ds = sum g (q - w/s)   where -N < w/s < P, else sum g q;    divided by sqrt(n P) for the n weights of a group
//! ```
//! with g the gradient at w'. It is t that moves, with dL/dt = s dL/ds: optimizers that make every number move equally far would move
//! steps of small weights by multiples of themselves, and t moves them by a share.

use burn::module::{ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use kiln_quant::PackedFormat;

use crate::quantize::Rounded;

/// Where something is that is learned beside the weights, such as the logarithms of a tensor's steps, `[groups * d_output]`.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its number in [`kiln_backbone::Backbone::learned`].
    pub number: usize,
    /// The parameter there.
    pub id: ParamId,
}

/// The name in a file of what is learned at a place.
pub(crate) fn name(place: usize) -> String {
    format!("learned.{place}")
}

/// Logarithms of the steps that weights are rounded with.
pub(crate) fn start(rounded: &Rounded) -> Tensor<1> {
    let scales = rounded.scales();
    let count = scales.shape().num_elements();
    scales.reshape([count]).log()
}

/// Weights `[d_input, d_output]` rounded with the steps whose logarithms these are.
pub(crate) fn round(weights: Tensor<2>, format: PackedFormat, logs: Tensor<1>) -> Rounded {
    let steps = logs.exp().reshape([format.groups(), 1, format.d_output]);
    Rounded::with_steps(weights, format, steps)
}

/// From the gradient at the rounded weights to those of the weights, `[d_input, d_output]`, and of the logarithms, without autodiff.
pub(crate) fn gradients(
    weights: Tensor<2>,
    format: PackedFormat,
    logs: Tensor<1>,
    grad: Tensor<2>,
) -> (Tensor<2>, Tensor<1>) {
    let PackedFormat {
        d_input,
        d_output,
        group,
        ..
    } = format;
    let groups = [format.groups(), group, d_output];
    let range = format.encoding.levels(false);
    let (least, most) = (f64::from(*range.start()), f64::from(*range.end()));
    let rounded = round(weights.clone(), format, logs.clone());
    let (levels, scales) = (rounded.levels(), rounded.scales());
    let places = weights.reshape(groups) / scales.clone(); // w/s
    let inside = places
        .clone()
        .greater_elem(least)
        .bool_and(places.clone().lower_elem(most));
    let outside = inside.bool_not();
    let grad = grad.reshape(groups);
    let slope = levels.clone() - places.mask_fill(outside.clone(), 0.0);
    let share = 1.0 / (group as f64 * most).sqrt();
    let of_steps = (grad.clone() * slope).sum_dim(1) * scales.mul_scalar(share); // [groups, 1, d_output]
    let of_weights = grad.mask_fill(outside, 0.0);
    (
        of_weights.reshape([d_input, d_output]),
        of_steps.reshape(logs.dims()),
    )
}

/// The matrices and vectors of a model with certain ids, without autodiff.
pub(crate) struct Gathered<'a> {
    wanted: &'a dyn Fn(ParamId) -> bool,
    pub matrices: Vec<(ParamId, Tensor<2>)>,
    pub vectors: Vec<(ParamId, Tensor<1>)>,
}

impl<'a> Gathered<'a> {
    pub fn new(wanted: &'a dyn Fn(ParamId) -> bool) -> Self {
        Self {
            wanted,
            matrices: Vec::new(),
            vectors: Vec::new(),
        }
    }

    pub fn matrix(&self, id: ParamId) -> Option<Tensor<2>> {
        let found = self.matrices.iter().find(|(other, _)| *other == id);
        found.map(|(_, tensor)| tensor.clone())
    }

    pub fn vector(&self, id: ParamId) -> Option<Tensor<1>> {
        let found = self.vectors.iter().find(|(other, _)| *other == id);
        found.map(|(_, tensor)| tensor.clone())
    }
}

impl ModuleVisitor for Gathered<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !(self.wanted)(param.id) {
            return;
        }
        let value = match param.val() {
            value if value.is_autodiff() => value.inner(),
            value => value,
        };
        let dims = value.dims();
        match D {
            1 => self.vectors.push((param.id, value.reshape([dims[0]]))),
            2 => self
                .matrices
                .push((param.id, value.reshape([dims[0], dims[1]]))),
            _ => {}
        }
    }
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use kiln_quant::{Encoding, FloatType};

    use super::*;

    fn format(encoding: Encoding) -> PackedFormat {
        PackedFormat {
            encoding,
            asymmetric: false,
            d_input: 64,
            d_output: 3,
            group: 32,
            scales: FloatType::F16,
        }
    }

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let value = |at: u32| {
            ((at.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 16_777_216.0) - 0.5
        };
        (0..count as u32).map(value).collect()
    }

    /// Two weights inside and one on each side beyond, by hand: s = 0.5 and levels from -2 to 1.
    #[test]
    fn the_gradients_are_those_of_the_paper() {
        let device = Device::flex();
        let format = PackedFormat {
            encoding: Encoding::Int2,
            d_input: 4,
            d_output: 1,
            group: 4,
            ..format(Encoding::Int2)
        };
        let matrix =
            |values: [f32; 4]| Tensor::<2>::from_data([values].map(|v| v), &device).transpose();
        let weights = matrix([0.2, -0.4, 3.0, -2.0]); // w/s: 0.4, -0.8, 6, -4; q: 0, -1, 1, -2
        let grad = matrix([1.0, 10.0, 100.0, 1000.0]);
        let logs = Tensor::<1>::from_data([0.5_f32.ln()], &device);
        let (of_weights, of_logs) = gradients(weights, format, logs, grad);
        let of_weights: Vec<f32> = of_weights.into_data().iter().collect();
        assert_eq!(of_weights, [1.0, 10.0, 0.0, 0.0]);
        let of_steps = 1.0 * (0.0 - 0.4) + 10.0 * (-1.0 + 0.8) + 100.0 * 1.0 + 1000.0 * -2.0;
        let expected = of_steps * 0.5 / 4.0_f32.sqrt();
        let found = of_logs.into_scalar::<f32>();
        assert!((found / expected - 1.0).abs() < 1e-5, "{found} {expected}");
    }

    /// Descending |w - w'|^2 by the gradients of the steps alone ends with less of it than the range's steps have.
    #[test]
    fn learned_steps_fit_better() {
        let device = Device::flex();
        for encoding in [Encoding::Int4, Encoding::Int2, Encoding::Ternary] {
            let format = format(encoding);
            let weights = TensorData::new(numbers(64 * 3, 5), [64, 3]);
            let weights = Tensor::<2>::from_data(weights, &device);
            let first = Rounded::new(weights.clone(), format, false);
            let mut logs = start(&first);
            let gone = |rounded: &Rounded| weights.clone() - rounded.values();
            let error = |rounded: &Rounded| gone(rounded).square().sum().into_scalar::<f32>();
            let before = error(&first);
            // The same numbers, but for the rounding of a logarithm.
            let again = error(&round(weights.clone(), format, logs.clone()));
            assert!(
                (again / before - 1.0).abs() < 1e-2,
                "{encoding:?}: {again} {before}"
            );
            for _ in 0..200 {
                let rounded = round(weights.clone(), format, logs.clone());
                let grad = gone(&rounded).mul_scalar(-2.0);
                let (_, of_logs) = gradients(weights.clone(), format, logs.clone(), grad);
                logs = logs - of_logs.mul_scalar(0.1);
            }
            let after = error(&round(weights.clone(), format, logs));
            assert!(after < before, "{encoding:?}: {after} {before}");
        }
    }
}
