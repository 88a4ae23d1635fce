//! Rotary position embedding (arXiv 2104.09864), the half-split layout of GPT-NeoX:
//! pairs (x_i, x_{i + d/2}) turn by position * base^(-2i/d).

use burn::tensor::{Device, Tensor, TensorData};

/// Cosines and sines of a stretch of positions.
#[derive(Clone, Debug)]
pub struct Rope {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rope {
    /// Tables for positions `offset..offset + seq` and even `d_head`, computed in f64 on the host.
    pub fn new(base: f64, d_head: usize, offset: usize, seq: usize, device: &Device) -> Self {
        let half = d_head / 2;
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = (offset..offset + seq)
                .flat_map(|position| {
                    (0..half).map(move |i| {
                        f(position as f64 * base.powf(-2.0 * i as f64 / d_head as f64)) as f32
                    })
                })
                .collect();
            Tensor::from_data(TensorData::new(values, [1, 1, seq, half]), device)
        };
        Self {
            cos: table(f64::cos),
            sin: table(f64::sin),
        }
    }

    /// Turns queries or keys: `[batch, heads, seq, d_head]` to the same shape.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, _, d_head] = x.dims();
        let half = d_head / 2;
        let first = x.clone().narrow(3, 0, half); // [batch, heads, seq, d_head / 2]
        let second = x.narrow(3, half, half);
        let turned_first = first.clone() * self.cos.clone() - second.clone() * self.sin.clone();
        let turned_second = second * self.cos.clone() + first * self.sin.clone();
        Tensor::cat(vec![turned_first, turned_second], 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Tolerance;

    /// The inner product of a turned query and key depends on their distance only.
    #[test]
    fn products_depend_on_distance() {
        let device = Device::flex();
        let q = Tensor::<4>::from_floats([[[[0.3, -1.2, 0.7, 0.4]]]], &device);
        let k = Tensor::<4>::from_floats([[[[1.1, 0.2, -0.5, 0.9]]]], &device);
        let product = |i: usize, j: usize| {
            let q = Rope::new(10_000.0, 4, i, 1, &device).apply(q.clone());
            let k = Rope::new(10_000.0, 4, j, 1, &device).apply(k.clone());
            (q * k).sum().into_data()
        };
        product(9, 4).assert_approx_eq::<f32>(&product(5, 0), Tolerance::absolute(1e-6));
        // By hand for one pair at position 1: (cos 1, sin 1).
        let x = Tensor::<4>::from_floats([[[[1.0, 0.0]]]], &device);
        Rope::new(10_000.0, 2, 1, 1, &device)
            .apply(x)
            .into_data()
            .assert_approx_eq::<f32>(
                &TensorData::from([[[[0.540_302_3_f32, 0.841_471]]]]),
                Tolerance::absolute(1e-6),
            );
    }
}
