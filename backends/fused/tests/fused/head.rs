//! Head and loss as one operation: against sums in double precision, whose own gradients are held against differences, and against
//! the two operations that it is made of.

use burn::tensor::{DType, Int, Tensor};
use kiln_fused::{self as fused, LossOptions, LossTerms, cross_entropy_sum, linear_cross_entropy};
use proptest::prelude::*;

use crate::{
    common::{backend, bits, device, on_flex, random, values},
    problem::{Problem, ToDouble, assert_exact, gradient},
};

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
