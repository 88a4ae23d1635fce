//! Rotary position embedding (arXiv 2104.09864), the half-split layout of GPT-NeoX:
//! pairs (x_i, x_{i + d/2}) turn by position * base^(-2i/d).

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};
use kiln_fused::rotate;

/// Cosines and sines of a stretch of positions, `[seq, d_head / 2]` each.
#[derive(Clone, Debug)]
pub struct Rope {
    cos: Tensor<2>,
    sin: Tensor<2>,
}

/// The tables that were asked for last, of whole sequences: all layers and all steps ask for the same, and a step that a device has
/// recorded finds them where they are.
static KEPT: Mutex<VecDeque<(Key, Device, Rope)>> = Mutex::new(VecDeque::new());
/// Tables that are kept.
const MOST_KEPT: usize = 8;

/// Bits of the base, width of a head, and positions.
type Key = (u64, usize, usize);

impl Rope {
    /// Tables for positions `offset..offset + seq` and even `d_head`, computed in f64 on the host; those from position 0 on are kept for
    /// the next who asks.
    pub fn new(base: f64, d_head: usize, offset: usize, seq: usize, device: &Device) -> Self {
        if offset > 0 {
            return Self::compute(base, d_head, offset, seq, device);
        }
        let key = (base.to_bits(), d_head, seq);
        let inner = device.clone().inner();
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept
            .iter()
            .position(|(of, on, _)| *of == key && *on == inner);
        let tables = match found.and_then(|at| kept.remove(at)) {
            Some((_, _, tables)) => tables,
            None => Self::compute(base, d_head, 0, seq, &inner),
        };
        kept.push_front((key, inner, tables.clone()));
        kept.truncate(MOST_KEPT);
        match device.is_autodiff() {
            true => Self {
                cos: Tensor::from_inner(tables.cos),
                sin: Tensor::from_inner(tables.sin),
            },
            false => tables,
        }
    }

    fn compute(base: f64, d_head: usize, offset: usize, seq: usize, device: &Device) -> Self {
        let half = d_head / 2;
        let rates: Vec<f64> = (0..half)
            .map(|i| base.powf(-2.0 * i as f64 / d_head as f64))
            .collect();
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = (offset..offset + seq)
                .flat_map(|position| {
                    rates
                        .iter()
                        .map(move |rate| f(position as f64 * rate) as f32)
                })
                .collect();
            Tensor::from_data(TensorData::new(values, [seq, half]), device)
        };
        Self {
            cos: table(f64::cos),
            sin: table(f64::sin),
        }
    }

    /// Turns the queries and keys of packed projections `[batch, seq, 3 * heads * d_head]`; values stay.
    pub fn apply(&self, packed: Tensor<3>, heads: usize) -> Tensor<3> {
        rotate(packed, self.cos.clone(), self.sin.clone(), heads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Tolerance;

    /// The inner product of a turned query and key depends on their distance only; values are not turned.
    #[test]
    fn products_depend_on_distance() {
        let device = Device::flex();
        let q = [0.3, -1.2, 0.7, 0.4];
        let k = [1.1, 0.2, -0.5, 0.9];
        let packed =
            Tensor::<1>::from_floats([q, k, k].concat().as_slice(), &device).reshape([1, 1, 12]);
        let turned = |position: usize| {
            let rope = Rope::new(10_000.0, 4, position, 1, &device);
            rope.apply(packed.clone(), 1).split(4, 2)
        };
        let product = |i: usize, j: usize| (turned(i)[0].clone() * turned(j)[1].clone()).sum();
        let same = |a: Tensor<1>, b: Tensor<1>| {
            let close = Tolerance::absolute(1e-6);
            a.into_data().assert_approx_eq::<f32>(&b.into_data(), close);
        };
        same(product(9, 4), product(5, 0));
        same(
            turned(7)[2].clone().flatten(0, 2),
            Tensor::from_floats(k, &device),
        );
        // By hand for one pair at position 1: (cos 1, sin 1).
        let x = Tensor::<3>::from_floats([[[1.0, 0.0, 0.0, 0.0, 0.0, 0.0]]], &device);
        let turned = Rope::new(10_000.0, 2, 1, 1, &device).apply(x, 1);
        same(
            turned.flatten(0, 2),
            Tensor::from_floats([0.540_302_3_f32, 0.841_471, 0.0, 0.0, 0.0, 0.0], &device),
        );
    }
}
