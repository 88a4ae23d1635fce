//! Values and gradients against sums in double precision, on the backend of `KILN_TEST_BACKEND`.

#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use burn::tensor::{DType, Device, Distribution, Tensor};
use kiln_attention::{WeightDropout, flash_attention, serves};

fn device() -> Device {
    match std::env::var("KILN_TEST_BACKEND").as_deref() {
        Ok("flex") | Err(_) => Device::flex(),
        #[cfg(feature = "vulkan")]
        Ok("vulkan") => Device::vulkan(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "wgpu")]
        Ok("wgpu") => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "metal")]
        Ok("metal") => Device::metal(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "cuda")]
        Ok("cuda") => Device::cuda(0),
        #[cfg(feature = "rocm")]
        Ok("rocm") => Device::rocm(0),
        other => panic!("KILN_TEST_BACKEND={other:?} was not compiled in"),
    }
}

fn on_cuda() -> bool {
    std::env::var("KILN_TEST_BACKEND").as_deref() == Ok("cuda")
}

/// Whether the device has numbers of this type; software Vulkan has none of 16 bits.
fn has(dtype: DType) -> bool {
    let has = device().supports_dtype(dtype);
    if !has {
        eprintln!("skipped: no {dtype:?} on this device");
    }
    has
}

fn vector<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    let data = tensor.cast(DType::F32).into_data();
    data.iter::<f32>().map(f64::from).collect()
}

/// A problem of `batch` sequences.
#[derive(Clone, Copy, Debug)]
struct Shape {
    batch: usize,
    seq: usize,
    heads: usize,
    d_head: usize,
    causal: bool,
}

impl Shape {
    fn seen(&self, query: usize) -> usize {
        match self.causal {
            true => query + 1,
            false => self.seq,
        }
    }

    /// Where a row of one part begins in packed projections.
    fn packed(&self, batch: usize, position: usize, part: usize, head: usize) -> usize {
        (((batch * self.seq + position) * 3 + part) * self.heads + head) * self.d_head
    }

    /// Where a row begins in the output.
    fn plain(&self, batch: usize, position: usize, head: usize) -> usize {
        ((batch * self.seq + position) * self.heads + head) * self.d_head
    }

    /// Output and gradient of the projections, from the projections, the gradient of the output and what each weight is multiplied
    /// with after the softmax.
    fn oracle(&self, packed: &[f64], grad: &[f64], factors: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let mut output = vec![0.0; grad.len()];
        let mut slopes = vec![0.0; packed.len()];
        for batch in 0..self.batch {
            for head in 0..self.heads {
                for query in 0..self.seq {
                    let at = ((batch * self.heads + head) * self.seq + query) * self.seq;
                    let inputs = [packed, grad, &factors[at..at + self.seq]];
                    self.row([batch, head, query], inputs, &mut output, &mut slopes);
                }
            }
        }
        (output, slopes)
    }

    fn row(
        &self,
        [batch, head, query]: [usize; 3],
        [packed, grad, factors]: [&[f64]; 3],
        output: &mut [f64],
        slopes: &mut [f64],
    ) {
        let d_head = self.d_head;
        let scale = 1.0 / (d_head as f64).sqrt();
        let at = |position, part| {
            let first = self.packed(batch, position, part, head);
            first..first + d_head
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let q = &packed[at(query, 0)];
        let scores: Vec<f64> = (0..self.seen(query))
            .map(|key| dot(q, &packed[at(key, 1)]) * scale)
            .collect();
        let top = scores.iter().fold(f64::MIN, |a, &x| a.max(x));
        let sum: f64 = scores.iter().map(|x| (x - top).exp()).sum();
        let weights: Vec<f64> = scores.iter().map(|x| (x - top).exp() / sum).collect();
        let first = self.plain(batch, query, head);
        let g = &grad[first..first + d_head];
        for (key, weight) in weights.iter().enumerate() {
            for (i, value) in packed[at(key, 2)].iter().enumerate() {
                output[first + i] += weight * factors[key] * value;
            }
        }
        let delta = dot(g, &output[first..first + d_head]);
        for (key, weight) in weights.iter().enumerate() {
            let change = factors[key] * dot(g, &packed[at(key, 2)]);
            let d_score = weight * (change - delta) * scale;
            let parts = [(query, 0, 1, key), (key, 1, 0, query)];
            for (to, part, other, from) in parts {
                let from = at(from, other).start;
                for (i, slope) in at(to, part).enumerate() {
                    slopes[slope] += d_score * packed[from + i];
                }
            }
            for (i, slope) in at(key, 2).enumerate() {
                slopes[slope] += weight * factors[key] * g[i];
            }
        }
    }
}

fn largest(numbers: &[f64]) -> f64 {
    numbers.iter().fold(1e-9_f64, |a, x| a.max(x.abs()))
}

/// Largest difference, relative to `scale`.
fn distance(expected: &[f64], found: &[f64], scale: f64) -> f64 {
    assert_eq!(expected.len(), found.len());
    let pairs = expected.iter().zip(found);
    pairs.fold(0.0_f64, |a, (x, y)| a.max((x - y).abs())) / scale
}

fn agrees(shape: Shape, dtype: DType, spread: f64) {
    agrees_with_dropout(shape, dtype, spread, 0.0);
}

fn agrees_with_dropout(shape: Shape, dtype: DType, spread: f64, probability: f64) {
    if !has(dtype) {
        return;
    }
    let device = device().autodiff();
    let Shape {
        batch,
        seq,
        heads,
        d_head,
        causal,
    } = shape;
    let random = |width: usize, spread: f64| -> Tensor<3> {
        let uniform = Distribution::Uniform(-spread, spread);
        Tensor::<3>::random([batch, seq, width * heads * d_head], uniform, &device).cast(dtype)
    };
    let packed = random(3, spread).require_grad();
    if !serves(&packed, heads) {
        assert!(!on_cuda(), "{shape:?} of {dtype:?} is not served on CUDA");
        return;
    }
    let grad = random(1, 1.0);
    let dropout = WeightDropout::seeded(probability, [7, batch as u32], &device);
    let factors = vector(dropout.factors([batch, heads, seq, seq]));
    let output = flash_attention(packed.clone(), heads, causal, Some(dropout));
    let grads = (output.clone() * grad.clone()).sum().backward();
    let slopes = vector(packed.grad(&grads).unwrap());
    let (expected, expected_slopes) = shape.oracle(&vector(packed), &vector(grad), &factors);
    let tolerance = match dtype {
        DType::F16 => 4e-3,
        _ => 2e-2,
    };
    let values = distance(&expected, &vector(output), largest(&expected));
    assert!(values < tolerance, "values of {shape:?}: {values}");
    // Of all gradients: those of queries and keys vanish where there is one key.
    let scale = largest(&expected_slopes);
    let width = heads * d_head;
    for (part, name) in ["queries", "keys", "values"].into_iter().enumerate() {
        let of = |all: &[f64]| -> Vec<f64> {
            let rows = all.chunks(3 * width);
            rows.flat_map(|row| row[part * width..(part + 1) * width].to_vec())
                .collect()
        };
        let slope = distance(&of(&expected_slopes), &of(&slopes), scale);
        assert!(
            slope < tolerance,
            "gradient of the {name}, {shape:?}: {slope}"
        );
    }
}

#[test]
fn values_and_gradients_agree_with_double_precision() {
    for d_head in [32, 64, 128] {
        for seq in [1, 2, 15, 16, 63, 64, 65, 130, 257] {
            for causal in [true, false] {
                let shape = Shape {
                    batch: 2,
                    seq,
                    heads: 3,
                    d_head,
                    causal,
                };
                agrees(shape, DType::BF16, 1.0);
            }
        }
    }
}

#[test]
fn half_precision_agrees_too() {
    for causal in [true, false] {
        let shape = Shape {
            batch: 1,
            seq: 100,
            heads: 2,
            d_head: 64,
            causal,
        };
        agrees(shape, DType::F16, 1.0);
    }
}

#[test]
fn scores_far_apart_neither_overflow_nor_vanish() {
    for causal in [true, false] {
        let shape = Shape {
            batch: 1,
            seq: 200,
            heads: 1,
            d_head: 64,
            causal,
        };
        // Scores up to some hundreds: softmax is nearly a choice.
        agrees(shape, DType::BF16, 8.0);
    }
}

/// The masks of both layouts of scores are that of the definition, up to odd ends and in every block.
#[test]
fn dropout_agrees_with_its_definition() {
    for d_head in [32, 64, 128] {
        for seq in [1, 17, 64, 130, 257] {
            for causal in [true, false] {
                let shape = Shape {
                    batch: 2,
                    seq,
                    heads: 3,
                    d_head,
                    causal,
                };
                agrees_with_dropout(shape, DType::BF16, 1.0, 0.3);
            }
        }
    }
}

#[test]
fn a_probability_of_zero_is_no_dropout_and_a_seed_is_a_mask() {
    let device = device();
    if !has(DType::BF16) {
        return;
    }
    let uniform = Distribution::Uniform(-1.0, 1.0);
    let packed = Tensor::<3>::random([2, 100, 3 * 64], uniform, &device).cast(DType::BF16);
    if !serves(&packed, 1) {
        assert!(!on_cuda(), "heads of 64 in bf16 are not served on CUDA");
        return;
    }
    let run = |dropout| vector(flash_attention(packed.clone(), 1, true, dropout));
    let seeded = |probability, seed| Some(WeightDropout::seeded(probability, seed, &device));
    assert_eq!(run(None), run(seeded(0.0, [1, 2])));
    assert_eq!(run(seeded(0.2, [1, 2])), run(seeded(0.2, [1, 2])));
    for other in [[1, 3], [2, 2]] {
        assert_ne!(run(seeded(0.2, [1, 2])), run(seeded(0.2, other)));
    }
}

fn share_kept(factors: &[f64]) -> f64 {
    factors.iter().filter(|&&x| x > 0.0).count() as f64 / factors.len() as f64
}

/// Of independent draws the share that is kept is within four standard deviations, over all weights and over those of every
/// query and every key; kept weights are divided by the probability.
#[test]
fn the_share_of_weights_that_is_kept_is_what_was_asked_for() {
    for (probability, seed) in [(0.2, [1, 2]), (0.5, [3, 4]), (0.01, [5, 6])] {
        let [batch, heads, queries, keys] = [2, 3, 128, 256];
        let dropout = WeightDropout::seeded(probability, seed, &device());
        let factors = vector(dropout.factors([batch, heads, queries, keys]));
        let within = |found: f64, count: usize, sigmas: f64| {
            let sigma = (probability * (1.0 - probability) / count as f64).sqrt();
            assert!(
                (found - (1.0 - probability)).abs() < sigmas * sigma,
                "{probability} {seed:?}: kept {found} of {count}"
            );
        };
        within(share_kept(&factors), factors.len(), 4.0);
        for row in factors.chunks(keys) {
            // The largest of 768 rows.
            within(
                share_kept(row),
                keys,
                if probability < 0.1 { 8.0 } else { 5.5 },
            );
        }
        for key in 0..keys {
            let column: Vec<f64> = factors.iter().skip(key).step_by(keys).copied().collect();
            within(share_kept(&column), column.len(), 5.5);
        }
        for factor in factors.iter().filter(|&&x| x > 0.0) {
            assert!((factor * (1.0 - probability) - 1.0).abs() < 2e-5);
        }
    }
}

/// Batches, heads, seeds and neighbours have masks of their own: two of them agree as often as chance has them.
#[test]
fn masks_are_independent_of_each_other() {
    let mask = |seed| {
        let dropout = WeightDropout::seeded(0.5, seed, &device());
        vector(dropout.factors([2, 2, 64, 64]))
    };
    let (first, second, third) = (mask([1, 2]), mask([1, 3]), mask([2, 2]));
    let head = 64 * 64;
    let agreements = |a: &[f64], b: &[f64]| {
        let pairs = a.iter().zip(b).filter(|(x, y)| x == y).count();
        let share = pairs as f64 / a.len().min(b.len()) as f64;
        let sigma = 0.5 / (a.len().min(b.len()) as f64).sqrt();
        assert!((share - 0.5).abs() < 4.0 * sigma, "{share} agree");
    };
    agreements(&first, &second);
    agreements(&first, &third);
    for other in 1..4 {
        agreements(&first[..head], &first[other * head..(other + 1) * head]);
    }
    for shift in [1, 2, 8, 16, 24, 32, 64, 8 * 64] {
        agreements(&first[..first.len() - shift], &first[shift..]);
    }
}

#[test]
#[should_panic(expected = "the probability is 1, but must lie in [0, 1)")]
fn a_probability_of_one_is_refused() {
    WeightDropout::seeded(1.0, [0, 0], &device());
}

#[test]
fn plain_processors_and_single_precision_are_not_served() {
    let single: Tensor<3> = Tensor::zeros([1, 4, 96], &device());
    assert!(!serves(&single, 1), "f32 has another form");
    if !has(DType::BF16) {
        return;
    }
    let odd = Tensor::<3>::zeros([1, 4, 120], &device()).cast(DType::BF16);
    assert!(!serves(&odd, 1), "heads of 40 have another form");
}
