//! A head's loss and its gradients, summed on the host in double precision.

use burn::tensor::{DType, Gradients, Int, Tensor, TensorData};
use kiln_fused::{LossOptions, LossTerms};

use crate::common::{backend, device, on_flex, random, values};

/// A problem on the host in double precision.
pub struct Problem {
    /// rows, d_model, vocab
    pub sizes: [usize; 3],
    pub rows: Vec<f64>,
    pub weight: Vec<f64>,
    pub targets: Vec<i32>,
    pub terms: LossTerms,
    pub divisor: f64,
}

/// What the operation returns and its gradients.
#[derive(Default)]
pub struct Exact {
    pub minimised: f64,
    pub nats: Vec<f64>,
    pub d_rows: Vec<f64>,
    pub d_weight: Vec<f64>,
}

impl Problem {
    pub fn new(sizes: [usize; 3], targets: Vec<i32>, terms: LossTerms, divisor: f64) -> Self {
        let [count, d_model, vocab] = sizes;
        let wide = |x: Tensor<2>| values(x).into_iter().map(f64::from).collect();
        Self {
            sizes,
            rows: wide(random([count, d_model], 1)),
            weight: wide(random([vocab, d_model], 2)),
            targets,
            terms,
            divisor,
        }
    }

    pub fn exact(&self) -> Exact {
        let [count, d_model, vocab] = self.sizes;
        let LossTerms {
            label_smoothing: s,
            z_loss: z,
        } = self.terms;
        let mut exact = Exact {
            minimised: 0.0,
            nats: vec![0.0; count],
            d_rows: vec![0.0; count * d_model],
            d_weight: vec![0.0; vocab * d_model],
        };
        for i in 0..count {
            let Ok(target) = usize::try_from(self.targets[i]) else {
                continue;
            };
            let row = &self.rows[i * d_model..][..d_model];
            let score = |j: usize| -> f64 {
                let weight = &self.weight[j * d_model..][..d_model];
                row.iter().zip(weight).map(|(x, w)| x * w).sum()
            };
            let scores: Vec<f64> = (0..vocab).map(score).collect();
            let log_sum = scores.iter().map(|l| l.exp()).sum::<f64>().ln();
            let mean = scores.iter().sum::<f64>() / vocab as f64;
            exact.nats[i] = log_sum - scores[target];
            let minimised =
                (1.0 - s) * exact.nats[i] + s * (log_sum - mean) + z * log_sum * log_sum;
            exact.minimised += minimised / self.divisor;
            for (j, l) in scores.iter().enumerate() {
                let hit = f64::from(u8::from(j == target));
                let slope = (l - log_sum).exp() * (1.0 + 2.0 * z * log_sum)
                    - (1.0 - s) * hit
                    - s / vocab as f64;
                for (k, x) in row.iter().enumerate() {
                    exact.d_rows[i * d_model + k] +=
                        slope * self.weight[j * d_model + k] / self.divisor;
                    exact.d_weight[j * d_model + k] += slope * x / self.divisor;
                }
            }
        }
        exact
    }

    fn tensor(entries: &[f64], shape: [usize; 2]) -> Tensor<2> {
        let entries: Vec<f32> = entries.iter().map(|&x| x as f32).collect();
        Tensor::from_data(TensorData::new(entries, shape), &device())
    }

    pub fn rows(&self) -> Tensor<2> {
        let [count, d_model, _] = self.sizes;
        Self::tensor(&self.rows, [count, d_model])
    }

    pub fn weight(&self) -> Tensor<2> {
        let [_, d_model, vocab] = self.sizes;
        Self::tensor(&self.weight, [vocab, d_model])
    }

    pub fn targets(&self) -> Tensor<1, Int> {
        let shape = [self.targets.len()];
        Tensor::from_data(TensorData::new(self.targets.clone(), shape), &device())
    }

    pub fn options(&self, chunk_bytes: usize) -> LossOptions {
        LossOptions {
            terms: self.terms,
            divisor: self.divisor,
            chunk_bytes,
        }
    }

    /// Whether the device's own product is right for these sizes: software Vulkan gets some of the smallest wrong.
    pub fn device_multiplies(&self) -> bool {
        if on_flex() || backend() == "cuda" {
            return true;
        }
        let [count, d_model, vocab] = self.sizes;
        let (x, w) = (self.rows().inner(), self.weight().inner());
        let slopes = random([count, vocab], 3).inner();
        let right = |a: Tensor<2>, b: Tensor<2>| {
            let ([m, k], [_, n]) = (a.dims(), b.dims());
            let by_sums = (a.clone().reshape([m, k, 1]) * b.clone().reshape([1, k, n])).sum_dim(1);
            let found = a.matmul(b);
            distance(&values(found), &values(by_sums.reshape([m, n])).map_f64()) < 1e-4
        };
        let all = d_model * count * vocab == 0
            || right(x.clone(), w.clone().transpose())
                && right(slopes.clone(), w)
                && right(slopes.clone().transpose(), x.clone())
                && right(x.transpose(), slopes);
        if !all {
            eprintln!("skipped: the device itself multiplies wrongly");
        }
        all
    }
}

pub trait ToDouble {
    fn map_f64(&self) -> Vec<f64>;
}

impl ToDouble for Vec<f32> {
    fn map_f64(&self) -> Vec<f64> {
        self.iter().map(|&x| x.into()).collect()
    }
}

pub fn distance(found: &[f32], exact: &[f64]) -> f64 {
    assert_eq!(found.len(), exact.len());
    let largest = exact.iter().fold(1e-3_f64, |most, x| most.max(x.abs()));
    let pairs = found.iter().zip(exact);
    // The other way round, a NaN would pass.
    pairs.fold(0.0_f64, |most, (&f, e)| {
        match (f64::from(f) - e).abs() / largest {
            off if off.is_finite() => most.max(off),
            _ => f64::INFINITY,
        }
    })
}

#[track_caller]
pub fn assert_exact(what: &str, found: Vec<f32>, exact: &[f64], tolerance: f64) {
    let off = distance(&found, exact);
    assert!(off < tolerance, "{what}: off by {off:e}");
}

/// A gradient; autodiff keeps none of what nothing depends on.
pub fn gradient(leaf: &Tensor<2>, grads: &Gradients) -> Vec<f32> {
    values(leaf.grad(grads).unwrap().cast(DType::F32))
}
