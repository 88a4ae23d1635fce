//! The decoder of an autoencoder: every position is read back out of what the model made of the last one.
//!
//! ```text
//! y_i = gelu(norm(gelu(norm(z + p_i) W_1)) W_2),     z = x_n, the residual stream at the last position
//! p_i = (sin(i w_k), cos(i w_k)),  w_k = 10000^(-k / (d_model / 2 - 1))
//! ```
//! That of the compression task of MAD (Poli et al., arXiv 2403.17844): nothing else passes from the sequence to the answers, so that
//! they tell what a mixer keeps in one vector. It is as wide as the model, and has no residual.
//! Axes: batch, seq, d_model.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use kiln_fused::gelu;

use crate::InitRng;
use crate::layers::{Norm, NormKind};
use crate::linear::{Linear, project};
use crate::weights::{NamedLinears, fields};

/// Reads positions out of the last one's vector.
#[derive(Module, Debug)]
pub(crate) struct Decoder {
    norm_first: Norm,
    first: Linear,
    norm_second: Norm,
    second: Linear,
}

impl Decoder {
    pub fn init(
        kind: NormKind,
        d_model: usize,
        bias: bool,
        rng: &mut InitRng,
        device: &Device,
    ) -> Self {
        // No residual carries the vector past the layers, so they keep its size, as the embedding's standard deviation would not.
        let std = 1.0 / (d_model as f64).sqrt();
        let norm = || Norm::init(kind, d_model, bias, device);
        Self {
            norm_first: norm(),
            first: rng.linear(d_model, d_model, bias, std, device),
            norm_second: norm(),
            second: rng.linear(d_model, d_model, bias, std, device),
        }
    }

    /// # Shapes
    /// - `x`: the residual stream after the last block, `[batch, seq, d_model]`; returns the same
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [_, seq, d_model] = x.dims();
        let last = x.narrow(1, seq - 1, 1); // [batch, 1, d_model]
        let positions = positions(seq, d_model, &last.device()).cast(last.dtype());
        let x = last + positions; // [batch, seq, d_model]
        let x = gelu(project(&self.first, self.norm_first.forward(x)));
        gelu(project(&self.second, self.norm_second.forward(x)))
    }

    /// Its linear layers.
    pub fn linears_mut(&mut self) -> NamedLinears<'_> {
        fields([
            ("first", Some(&mut self.first)),
            ("second", Some(&mut self.second)),
        ])
    }

    pub fn flops_per_token(&self) -> u64 {
        self.first.flops_per_row() + self.second.flops_per_row()
    }
}

/// `[1, seq, d_model]`; the last channel of an odd width is zero.
fn positions(seq: usize, d_model: usize, device: &Device) -> Tensor<3> {
    let half = d_model / 2;
    let steps = half.saturating_sub(1).max(1) as f64;
    let angle = |i: usize, k: usize| i as f64 * 10_000_f64.powf(-(k as f64) / steps);
    let mut values = vec![0.0_f32; seq * d_model];
    for (i, row) in values.chunks_exact_mut(d_model).enumerate() {
        for k in 0..half {
            row[k] = angle(i, k).sin() as f32;
            row[half + k] = angle(i, k).cos() as f32;
        }
    }
    Tensor::from_data(TensorData::new(values, [1, seq, d_model]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    /// Answers depend on the last position alone, and differ between positions.
    #[test]
    fn only_the_last_position_is_read() {
        let device = Device::flex();
        for d_model in [1, 2, 7, 8] {
            let rng = &mut InitRng::new(3);
            let decoder = Decoder::init(NormKind::Layer, d_model, true, rng, &device);
            let random = || Tensor::<3>::random([2, 5, d_model], Distribution::Default, &device);
            let last = random().narrow(1, 0, 1);
            let of = |before: Tensor<3>| {
                let x = Tensor::cat(vec![before.narrow(1, 0, 4), last.clone()], 1);
                let y: Vec<f32> = decoder.forward(x).into_data().iter::<f32>().collect();
                y
            };
            let y = of(random());
            assert_eq!((y.len(), &y), (10 * d_model, &of(random())));
            if d_model > 2 {
                assert_ne!(y[..d_model], y[d_model..2 * d_model]);
            }
        }
    }

    #[test]
    fn positions_are_sines_and_cosines() {
        let table: Vec<f32> = positions(3, 5, &Device::flex())
            .into_data()
            .iter::<f32>()
            .collect();
        let expected = [
            [0.0, 0.0, 1.0, 1.0, 0.0],
            [
                1_f64.sin(),
                1e-4_f64.sin(),
                1_f64.cos(),
                1e-4_f64.cos(),
                0.0,
            ],
            [
                2_f64.sin(),
                2e-4_f64.sin(),
                2_f64.cos(),
                2e-4_f64.cos(),
                0.0,
            ],
        ];
        for (found, expected) in table.iter().zip(expected.as_flattened()) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-7,
                "{found} {expected}"
            );
        }
    }
}
