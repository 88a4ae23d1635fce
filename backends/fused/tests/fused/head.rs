//! Head and loss as one operation: against sums in double precision, whose own gradients are held against differences, and against
//! the two operations that it is made of.

use burn::tensor::{DType, Gradients, Int, Tensor, TensorData};
use kiln_fused::{self as fused, LossOptions, LossTerms, cross_entropy_sum, linear_cross_entropy};
use proptest::prelude::*;

use crate::common::{backend, bits, device, on_flex, random, values};

const PLAIN: LossTerms = LossTerms {
    label_smoothing: 0.0,
    z_loss: 0.0,
};
const ALL: LossTerms = LossTerms {
    label_smoothing: 0.1,
    z_loss: 0.02,
};

/// Largest difference relative to the largest element; CUDA devices round the operands of products to 11 bits.
fn tolerance() -> f64 {
    match backend().as_str() {
        "cuda" => 4e-3,
        _ => 1e-5,
    }
}

/// A problem on the host in double precision.
struct Problem {
    /// rows, d_model, vocab
    sizes: [usize; 3],
    rows: Vec<f64>,
    weight: Vec<f64>,
    targets: Vec<i32>,
    terms: LossTerms,
    divisor: f64,
}

/// What the operation returns and its gradients.
#[derive(Default)]
struct Exact {
    minimised: f64,
    nats: Vec<f64>,
    d_rows: Vec<f64>,
    d_weight: Vec<f64>,
}

impl Problem {
    fn new(sizes: [usize; 3], targets: Vec<i32>, terms: LossTerms, divisor: f64) -> Self {
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

    fn exact(&self) -> Exact {
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

    fn rows(&self) -> Tensor<2> {
        let [count, d_model, _] = self.sizes;
        Self::tensor(&self.rows, [count, d_model])
    }

    fn weight(&self) -> Tensor<2> {
        let [_, d_model, vocab] = self.sizes;
        Self::tensor(&self.weight, [vocab, d_model])
    }

    fn targets(&self) -> Tensor<1, Int> {
        let shape = [self.targets.len()];
        Tensor::from_data(TensorData::new(self.targets.clone(), shape), &device())
    }

    fn options(&self, chunk_bytes: usize) -> LossOptions {
        LossOptions {
            terms: self.terms,
            divisor: self.divisor,
            chunk_bytes,
        }
    }

    /// Whether the device's own product is right for these sizes: software Vulkan gets some of the smallest wrong.
    fn device_multiplies(&self) -> bool {
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

trait ToDouble {
    fn map_f64(&self) -> Vec<f64>;
}

impl ToDouble for Vec<f32> {
    fn map_f64(&self) -> Vec<f64> {
        self.iter().map(|&x| x.into()).collect()
    }
}

fn distance(found: &[f32], exact: &[f64]) -> f64 {
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
fn assert_exact(what: &str, found: Vec<f32>, exact: &[f64], tolerance: f64) {
    let off = distance(&found, exact);
    assert!(off < tolerance, "{what}: off by {off:e}");
}

/// A gradient; autodiff keeps none of what nothing depends on.
fn gradient(leaf: &Tensor<2>, grads: &Gradients) -> Vec<f32> {
    values(leaf.grad(grads).unwrap().cast(DType::F32))
}

/// Both forms against the sums, in a weight of either layout, with a gradient of the loss that is not 1.
fn check(problem: &Problem, chunk_bytes: usize) {
    if !problem.device_multiplies() {
        return;
    }
    let exact = problem.exact();
    let of =
        |entries: &[f64], factor: f64| -> Vec<f64> { entries.iter().map(|x| x * factor).collect() };
    for (by_columns, chunked, factor) in [
        (false, true, 1.0),
        (true, true, -0.75),
        (false, false, 1.0),
        (true, false, 3.0),
    ] {
        let rows = problem.rows().require_grad();
        let stored = match by_columns {
            true => problem.weight().transpose().detach(),
            false => problem.weight(),
        };
        // A leaf of this layout in memory.
        let shape = stored.dims();
        let stored = Tensor::<2>::from_data(stored.into_data(), &device())
            .reshape(shape)
            .require_grad();
        let weight = match by_columns {
            true => stored.clone().transpose(),
            false => stored.clone(),
        };
        let (targets, options) = (problem.targets(), problem.options(chunk_bytes));
        let found = match chunked {
            true => linear_cross_entropy(rows.clone(), weight, targets, options),
            false => {
                let logits = fused::linear(rows.clone(), weight.transpose(), None);
                cross_entropy_sum(logits, targets, options)
            }
        };
        let what = format!(
            "{:?} in {chunk_bytes} bytes, {:?}, by columns: {by_columns}, chunked: {chunked}",
            problem.sizes, problem.terms
        );
        let grads = (found.minimised.clone() * factor).backward();
        let tolerance = tolerance();
        let minimised = values(found.minimised);
        assert_exact(
            &format!("loss of {what}"),
            minimised,
            &[exact.minimised],
            tolerance,
        );
        assert_exact(
            &format!("nats of {what}"),
            values(found.nats),
            &exact.nats,
            tolerance,
        );
        let d_rows = gradient(&rows, &grads);
        assert_exact(
            &format!("rows of {what}"),
            d_rows,
            &of(&exact.d_rows, factor),
            tolerance,
        );
        let d_weight = stored.grad(&grads).unwrap();
        let d_weight = match by_columns {
            true => d_weight.transpose(),
            false => d_weight,
        };
        assert_exact(
            &format!("weight of {what}"),
            values(d_weight),
            &of(&exact.d_weight, factor),
            tolerance,
        );
    }
}

fn labels(count: usize, vocab: usize) -> Vec<i32> {
    (0..count).map(|i| ((i * 7 + 3) % vocab) as i32).collect()
}

#[test]
fn loss_and_gradients_are_those_of_double_precision() {
    for sizes in [
        [1, 1, 2],
        [5, 8, 3],
        [33, 24, 65],
        [70, 16, 200],
        [130, 40, 1000],
    ] {
        let [count, _, vocab] = sizes;
        for terms in [PLAIN, ALL] {
            // Whole, some chunks of which the last is shorter, and one row each.
            for rows in [count, count / 3 + 1, 1] {
                let problem = Problem::new(sizes, labels(count, vocab), terms, count as f64);
                check(&problem, rows * vocab * size_of::<f32>());
            }
        }
    }
}

#[test]
fn ignored_rows_do_not_count() {
    let mut some = labels(33, 65);
    some.iter_mut().step_by(3).for_each(|label| *label = -1);
    some[7] = -100;
    for terms in [PLAIN, ALL] {
        let problem = Problem::new([33, 24, 65], some.clone(), terms, 10.0);
        check(&problem, 10 * 65 * 4);
        // All of them: everything is zero, to the bit.
        let none = Problem::new([33, 24, 65], vec![-1; 33], terms, 10.0);
        let (rows, weight) = (none.rows().require_grad(), none.weight().require_grad());
        let options = none.options(10 * 65 * 4);
        let found = linear_cross_entropy(rows.clone(), weight.clone(), none.targets(), options);
        let grads = found.minimised.clone().backward();
        let zero = |found: Vec<f32>| found.iter().all(|&x| x == 0.0);
        assert!(zero(values(found.minimised)) && zero(values(found.nats)));
        assert!(zero(gradient(&rows, &grads)) && zero(gradient(&weight, &grads)));
    }
}

#[test]
fn no_rows_have_no_loss() {
    let rows = Tensor::<2>::zeros([0, 8], &device()).require_grad();
    let weight = random([16, 8], 1).require_grad();
    let targets = Tensor::<1, Int>::zeros([0], &device());
    let found = linear_cross_entropy(rows, weight.clone(), targets, LossOptions::default());
    let grads = found.minimised.clone().backward();
    assert_eq!(found.nats.dims(), [0]);
    assert_eq!(values(found.minimised), [0.0]);
    assert!(gradient(&weight, &grads).iter().all(|&x| x == 0.0));
}

/// The gradients that all others are held against, against differences of the loss.
#[test]
fn gradients_in_double_precision_are_slopes() {
    let mut problem = Problem::new([4, 3, 5], vec![2, -1, 0, 4], ALL, 3.0);
    let exact = problem.exact();
    let step = 1e-5;
    let slope = |problem: &mut Problem, at: &dyn Fn(&mut Problem) -> &mut f64| {
        let value = *at(problem);
        let mut ends = [0.0; 2];
        for (end, by) in ends.iter_mut().zip([-step, step]) {
            *at(problem) = value + by;
            *end = problem.exact().minimised;
        }
        *at(problem) = value;
        (ends[1] - ends[0]) / (2.0 * step)
    };
    for (i, expected) in exact.d_rows.iter().enumerate() {
        let found = slope(&mut problem, &|problem| &mut problem.rows[i]);
        assert!((found - expected).abs() < 1e-8, "{found} {expected}");
    }
    for (i, expected) in exact.d_weight.iter().enumerate() {
        let found = slope(&mut problem, &|problem| &mut problem.weight[i]);
        assert!((found - expected).abs() < 1e-8, "{found} {expected}");
    }
}

/// In one chunk, what training has computed with the two operations, bit for bit: loss curves do not move with the form.
#[test]
fn one_chunk_has_the_bits_of_the_two_operations() {
    if !on_flex() {
        return;
    }
    for ([count, d_model, vocab], by_columns) in [
        ([300, 128, 65], false),
        ([257, 96, 1001], false),
        ([300, 64, 512], true),
    ] {
        let problem = Problem::new([count, d_model, vocab], labels(count, vocab), PLAIN, 768.0);
        let run = |chunked: bool| {
            let rows = problem.rows().require_grad();
            let weight = match by_columns {
                true => problem.weight().transpose().reshape([d_model, vocab]),
                false => problem.weight(),
            };
            let shape = weight.dims();
            let stored = Tensor::<2>::from_data(weight.into_data(), &device()).reshape(shape);
            let stored = stored.require_grad();
            let head = match by_columns {
                true => stored.clone(),
                false => stored.clone().transpose(),
            };
            let (minimised, nats) = match chunked {
                true => {
                    let options = LossOptions {
                        divisor: 768.0,
                        ..LossOptions::default()
                    };
                    let (weight, targets) = (head.transpose(), problem.targets());
                    let found = linear_cross_entropy(rows.clone(), weight, targets, options);
                    (found.minimised, found.nats)
                }
                false => {
                    let logits = fused::linear(rows.clone(), head, None);
                    let nats = fused::cross_entropy(logits, problem.targets());
                    (nats.clone().sum().div_scalar(768.0), nats)
                }
            };
            let grads = minimised.backward();
            [
                bits(nats),
                bits(rows.grad(&grads).unwrap()),
                bits(stored.grad(&grads).unwrap()),
            ]
        };
        let (one, two) = (run(true), run(false));
        for (what, (one, two)) in ["nats", "rows", "weight"].iter().zip(one.iter().zip(&two)) {
            assert!(one == two, "{what} of {count} {d_model} {vocab}");
        }
    }
}

/// Rows of half the size with a weight in single precision, as training has them.
#[test]
fn halves_meet_a_weight_of_single_precision() {
    for (dtype, tolerance) in [(DType::BF16, 1e-2), (DType::F16, 2e-3)] {
        if !device().supports_dtype(dtype) {
            eprintln!("skipped: no {dtype:?} on this device");
            continue;
        }
        for terms in [PLAIN, ALL] {
            let mut problem = Problem::new([130, 64, 512], labels(130, 512), terms, 130.0);
            // Both as they are multiplied, and scores of the size that models have.
            let rounded = |x: Tensor<2>, by: f64| values((x * by).cast(dtype).cast(DType::F32));
            problem.rows = rounded(problem.rows(), 0.25).map_f64();
            problem.weight = rounded(problem.weight(), 0.25).map_f64();
            let exact = problem.exact();
            let leaf = problem.rows().require_grad();
            let weight = problem.weight().require_grad();
            let rows = leaf.clone().cast(dtype);
            let options = problem.options(40 * 512 * 2);
            let found = linear_cross_entropy(rows, weight.clone(), problem.targets(), options);
            assert_eq!(
                [found.minimised.dtype(), found.nats.dtype()],
                [DType::F32; 2]
            );
            let grads = found.minimised.clone().backward();
            assert_eq!(weight.grad(&grads).unwrap().dtype(), DType::F32);
            assert_exact(
                "loss",
                values(found.minimised),
                &[exact.minimised],
                tolerance,
            );
            assert_exact("nats", values(found.nats), &exact.nats, tolerance);
            assert_exact("rows", gradient(&leaf, &grads), &exact.d_rows, tolerance);
            let d_weight = gradient(&weight, &grads);
            assert_exact("weight", d_weight, &exact.d_weight, tolerance);
        }
    }
}

/// Only what is asked for, and nothing without autodiff.
#[test]
fn either_gradient_comes_alone() {
    let problem = Problem::new([33, 24, 65], labels(33, 65), ALL, 33.0);
    if !problem.device_multiplies() {
        return;
    }
    let exact = problem.exact();
    let options = problem.options(10 * 65 * 4);
    let rows = problem.rows().require_grad();
    let found = linear_cross_entropy(rows.clone(), problem.weight(), problem.targets(), options);
    let grads = found.minimised.backward();
    assert_exact("rows", gradient(&rows, &grads), &exact.d_rows, tolerance());
    let weight = problem.weight().require_grad();
    let found = linear_cross_entropy(problem.rows(), weight.clone(), problem.targets(), options);
    let grads = found.minimised.backward();
    let d_weight = gradient(&weight, &grads);
    assert_exact("weight", d_weight, &exact.d_weight, tolerance());
    let (rows, weight) = (problem.rows().inner(), problem.weight().inner());
    let found = linear_cross_entropy(rows, weight, problem.targets().inner(), options);
    assert_exact("nats", values(found.nats), &exact.nats, tolerance());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_sizes_and_terms_agree(
        count in 1_usize..40,
        d_model in 1_usize..20,
        vocab in 2_usize..70,
        chunk in 1_usize..40,
        smoothing in 0.0..0.5_f64,
        z_loss in 0.0..0.1_f64,
        seed in 0_i32..1000,
    ) {
        let label = |i: usize| match (i as i32 + seed) % 5 {
            0 => -1,
            _ => (seed + 31 * i as i32) % vocab as i32,
        };
        let terms = LossTerms { label_smoothing: smoothing, z_loss };
        let targets = (0..count).map(label).collect();
        let problem = Problem::new([count, d_model, vocab], targets, terms, 7.0);
        check(&problem, chunk * vocab * size_of::<f32>());
    }
}

#[test]
#[should_panic(expected = "the share of label smoothing is 1, but must lie in [0, 1)")]
fn all_of_the_probability_is_too_much_to_spread() {
    let problem = Problem::new([2, 8, 16], vec![0, 1], PLAIN, 2.0);
    let options = LossOptions {
        terms: LossTerms {
            label_smoothing: 1.0,
            z_loss: 0.0,
        },
        ..LossOptions::default()
    };
    linear_cross_entropy(problem.rows(), problem.weight(), problem.targets(), options);
}

#[test]
#[should_panic(expected = "the sum over rows is divided by 0")]
fn a_divisor_is_positive() {
    let problem = Problem::new([2, 8, 16], vec![0, 1], PLAIN, 2.0);
    let options = LossOptions {
        divisor: 0.0,
        ..LossOptions::default()
    };
    linear_cross_entropy(problem.rows(), problem.weight(), problem.targets(), options);
}

/// As in [`crate::operations`]: the CPU says so, a device makes the row not a number.
#[test]
fn foreign_ids_are_refused() {
    let problem = Problem::new([2, 8, 65], vec![0, 65], PLAIN, 2.0);
    let run = || {
        let (rows, weight) = (problem.rows(), problem.weight());
        let options = LossOptions::default();
        let found = linear_cross_entropy(rows, weight, problem.targets(), options);
        values(found.nats)
    };
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    match on_flex() {
        true => {
            let message = *found.unwrap_err().downcast::<String>().unwrap();
            assert!(
                message.ends_with("target 65 is not below the vocabulary of 65"),
                "{message}"
            );
        }
        false => {
            let nats = found.unwrap();
            assert!(nats[0].is_finite() && nats[1].is_nan(), "{nats:?}");
        }
    }
}
