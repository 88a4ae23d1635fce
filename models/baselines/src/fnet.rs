//! Fourier mixing. y = Re(F_seq x F_d) / sqrt(seq d_model), F the discrete Fourier transform   (FNet, arXiv 2105.03824)
//!
//! Without parameters, and every position reads every other. The transforms are products with the matrices of cosines C and
//! sines S, Re(F_seq x F_d) = C_seq x C_d - S_seq x S_d, because Burn's FFT takes powers of two only and a sequence has any
//! length: 4 d_model + 4 seq operations an entry in place of some log2(seq d_model). The root, which the paper leaves out before
//! its post-norm, keeps a transform from scaling what it mixes by the length. Axes: batch, seq, d_model.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use kiln_backbone::{Mixer, NamedLinears};
use kiln_fused::linear;

/// Fourier mixing.
#[derive(Module, Debug)]
pub struct FnetMixer {
    d_model: usize,
}

impl FnetMixer {
    /// The mixer of blocks of width `d_model`; it has nothing to set.
    pub fn new(d_model: usize) -> Self {
        Self { d_model }
    }
}

/// C and S: cos and sin of 2 pi j k / n over sqrt(n), `[n, n]` each, computed in f64 on the host.
fn transform(n: usize, device: &Device) -> [Tensor<2>; 2] {
    let scale = (n as f64).sqrt().recip();
    [f64::cos, f64::sin].map(|f| {
        let turn = |i: usize| std::f64::consts::TAU * i as f64 / n as f64;
        let circle: Vec<f32> = (0..n).map(|i| (scale * f(turn(i))) as f32).collect();
        let values: Vec<f32> = (0..n * n).map(|i| circle[(i / n) * (i % n) % n]).collect();
        Tensor::from_data(TensorData::new(values, [n, n]), device)
    })
}

impl Mixer for FnetMixer {
    /// Nothing: there is no left-to-right form.
    type State = ();

    fn initial_state(&self, _batch: usize, _device: &Device) {}

    fn forward(&self, x: Tensor<3>, _state: Option<()>) -> (Tensor<3>, Option<()>) {
        let ([_, seq, _], device) = (x.dims(), x.device());
        let [cos, sin] = transform(self.d_model, &device).map(|f| linear(x.clone(), f, None));
        let [cos_seq, sin_seq] =
            transform(seq, &device).map(|f| f.cast(x.dtype()).unsqueeze::<3>()); // [1, seq, seq]
        (cos_seq.matmul(cos) - sin_seq.matmul(sin), None)
    }

    fn step(&self, x: Tensor<2>, _state: ()) -> (Tensor<2>, ()) {
        let (y, _) = self.forward(x.unsqueeze_dim(1), None);
        (y.squeeze_dim(1), ())
    }

    fn linears_mut(&mut self) -> NamedLinears<'_> {
        Vec::new()
    }

    fn is_causal(&self) -> bool {
        false
    }

    /// Two products over d_model and two over the sequence.
    fn flops_per_token(&self, seq: usize) -> u64 {
        (4 * self.d_model * (self.d_model + seq)) as u64
    }

    fn state_bytes(&self, _seq: usize) -> u64 {
        0
    }

    fn counted_state_bytes(&self, (): &()) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(x: Tensor<3>) -> Vec<f32> {
        x.into_data().try_to_vec().unwrap()
    }

    /// Against the definition, a double sum of cosines, at lengths that are no powers of two, and 1.
    #[test]
    fn equals_the_double_sum() {
        let device = Device::flex();
        for [seq, d_model] in [[1, 1], [1, 6], [5, 1], [7, 6], [24, 32]] {
            let x: Vec<f32> = (0..2 * seq * d_model)
                .map(|i| (i as f32 * 0.7).sin())
                .collect();
            let input = TensorData::new(x.clone(), [2, seq, d_model]);
            let mixer = FnetMixer::new(d_model);
            let found = values(mixer.forward(Tensor::from_data(input, &device), None).0);
            for (at, found) in found.iter().enumerate() {
                let (lane, n, k) = (at / (seq * d_model), at / d_model % seq, at % d_model);
                let mut sum = 0.0;
                for (m, l) in (0..seq * d_model).map(|i| (i / d_model, i % d_model)) {
                    let turns = (m * n) as f64 / seq as f64 + (l * k) as f64 / d_model as f64;
                    let value = f64::from(x[(lane * seq + m) * d_model + l]);
                    sum += value * (std::f64::consts::TAU * turns).cos();
                }
                let exact = sum / ((seq * d_model) as f64).sqrt();
                // Sums of at most 24 and 32 products of order one in f32.
                assert!(
                    (f64::from(*found) - exact).abs() < 5e-6,
                    "{at}: {found} {exact}"
                );
            }
        }
    }

    /// (1, 2) and (3, 4): sums and differences of rows and columns, halved.
    #[test]
    fn two_by_two_by_hand() {
        let x = Tensor::<3>::from_floats([[[1.0, 2.0], [3.0, 4.0]]], &Device::flex());
        let y = values(FnetMixer::new(2).forward(x, None).0);
        for (found, exact) in y.iter().zip([5.0, -1.0, -2.0, 0.0]) {
            assert!((found - exact).abs() < 1e-6, "{y:?}");
        }
    }
}
