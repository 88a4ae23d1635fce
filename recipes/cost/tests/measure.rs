//! Measuring real models, as small as quickstart's.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

use std::collections::BTreeMap;

use kiln_cost::{
    Bench, Cost, CostError, Figure, Outcome, Pace, Settings, Subject, Weights, measure,
};
use kiln_run::hardware::{Hardware, Provenance};
use kiln_train::{Backend, OpenDevice};

fn device() -> OpenDevice {
    Backend::Flex.open(0).unwrap()
}

fn settings(lengths: &[usize], batches: &[usize]) -> Settings {
    Settings {
        lengths: lengths.to_vec(),
        batches: batches.to_vec(),
        seconds: 2.0,
    }
}

/// A preset with a training step of one sequence.
fn subject(preset: &str, device: &OpenDevice) -> Subject {
    let mut subject = Subject::of_preset(preset, &device.device).unwrap().unwrap();
    subject.lesson.batch = 1;
    subject
}

fn measured(subject: &Subject, settings: &Settings, device: &OpenDevice) -> (Cost, Vec<usize>) {
    let provenance = Provenance::gather(
        "no/such/folder".as_ref(),
        Hardware::detect(Some(device.name.clone())),
        BTreeMap::new(),
        subject.seed,
    );
    let bench = Bench {
        device,
        settings,
        provenance,
    };
    let mut seen = Vec::new();
    let cost = measure(subject, bench, &mut |cost| seen.push(cost.rows.len())).unwrap();
    (cost, seen)
}

fn assert_sound(pace: &Pace, tokens: usize) {
    let seconds = pace.seconds;
    let ordered = [
        seconds.lower_quartile,
        seconds.median,
        seconds.upper_quartile,
    ];
    assert!(
        ordered[0] > 0.0 && ordered.is_sorted() && ordered[2] < 60.0,
        "{pace:?}"
    );
    assert!(seconds.repeats >= 1);
    let expected = tokens as f64 / seconds.median;
    assert!(
        (pace.tokens_per_second / expected - 1.0).abs() < 1e-9,
        "{pace:?}"
    );
}

#[test]
fn a_small_model_has_rows_and_a_training_step() {
    let device = device();
    let subject = subject("resnet-bk-tiny", &device);
    let (cost, seen) = measured(&subject, &settings(&[8, 32], &[1, 3]), &device);
    assert_eq!(seen, [0, 1, 2, 3, 4], "seen after training and each row");
    assert_eq!(
        (cost.name.as_str(), cost.weights),
        ("resnet-bk-tiny", Weights::Initial)
    );
    assert_eq!((cost.backend.as_str(), cost.files), ("flex", None));

    let training = cost.training.measured().unwrap();
    assert_eq!(
        [training.batch, training.seq, training.accumulate],
        [1, 128, 1]
    );
    assert_sound(&training.step, 128);
    // Weights, gradients and two moments.
    assert!(
        training
            .peak_memory_bytes
            .is_none_or(|bytes| bytes > 4 * cost.weight_bytes)
    );

    let shapes: Vec<_> = cost
        .rows
        .iter()
        .map(|row| [row.batch, row.length])
        .collect();
    assert_eq!(shapes, [[1, 8], [1, 32], [3, 8], [3, 32]]);
    for row in &cost.rows {
        let found = row.outcome.measured().unwrap();
        assert_sound(&found.prefill.unwrap(), row.batch * row.length);
        assert_sound(&found.decode.unwrap(), row.batch);
        assert_sound(&found.forward, row.batch * row.length);
    }
    let numbers = subject.config.init(1, &device.device).unwrap();
    let all = burn::module::Module::num_params(&numbers) as u64;
    assert_eq!(cost.parameters.all, all);
    assert_eq!(cost.weight_bytes, 4 * all);
    assert!((1..=all).contains(&cost.parameters.trainable));
}

#[test]
fn frozen_parameters_are_told_apart() {
    let device = device();
    let (cost, _) = measured(
        &subject("resnet-bk-paper", &device),
        &settings(&[4], &[1]),
        &device,
    );
    // Re z, Im z and hopping of one head in each of four layers.
    assert_eq!(cost.parameters.all - cost.parameters.trainable, 12);
}

#[test]
fn the_state_of_attention_grows_and_that_of_others_does_not() {
    let device = device();
    let lengths = [8, 16, 64];
    let curve = |preset: &str| {
        let subject = subject(preset, &device);
        let (cost, _) = measured(&subject, &settings(&lengths, &[2]), &device);
        for row in &cost.rows {
            let found = row.outcome.measured().unwrap();
            assert_eq!(
                found.state_bytes,
                Some(subject.model.state_bytes(row.length))
            );
            assert_eq!(found.counted_state_bytes, found.state_bytes, "{preset}");
        }
        let points = Figure::State.curve(&cost, 2);
        points
            .into_iter()
            .map(|(_, bytes)| bytes)
            .collect::<Vec<_>>()
    };
    // Two layers, keys and values of 64 f32.
    assert_eq!(curve("transformer-tiny"), [8192.0, 16384.0, 65536.0]);
    for preset in ["resnet-bk-tiny", "resolvent-tiny"] {
        let bytes = curve(preset);
        assert!(
            bytes[0] > 0.0 && bytes.iter().all(|&other| other == bytes[0]),
            "{bytes:?}"
        );
    }
}

#[test]
fn lengths_beyond_learned_positions_are_left_out_with_the_reason() {
    let device = device();
    let subject = subject("nanogpt-cpu", &device);
    let (cost, _) = measured(&subject, &settings(&[63, 64, 65], &[1]), &device);
    let decode = |length: usize| cost.at(1, length).unwrap().decode;
    assert!(
        decode(63).is_some() && decode(64).is_none(),
        "the last position is used by the prompt"
    );
    let expected = Outcome::LeftOut {
        reason: "the model has learned positions up to 64".into(),
    };
    assert_eq!(cost.rows[2].outcome, expected);
}

#[test]
fn a_bidirectional_model_is_scored_and_trained_only() {
    let device = device();
    let subject = subject("resnet-bk-masked", &device);
    let (cost, _) = measured(&subject, &settings(&[16], &[1]), &device);
    let found = cost.at(1, 16).unwrap();
    assert_sound(&found.forward, 16);
    assert!(found.prefill.is_none() && found.decode.is_none() && found.state_bytes.is_none());
    assert!(cost.training.measured().is_some());
}

#[test]
fn memory_and_time_that_are_not_there_are_told() {
    let device = device();
    let subject = subject("transformer-tiny", &device);
    let mut short = settings(&[1 << 20, 8], &[1 << 12]);
    short.seconds = 60.0;
    short.lengths.truncate(1);
    let (cost, _) = measured(&subject, &short, &device);
    let reason = cost.rows[0].outcome.reason().unwrap();
    assert!(
        reason.starts_with("it needs at least ") && reason.ends_with(" of memory are left"),
        "{reason}"
    );
    let mut short = settings(&[8, 16], &[1]);
    short.seconds = 1e-9;
    let (cost, _) = measured(&subject, &short, &device);
    assert!(
        cost.training.measured().is_some(),
        "the training step comes first"
    );
    for row in &cost.rows {
        assert_eq!(
            row.outcome.reason(),
            Some("the time was used up; raise --seconds")
        );
    }
}

#[test]
fn settings_and_presets_that_are_not_there() {
    let device = device();
    assert!(
        Subject::of_preset("no-such", &device.device)
            .unwrap()
            .is_none()
    );
    let subject = subject("resnet-bk-tiny", &device);
    let settings = settings(&[0], &[1]);
    let provenance = Provenance::gather(".".as_ref(), Hardware::detect(None), BTreeMap::new(), 1);
    let bench = Bench {
        device: &device,
        settings: &settings,
        provenance,
    };
    let error = measure(&subject, bench, &mut |_| ()).unwrap_err();
    assert!(
        matches!(
            error,
            CostError::Setting {
                name: "lengths",
                ..
            }
        ),
        "{error}"
    );
}
