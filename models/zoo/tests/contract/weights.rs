//! How strongly mixers read each position: who can say, and that rows are distributions that follow from the input.

use burn::tensor::{Tensor, TensorData};
use kiln_backbone::{InitRng, Mixer};
use kiln_zoo::{AnyMixer, Control, ModelConfig};

use crate::common::{Case, SEQ, cases, device, vector};

const WIDTH: usize = 32;

fn input(seed: u64, batch: usize) -> Tensor<3> {
    let values = InitRng::new(seed).normal(batch * SEQ * WIDTH, 1.0);
    Tensor::from_data(TensorData::new(values, [batch, SEQ, WIDTH]), &device())
}

fn can_say(mixer: &AnyMixer, config: &ModelConfig) -> bool {
    match mixer {
        AnyMixer::Attention(_) | AnyMixer::Resolvent(_) => true,
        AnyMixer::Bk(_) => config.is_causal() && config.bk.control == Control::None,
        AnyMixer::Conv(_) | AnyMixer::Gla(_) | AnyMixer::MinGru(_) | AnyMixer::Fnet(_) => false,
    }
}

#[test]
fn rows_are_distributions_over_what_is_seen() {
    let mut said = 0;
    for Case { name, config } in cases() {
        let model = config.init(3, &device()).unwrap();
        for block in &model.blocks {
            let found = block.weights(input(1, 2));
            let expected = can_say(&block.mixer, &config);
            assert_eq!(found.is_some(), expected, "{name}");
            assert_eq!(block.mixer.weighing_heads() > 0, expected, "{name}");
            let Some(weights) = found else { continue };
            said += 1;
            assert_eq!(weights.dims(), [2, SEQ, SEQ], "{name}");
            for (at, row) in vector(weights).chunks(SEQ).enumerate() {
                let sum: f32 = row.iter().sum();
                assert!((sum - 1.0).abs() < 1e-5, "{name}: row {at} is of {sum}");
                assert!(row.iter().all(|w| *w >= 0.0), "{name}: {row:?}");
                let seen = if block.mixer.is_causal() {
                    at % SEQ + 1
                } else {
                    SEQ
                };
                assert!(row[seen..].iter().all(|w| *w == 0.0), "{name}: {row:?}");
            }
        }
    }
    assert!(said > 10, "{said} layers had weights");
}

/// What crosses no positions has no weights to show.
#[test]
fn controls_say_nothing() {
    for control in [Control::Off, Control::Shuffled] {
        let case = cases()
            .into_iter()
            .find(|case| case.name == "resnet-bk-tiny");
        let mut config = case.unwrap().config;
        config.bk.control = control;
        let model = config.init(3, &device()).unwrap();
        assert!(model.blocks[0].weights(input(1, 1)).is_none());
    }
}

/// Along a direction of the input, for each mixer that can say: the gradient is the difference.
#[test]
fn gradients_are_differences() {
    const STEP: f64 = 4e-3;
    for name in [
        "transformer-tiny",
        "resolvent-tiny",
        "resnet-bk-tiny",
        "resolvent, open",
    ] {
        let case = cases().into_iter().find(|case| case.name == name).unwrap();
        let model = case.model(3, &device().autodiff());
        let mixer = &model.blocks[0].mixer;
        let factors: Vec<f32> = (0..SEQ * SEQ).map(|i| (i as f32 * 1.7).sin()).collect();
        let factors = TensorData::new(factors, [1, SEQ, SEQ]);
        let loss = |x: Tensor<3>| {
            let factors = Tensor::<3>::from_data(factors.clone(), &x.device());
            (mixer.weights(x).unwrap() * factors).sum()
        };
        let x = Tensor::from_inner(input(4, 1)).require_grad();
        let gradient = x.grad(&loss(x.clone()).backward()).unwrap();
        let mut steepest = 0.0_f64;
        for direction in 5..9 {
            let along = input(direction, 1);
            let found = f64::from(
                (gradient.clone() * along.clone())
                    .sum()
                    .into_scalar::<f32>(),
            );
            let at = |by: f64| {
                let moved = Tensor::from_inner(input(4, 1) + along.clone() * by);
                f64::from(loss(moved).into_scalar::<f32>())
            };
            let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let apart = (found - expected).abs();
            assert!(
                apart < 1e-3 + 0.02 * expected.abs(),
                "{name}: {found} {expected}"
            );
            steepest = steepest.max(expected.abs());
        }
        assert!(steepest > 0.03, "{name}: the test can tell, {steepest}");
    }
}
