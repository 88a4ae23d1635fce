//! Runs on a synthetic task: learnt, scored, stopped at their target, resumed, and refused where they cannot be.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

mod common;

use burn::tensor::Device;
use common::{Corner, with};
use kiln_run::Kind;
use kiln_train::{Run, Stop, WindowScores};

/// A dictionary of 15 keys: what a model can hold in its weights without reading anything but the last token.
const MEMORIZATION: [&str; 8] = [
    "task.memorization.length=16",
    "task.memorization.vocab=32",
    "task.train_examples=400",
    "task.held_out_examples=40",
    "model.preset=resnet-bk-tiny",
    "model.bk.heads=24",
    "train.order=shuffled",
    "optimizer.learning_rate=1e-2",
];

#[test]
fn a_dictionary_is_learnt_and_the_run_stops_at_its_target() {
    let corner = Corner::cyclic();
    let changes = with(
        &MEMORIZATION,
        &[
            "train.steps=600",
            "train.eval_every=50",
            "train.target_accuracy=0.99",
        ],
    );
    let outcome = corner.start("run", &changes).unwrap();
    let evals = corner.series("run", Kind::Eval, "validation_accuracy");
    assert_eq!(outcome.stop, Stop::Reached, "{evals:?}");
    assert!(outcome.step < 600);
    let result = outcome.result.unwrap();
    let score = result.validation.score;
    assert_eq!(
        score.tokens,
        40 * 8,
        "every target of every held-out example"
    );
    assert!(score.accuracy() > 0.97, "{evals:?}");
    assert!(result.sample.is_none() && result.bigram.is_none());
    assert!(result.validation.bits_per_byte.is_none());

    let test = result.test.unwrap().score;
    let text = std::fs::read(corner.path("run/windows.json")).unwrap();
    let windows: WindowScores = serde_json::from_slice(&text).unwrap();
    for (split, score) in [(&windows.validation, score), (&windows.test.unwrap(), test)] {
        assert_eq!(split.tokens, [8; 40]);
        assert_eq!(split.correct.iter().sum::<u64>(), score.correct);
        let nats: f64 = split.nats.iter().map(|nats| f64::from(*nats)).sum();
        assert!((nats / score.nats - 1.0).abs() < 1e-5);
    }
    let run = Run::open(&corner.path("run"), &Device::flex()).unwrap();
    assert_eq!(
        (run.config.corpus.as_str(), run.config.tokenizer.is_none()),
        ("memorization", true)
    );
    let error = run.tokenizer().unwrap_err().to_string();
    assert!(
        error.contains("trained on the task `memorization`"),
        "{error}"
    );
}

#[test]
fn a_resumed_run_is_the_run_that_was_not_stopped() {
    let corner = Corner::cyclic();
    corner.start("straight", &MEMORIZATION).unwrap();
    corner
        .start("stopped", &with(&MEMORIZATION, &["train.steps=12"]))
        .unwrap();
    corner.resume("stopped", &MEMORIZATION).unwrap();
    assert!(corner.weights("straight") == corner.weights("stopped"));
    let other = with(&MEMORIZATION, &["task.seed=1"]);
    let error = corner.resume("stopped", &other).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("`task.seed` was 0"), "{error}");
}

#[test]
fn what_does_not_go_with_a_task_is_refused() {
    let corner = Corner::cyclic();
    let refused = |changes: &[&str]| {
        let error = corner
            .start("run", &with(&MEMORIZATION, changes))
            .map(|_| ())
            .unwrap_err();
        assert!(!corner.path("run").exists(), "{error}");
        error.to_string()
    };
    for (change, message) in [
        (
            "data.tokenizer=chars",
            "recipe: `data` is rust-deps as chars, but a recipe with a [task] reads no text",
        ),
        ("objective.kind=masked-token", "a task has its own targets"),
        (
            "task.train_examples=0",
            "examples without end cannot be shuffled",
        ),
        (
            "train.seq=8",
            "recipe: `train.seq` is 8, but the task's examples have 16 tokens",
        ),
        (
            "task.memorization.length=7",
            "recipe: task setting `memorization.length` = 7",
        ),
        (
            "task.mqar.pairs=2",
            "there are [task.mqar] and [task.memorization]",
        ),
    ] {
        let error = refused(&[change]);
        assert!(error.contains(message), "{error}");
    }
}

/// What a sequence says fits into the last position's vector, and is read back from it, whichever side mixers see.
#[test]
fn a_sequence_is_compressed_into_its_last_position() {
    const COMPRESSION: [&str; 6] = [
        "task.compression.length=5",
        "task.compression.vocab=6",
        "task.held_out_examples=100",
        "train.batch=32",
        "train.steps=500",
        "train.eval_every=500",
    ];
    let corner = Corner::cyclic();
    let outcome = corner.start("causal", &COMPRESSION).unwrap();
    let result = outcome.result.unwrap();
    let score = result.validation.score;
    assert_eq!(score.tokens, 400);
    // A guess is right once in five.
    assert!(score.accuracy() > 0.9, "{}", score.accuracy());
    assert!(result.sample.is_none());
    let few = with(&COMPRESSION, &["train.steps=3", "train.eval_every=3"]);
    let both = with(&few, &["model.attention.direction=bidirectional"]);
    corner.start("both", &both).unwrap();

    let run = Run::open(&corner.path("causal"), &Device::flex()).unwrap();
    assert!(run.config.model.backbone.decoder && !run.model.is_causal());
    assert!(run.model.initial_state(1, &Device::flex()).is_err());
    for (changes, message) in [
        (with(&few, &["train.recompute=true"]), "the decoder is none"),
        (
            with(&MEMORIZATION, &["model.backbone.decoder=true"]),
            "only [task.compression] asks for",
        ),
    ] {
        let error = corner.start("refused", &changes).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}
