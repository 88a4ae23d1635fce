//! How much of its memory resolvent attention keeps, from the left resolvent: `1 - p_i = x_i / (1 + x_i)` with
//! `x_i = beta Im L_{i-1} / eta`.

use burn::tensor::{DType, Tensor};

/// Keeps `ln(1 - p)` finite where p is one: at the first position, and without hopping. What is then kept of the state,
/// 1e-15 of it, is below single precision, and the gradient of `1 - p` stays exact, which a clamp would cut off.
pub(crate) const LEAST_KEPT: f32 = 1e-15;
/// Where `x^6 / 6` is half a rounding of `x`.
const SERIES_BELOW: f32 = 0.04;

/// What the gates follow from.
#[derive(Clone, Debug)]
pub(crate) struct Resolvent {
    /// `L_i`, `[batch, seq, 2 * heads]`.
    pub features: Tensor<3>,
    /// `L_0`, `[batch, 2 * heads]`.
    pub left: Tensor<2>,
    /// `beta`, `[heads]`.
    pub hopping: Tensor<1>,
    /// `z`, `[2, heads]`.
    pub energy: Tensor<2>,
}

impl Resolvent {
    /// `ln(1 - p_i)` and `p_i`, `[batch, seq, heads]` each, in plain tensor operations.
    pub fn gates(self) -> (Tensor<3>, Tensor<3>) {
        let [heads] = self.hopping.dims();
        let eta = self.energy.narrow(0, 1, 1).reshape([1, 1, heads]);
        let beta = self.hopping.reshape([1, 1, heads]);
        // (1 - p_i) / p_i = beta Im L_{i-1} / eta
        let kept = imaginary_before(self.left, &self.features) * (beta / eta);
        let written = (kept.clone() + 1.0).recip();
        (-log1p((kept + LEAST_KEPT).recip()), written)
    }
}

/// `x [batch, seq, heads, width]` times a factor `[batch, seq, heads]`, in single precision, in the element type of x.
pub(crate) fn scaled(x: Tensor<4>, factor: Tensor<3>) -> Tensor<4> {
    let operand = x.dtype();
    (x.cast(DType::F32) * factor.unsqueeze_dim(3)).cast(operand)
}

/// `ln(1 + x)` for `x >= 0`. CubeCL's own is `ln(1 + x)` to the letter, which loses the digits of a small x: a head that
/// remembers for 1e5 positions would keep and write weights whose sum is not one. Below [`SERIES_BELOW`] five terms of the
/// series are single precision.
fn log1p(x: Tensor<3>) -> Tensor<3> {
    let small = x.clone().clamp_max(SERIES_BELOW); // finite in the branch that is not taken, and so is its gradient
    let mut series = small.clone() * 0.2 - 0.25;
    for term in [1.0 / 3.0, -0.5, 1.0] {
        series = series * small.clone() + term;
    }
    let is_small = x.clone().lower_elem(SERIES_BELOW);
    x.log1p().mask_where(is_small, series * small)
}

/// `Im L_{i-1}` of every position, `[batch, seq, heads]`.
fn imaginary_before(left: Tensor<2>, features: &Tensor<3>) -> Tensor<3> {
    let [_, seq, width] = features.dims();
    let heads = width / 2;
    let entering = left.narrow(1, heads, heads).unsqueeze_dim(1);
    if seq == 1 {
        return entering;
    }
    let features = features.clone().narrow(2, heads, heads);
    Tensor::cat(vec![entering, features.narrow(1, 0, seq - 1)], 1)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    /// Values to a few roundings and the derivative `1 / (1 + x)`, over the whole range, on both sides of the seam.
    #[test]
    fn log1p_keeps_the_digits_of_small_numbers() {
        let mut x: Vec<f32> = (-300..=150).map(|i| 10f32.powf(i as f32 / 10.0)).collect();
        x.extend([0.0, SERIES_BELOW, SERIES_BELOW.next_down()]);
        let count = x.len();
        let device = Device::flex().autodiff();
        let input = Tensor::<3>::from_data(TensorData::new(x.clone(), [1, count, 1]), &device)
            .require_grad();
        let output = log1p(input.clone());
        let found: Vec<f32> = output.clone().into_data().iter::<f32>().collect();
        let gradients = output.sum().backward();
        let slopes = input.grad(&gradients).expect("a gradient").into_data();
        for ((x, found), slope) in x.into_iter().zip(found).zip(slopes.iter::<f32>()) {
            let x = f64::from(x);
            let error = (f64::from(found) - x.ln_1p()).abs();
            assert!(error <= 3e-7 * x.ln_1p(), "ln(1 + {x}) is not {found}");
            let error = (f64::from(slope) * (1.0 + x) - 1.0).abs();
            assert!(error <= 1e-6, "the slope at {x} is not {slope}");
        }
    }
}
