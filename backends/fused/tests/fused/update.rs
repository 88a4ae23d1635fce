//! AdamW, norms of gradients and the factor that clips them.

use burn::{
    optim::{AdamWConfig, Optimizer},
    tensor::{DType, Tensor},
};
use kiln_fused::{self as fused, AdamW, GradientScale, reference};

use crate::common::{assert_close, bits, device, random, values};

const ADAMW: AdamW = AdamW {
    betas: [0.9, 0.99],
    epsilon: 1e-8,
    weight_decay: 0.1,
};

/// The step as Burn takes it in plain tensor operations, over several steps with a state.
#[test]
fn adamw() {
    let burn = AdamWConfig::new()
        .with_beta_1(0.9)
        .with_beta_2(0.99)
        .with_epsilon(1e-8)
        .with_weight_decay(0.1)
        .build();
    for shape in [[1, 1], [3, 7], [200, 129]] {
        let mut x = random(shape, 30).inner();
        let mut expected = x.clone();
        let (mut state, mut expected_state) = (None, None);
        for step in 0..5 {
            let grad = random(shape, 31 + step).inner();
            let kept = x.clone();
            let before = bits(kept.clone());
            (x, state) = ADAMW.step(1e-2, x, grad.clone(), state);
            assert_eq!(bits(kept), before, "a shared parameter is not written to");
            (expected, expected_state) = burn.step(1e-2, expected, grad, expected_state);
        }
        assert_close("parameter", x, expected);
        let (state, expected) = (state.unwrap().momentum, expected_state.unwrap().momentum);
        assert_eq!(state.time, expected.time);
        assert_close("first moment", state.moment_1, expected.moment_1);
        assert_close("second moment", state.moment_2, expected.moment_2);
    }
}

#[test]
fn square_sum() {
    for len in [1, 31, 5000] {
        let x = random([len], 40).inner();
        assert_close(
            "sum",
            fused::square_sum(x.clone()),
            reference::square_sum(x),
        );
    }
}

/// A factor that the device knows scales the gradient; one that is not finite leaves everything as it is, to the bit.
#[test]
fn adamw_with_a_scale() {
    for shape in [[1, 1], [3, 7], [200, 129]] {
        let scale = GradientScale::default();
        let scaled = ADAMW.scaled(scale.clone());
        let plain =
            |grad: Tensor<2>, state| ADAMW.step(1e-2, random(shape, 50).inner(), grad, state);
        let grad = random(shape, 51).inner();
        let (mut x, mut state) = plain(grad.clone(), None);
        let (expected, expected_state) = ADAMW.step(
            1e-2,
            x.clone(),
            grad.clone().mul_scalar(0.25),
            state.clone(),
        );
        let quarter = Tensor::<1>::from_floats([0.25], &device().inner());
        scale.set(Some(quarter));
        (x, state) = scaled.step(1e-2, x, grad.clone(), state);
        assert_close("parameter", x.clone(), expected);
        let (found, expected) = (state.unwrap().momentum, expected_state.unwrap().momentum);
        assert_close("moment 1", found.moment_1.clone(), expected.moment_1);
        assert_close("moment 2", found.moment_2.clone(), expected.moment_2);
        for lost in [f32::NAN, f32::INFINITY] {
            scale.set(Some(Tensor::from_floats([lost], &device().inner())));
            let state = Some(burn::optim::AdamWState::new(found.clone()));
            let (same, state) = scaled.step(1e-2, x.clone(), grad.clone(), state);
            let state = state.unwrap().momentum;
            assert_eq!(bits(same), bits(x.clone()), "{lost}");
            assert_eq!(bits(state.moment_1), bits(found.moment_1.clone()), "{lost}");
            assert_eq!(bits(state.moment_2), bits(found.moment_2.clone()), "{lost}");
        }
        scale.set(None);
        let (once, _) = scaled.step(1e-2, random(shape, 50).inner(), grad.clone(), None);
        assert_eq!(bits(once), bits(plain(grad, None).0));
    }
}

/// Parameters that wait for the end of a step get the same step as each by itself, to the bit, however many, of whatever sizes and
/// settings; a second step finds them where they are.
#[test]
fn gathered_parameters() {
    let scale = GradientScale::default();
    let decayed = ADAMW.scaled(scale.clone());
    let undecayed = AdamW {
        weight_decay: 0.0,
        ..ADAMW
    };
    let undecayed = undecayed.scaled(scale.clone());
    let shapes = [[1, 1], [3, 7], [40, 33], [600, 600], [70_001, 5]];
    let problems: Vec<_> = (0..25)
        .map(|seed| (shapes[seed % 5], seed as u64))
        .collect();
    let run = |gathered: bool| {
        let mut parameters: Vec<_> = problems
            .iter()
            .map(|&(shape, seed)| (random(shape, 90 + seed).inner(), None))
            .collect();
        for step in 0..3 {
            scale.set(Some(Tensor::from_floats([0.5], &device().inner())));
            if gathered {
                scale.begin();
            }
            let stepped = parameters.into_iter().zip(&problems);
            let stepped = stepped.map(|((x, state), &(shape, seed))| {
                let grad = random(shape, 200 + 31 * step + seed).inner();
                match seed % 2 {
                    0 => decayed.step(1e-2, x, grad, state),
                    _ => undecayed.step(1e-2, x, grad, state),
                }
            });
            parameters = stepped.collect();
            if gathered {
                scale.finish();
            }
        }
        let found = parameters.into_iter().map(|(x, state)| {
            let momentum = state.unwrap().momentum;
            [bits(x), bits(momentum.moment_1), bits(momentum.moment_2)]
        });
        found.collect::<Vec<_>>()
    };
    assert!(run(true) == run(false));
}

/// A step that was lost does not count: the one after it is the one that would have been taken in its place.
#[test]
fn a_lost_step_has_no_number() {
    let one = |x: f32| Some(Tensor::<1>::from_floats([x], &device().inner()));
    let grad = |seed| random([5, 9], seed).inner();
    let run = |lost: usize| {
        let scale = GradientScale::default();
        let scaled = ADAMW.scaled(scale.clone());
        let (mut x, mut state) = scaled.step(1e-2, random([5, 9], 80).inner(), grad(81), None);
        for _ in 0..lost {
            scale.set(one(f32::NAN));
            (x, state) = scaled.step(1e-2, x, grad(82), state);
            scale.note_lost(true);
        }
        scale.set(one(1.0));
        (x, state) = scaled.step(1e-2, x, grad(83), state);
        scale.note_lost(false);
        (x, state) = scaled.step(1e-2, x, grad(84), state);
        (bits(x), state.unwrap().momentum.time)
    };
    let (expected, time) = run(0);
    assert_eq!(time, 3);
    assert!(run(1) == (expected.clone(), time));
    assert!(run(2) == (expected, time));
}

/// The norm of several tensors is that of them joined, whatever their lengths; large tensors take several cubes, and the largest a launch.
#[test]
fn square_sums() {
    let mut lengths = vec![1, 3, 31, 1000, 4096, 65_536, 300_001, 400_000, 4_194_308];
    // More of them than a launch takes.
    lengths.extend(40..60);
    let tensors: Vec<Tensor<1>> = lengths
        .iter()
        .map(|&len| random([len], 60 + len as u64).inner())
        .collect();
    let exact: f64 = tensors
        .iter()
        .flat_map(|x| values(x.clone()))
        .map(|x| f64::from(x).powi(2))
        .sum();
    let found = f64::from(values(fused::square_sums(tensors))[0]);
    assert!((found / exact - 1.0).abs() < 1e-6, "{found} {exact}");
}

/// A row that was cut out of others may lie in a buffer longer than itself: what is behind it is neither added up nor written to.
#[test]
fn rows_of_padded_buffers() {
    let scale = GradientScale::default();
    let scaled = ADAMW.scaled(scale.clone());
    for width in [33, 192, 300] {
        let row = |seed, number: usize| -> Tensor<1> {
            let rows = random([3, width], seed).inner();
            rows.slice([number..number + 1, 0..width]).reshape([width])
        };
        let grads: Vec<_> = (0..3).map(|number| row(95, number)).collect();
        let exact: f64 = grads
            .iter()
            .flat_map(|x| values(x.clone()))
            .map(|x| f64::from(x).powi(2))
            .sum();
        let found = f64::from(values(fused::square_sums(grads.clone()))[0]);
        assert!(
            (found / exact - 1.0).abs() < 1e-6,
            "{width}: {found} {exact}"
        );
        let step = |gathered: bool| {
            if gathered {
                scale.begin();
            }
            let stepped = (0..3)
                .map(|number| scaled.step(1e-2, row(96, number), grads[number].clone(), None));
            let stepped: Vec<_> = stepped.collect();
            if gathered {
                scale.finish();
            }
            stepped
                .into_iter()
                .map(|(x, _)| bits(x))
                .collect::<Vec<_>>()
        };
        assert!(step(true) == step(false), "{width}");
    }
}

#[test]
fn factors_that_clip() {
    let one = |x: f32| Tensor::<1>::from_floats([x], &device().inner());
    for (squares, loss, [bound, loss_scale], norm, factor) in [
        (4.0, 1.0, [1.0, 1.0], 2.0, Some(0.5)),
        (0.25, 1.0, [1.0, 1.0], 0.5, Some(1.0)),
        (0.0, 1.0, [1.0, 1.0], 0.0, Some(1.0)),
        (4.0, 1.0, [0.0, 1.0], 2.0, Some(1.0)),
        // The gradient of eight times the loss.
        (256.0, 1.0, [1.0, 8.0], 2.0, Some(0.0625)),
        (16.0, 1.0, [1.0, 8.0], 0.5, Some(0.125)),
        (256.0, 1.0, [0.0, 8.0], 2.0, Some(0.125)),
        (f32::INFINITY, 1.0, [1.0, 1.0], f32::INFINITY, None),
        (f32::NAN, 1.0, [1.0, 1.0], f32::NAN, None),
        (4.0, f32::NAN, [1.0, 1.0], 2.0, None),
        (4.0, f32::INFINITY, [0.0, 1.0], 2.0, None),
    ] {
        for clip in [fused::clip_factor, reference::clip_factor] {
            let [found_norm, found] = clip(one(squares), one(loss), bound, loss_scale);
            let (found_norm, found) = (values(found_norm)[0], values(found)[0]);
            let what = format!("{squares} {loss} {bound}: {found_norm} {found}");
            assert!(
                found_norm == norm || found_norm.is_nan() && norm.is_nan(),
                "{what}"
            );
            match factor {
                Some(factor) => assert_eq!(found, factor, "{what}"),
                None => assert!(found.is_nan(), "{what}"),
            }
        }
    }
}

/// Gradients of half the width move parameters of full width, where the device has them.
#[test]
fn adamw_with_narrow_gradients() {
    for dtype in [DType::BF16, DType::F16] {
        if !device().supports_dtype(dtype) {
            eprintln!("skipped: no {dtype:?} on this device");
            continue;
        }
        let (x, grad) = (random([33, 20], 70).inner(), random([33, 20], 71).inner());
        let grad = grad.cast(dtype);
        let (found, _) = ADAMW.step(1e-2, x.clone(), grad.clone(), None);
        let (expected, _) = ADAMW.step(1e-2, x, grad.cast(DType::F32), None);
        assert_close("parameter", found, expected);
    }
}
