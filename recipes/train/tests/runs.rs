//! Whole runs on a toy stream: what they learn, when they stop, and which weights they hand over.
//!
//! Nothing here drops activations out: the generator of the CPU backend is one for the process, and tests run side by side.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

mod common;

use burn::tensor::Device;
use common::{BK, CYCLE, Corner, with};
use kiln_loader::Split;
use kiln_run::{Kind, Mode, RunFolder, View};
use kiln_train::{
    Evaluator, NgramRequest, Run, SampleConfig, Score, Source, Stop, TrainError, WindowScores,
    generate, read_ngram,
};

fn greedy(prompt: &str, tokens: usize) -> SampleConfig {
    SampleConfig {
        prompt: prompt.into(),
        tokens,
        temperature: 0.0,
        ..SampleConfig::default()
    }
}

/// The stream can be learnt to nothing, and what was learnt goes on with the next character: a target that is off by one
/// could be learnt as well, but would then be written as well.
#[test]
fn a_deterministic_stream_is_learnt_and_continued() {
    let muon = ["optimizer.kind=muon"];
    for (name, changes) in [
        ("transformer", &[][..]),
        ("bk", &BK[..]),
        ("muon", &muon[..]),
    ] {
        let corner = Corner::cyclic();
        let steps = ["train.steps=150", "train.eval_every=50", "sample.tokens=40"];
        let outcome = corner.start("run", &with(changes, &steps)).unwrap();
        assert_eq!((outcome.stop, outcome.step), (Stop::Finished, 150));
        let result = outcome.result.unwrap();
        let loss = result.validation.score.loss();
        assert!(loss < 0.1, "{name}: {loss} nats a token");
        let expected: String = CYCLE.chars().cycle().skip(1).take(40).collect();
        assert_eq!(result.sample.as_deref(), Some(&expected[..]), "{name}");
        // A bigram knows this stream as well, so the baseline must be near zero, too.
        assert!(result.bigram.unwrap().nats_per_token < 0.2, "{name}");

        let device = Device::flex();
        let run = Run::open(&corner.path("run"), &device).unwrap();
        let mut pieces = String::new();
        let text = generate(
            &run.model,
            run.tokenizer().unwrap(),
            &greedy("xyz", 5),
            &device,
            &mut |piece| pieces.push_str(piece),
        );
        assert_eq!(
            (text.unwrap().as_str(), pieces.as_str()),
            ("01234", "01234")
        );
    }
}

#[test]
fn masked_tokens_are_learnt_from_both_sides() {
    let corner = Corner::cyclic();
    let changes = [
        "model.preset=resnet-bk-masked",
        "model.bk.heads=24",
        "objective.kind=masked-token",
        "train.steps=300",
        "train.eval_every=50",
        "optimizer.learning_rate=6e-3",
    ];
    let outcome = corner.start("run", &changes).unwrap();
    let result = outcome.result.unwrap();
    let evals = corner.series("run", Kind::Eval, "validation_loss");
    // Guessing is ln 36 = 3.58 nats.
    assert!(result.validation.score.loss() < 2.0, "{evals:?}");
    assert!(result.sample.is_none() && result.bigram.is_none());
    let device = Device::flex();
    let run = Run::open(&corner.path("run"), &device).unwrap();
    let error = generate(
        &run.model,
        run.tokenizer().unwrap(),
        &greedy("a", 1),
        &device,
        &mut |_| {},
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "model: this model is bidirectional: it has no left-to-right state, so it cannot generate; use a causal preset"
    );
}

#[test]
fn an_objective_that_does_not_fit_the_model_is_refused() {
    let corner = Corner::cyclic();
    for (changes, expected) in [
        (
            ["model.preset=resnet-bk-masked", "seed=1"],
            "recipe: `objective.kind` is next-token, but this model is bidirectional and would see the token it predicts",
        ),
        (
            [
                "model.preset=transformer-tiny",
                "objective.kind=masked-token",
            ],
            "recipe: `objective.kind` is masked-token, but this model is causal",
        ),
    ] {
        let error = corner.start("run", &changes).map(|_| ()).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(!corner.path("run").exists(), "a refused run left a folder");
    }
}

/// A learning rate below f32's resolution of the weights: every evaluation gives the same loss, and none is better.
#[test]
fn patience_ends_a_run_that_does_not_improve() {
    let corner = Corner::cyclic();
    let changes = [
        "optimizer.learning_rate=1e-30",
        "train.steps=1000",
        "train.eval_every=2",
        "train.patience=3",
    ];
    let outcome = corner.start("run", &changes).unwrap();
    // Step 2 is the first and best; 4, 6 and 8 are not better.
    assert_eq!((outcome.stop, outcome.step), (Stop::NoProgress, 8));
    assert_eq!(outcome.result.unwrap().best_step, 2);
}

#[test]
fn max_seconds_ends_a_run() {
    let corner = Corner::cyclic();
    let changes = [
        "train.steps=100000000",
        "train.max_seconds=0.5",
        "train.eval_every=100000",
        "schedule.kind=cosine",
        "schedule.final_fraction=0.1",
    ];
    let outcome = corner.start("run", &changes).unwrap();
    assert_eq!(outcome.stop, Stop::OutOfTime);
    let records = corner.records("run", Kind::Train);
    let last = records.last().unwrap();
    // One step of this model takes milliseconds; the machine may be busy.
    assert!((0.5..5.0).contains(&last.time_s), "{}", last.time_s);
    assert_eq!(last.step, outcome.step);
    // The schedule has decayed within the time: near its end, not near its peak.
    let rate = last.values["learning_rate"];
    assert!(rate < 0.5 * 3e-3, "the last rate is {rate}");
}

/// The train split alternates, the validation split does not: the better the first is known, the worse the second.
#[test]
fn the_best_weights_are_handed_over() {
    let text = "ab".repeat(1800) + &"aabb".repeat(50) + &"aabb".repeat(50);
    let corner = Corner::new(&text);
    let changes = ["train.eval_every=3", "train.checkpoint_every=10"];
    let outcome = corner.start("run", &changes).unwrap();
    let result = outcome.result.unwrap();
    let evals = corner.series("run", Kind::Eval, "validation_loss");
    let (best, loss) = evals
        .iter()
        .copied()
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .unwrap();
    assert_eq!(result.best_step, best, "{evals:?}");
    assert!(best < outcome.step, "{evals:?}: overfitting must show");
    let checkpoint = format!("run/checkpoints/step-{best:08}");
    let same = corner.weights("run") == corner.weights(&checkpoint);
    assert!(same, "the weights handed over are not those of step {best}");
    // The file scores what the log says of that step, and the final record says whose weights they are.
    let device = Device::flex();
    let run = Run::open(&corner.path("run"), &device).unwrap();
    let finals = corner.records("run", Kind::Final);
    assert_eq!(finals.len(), 1);
    assert_eq!(finals[0].values["best_step"], best as f64);
    let mut view = View::new(0, Mode::Plain);
    let source = Source::open(&corner.recipe(&[]).value, &corner.data(), &mut view).unwrap();
    let evaluator = Evaluator {
        objective: run.config.objective,
        vocab: run.config.model.backbone.vocab_size,
        device: &device,
    };
    let validation = source.windows(Split::Validation, 16).unwrap().unwrap();
    let windows = evaluator
        .sequential(&run.model, &validation, [4, 0])
        .unwrap();
    let score = Score::total(&windows);
    let told = finals[0].values["validation_loss"];
    assert!(
        (score.loss() / told - 1.0).abs() < 1e-6,
        "{} {told}",
        score.loss()
    );
    assert!((told - loss).abs() < 0.3, "sweep {told}, crops {loss}");
}

/// A model whose scores overflow from the first step on.
#[test]
fn skipped_steps_are_counted_and_end_the_run() {
    let corner = Corner::cyclic();
    let changes = ["model.backbone.init_std=1e38", "train.max_skipped=3"];
    let error = corner.start("run", &changes).map(|_| ()).unwrap_err();
    assert!(matches!(
        error,
        TrainError::NonFinite {
            step: 4,
            times: 4,
            allowed: 3,
            ..
        }
    ));
    assert_eq!(
        error.to_string(),
        "step 4: the loss was not finite 4 steps in a row; the last good checkpoint is kept. Try a smaller \
         `optimizer.learning_rate` or `optimizer.clip_norm`, or raise `train.max_skipped` (now 3)"
    );
    let events = corner.records("run", Kind::Event);
    let texts: Vec<&str> = events
        .iter()
        .filter_map(|event| event.text.as_deref())
        .collect();
    assert_eq!(
        texts,
        (1..=4)
            .map(|step| format!("step {step} skipped: the loss was not finite"))
            .collect::<Vec<_>>()
    );
    let all = common::records(&corner.path("run"));
    for (records, allowed, diverged) in [
        (&all[..], 3, true),
        (&all[..], 4, false),
        (&all[..all.len() - 1], 3, false),
        (&[], 3, false),
    ] {
        assert_eq!(kiln_train::has_diverged(records, allowed), diverged);
    }
    let skipped = corner.series("run", Kind::Train, "skipped");
    assert_eq!(skipped, [(1, 1.0), (2, 2.0), (3, 3.0)]);
}

#[test]
fn token_budgets_are_steps() {
    let corner = Corner::cyclic();
    // 64 tokens a step, twice accumulated: 1000 tokens are 8 steps; the shorter of both wins.
    for (steps, expected) in [("train.steps=0", 8), ("train.steps=5", 5)] {
        let out = format!("run{expected}");
        let changes = ["train.tokens=1000", "train.accumulate=2", steps];
        let outcome = corner.start(&out, &changes).unwrap();
        assert_eq!((outcome.stop, outcome.step), (Stop::Finished, expected));
        let last = corner.records(&out, Kind::Train).pop().unwrap();
        assert_eq!(last.tokens, 128 * expected);
    }
}

/// Every order of windows trains, and the one with an end says so.
#[test]
fn orders_of_windows() {
    let corner = Corner::cyclic();
    corner
        .start("shuffled", &["train.order=shuffled", "train.steps=3"])
        .unwrap();
    let error = corner.start("sequential", &["train.order=sequential", "train.steps=300"]);
    assert_eq!(
        error.map(|_| ()).unwrap_err().to_string(),
        "recipe: `train.order` is sequential, but training needs an order without end: crops, shuffled or fixed"
    );
    assert!(
        !corner.path("sequential").exists(),
        "found out before the run, not at the end of the data"
    );
}

/// Smoothing and z-loss are in the metrics as what is minimised, in the report by name, and nowhere in the losses.
#[test]
fn terms_of_the_loss_show_where_they_are() {
    let corner = Corner::cyclic();
    let terms = ["train.label_smoothing=0.1", "train.z_loss=1e-4"];
    let steps = ["train.steps=60", "train.eval_every=30"];
    corner.start("plain", &steps).unwrap();
    let outcome = corner.start("terms", &with(&terms, &steps)).unwrap();
    let report = |run: &str| std::fs::read_to_string(corner.path(run).join("report.html")).unwrap();
    let words = "cross-entropy with label smoothing 0.1 and z-loss 0.0001";
    assert!(report("terms").contains(words) && !report("plain").contains("label smoothing"));
    let told = corner.series("terms", Kind::Train, "loss");
    let minimised = corner.series("terms", Kind::Train, "objective");
    assert_eq!(told.len(), 60);
    // Both begin with the same weights, at which the loss is the same.
    assert_eq!(told[0], corner.series("plain", Kind::Train, "loss")[0]);
    for ((step, told), (_, minimised)) in told.iter().zip(&minimised).skip(20) {
        assert!(minimised > told, "step {step}: {minimised} {told}");
    }
    let plain = corner.records("plain", Kind::Train);
    assert!(
        plain
            .iter()
            .all(|record| !record.values.contains_key("objective"))
    );
    // Smoothed labels of 36 characters have an entropy of 0.66 nats, below which nothing minimised can get; what is told does.
    let loss = outcome.result.unwrap().validation.score.loss();
    assert!(loss < 0.6, "{loss}");
    for (change, expected) in [
        (
            "train.label_smoothing=1.0",
            "recipe: `train.label_smoothing` is 1, but",
        ),
        (
            "train.z_loss=-1e-4",
            "recipe: `train.z_loss` is -0.0001, but",
        ),
    ] {
        let error = corner.start("refused", &[change]).map(|_| ()).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(!corner.path("refused").exists());
    }
}

/// A run whose blocks are computed twice learns what one learns that keeps them, and dropout is refused.
#[test]
fn recomputed_runs() {
    let corner = Corner::cyclic();
    let steps = ["train.steps=6", "train.accumulate=2"];
    let losses = [("kept", "false"), ("computed", "true")].map(|(name, recompute)| {
        let recompute = format!("train.recompute={recompute}");
        let changes = [steps[0], steps[1], &recompute];
        let outcome = corner.start(name, &changes).unwrap();
        outcome.result.unwrap().validation.score.loss()
    });
    assert!((losses[0] - losses[1]).abs() < 1e-5, "{losses:?}");
    let changes = ["train.recompute=true", "model.backbone.dropout=0.1"];
    let error = corner.start("dropped", &changes).err().unwrap().to_string();
    assert!(
        error.starts_with("recipe: `train.recompute` is true, but what is computed twice would be dropped differently"),
        "{error}"
    );
}

/// It counts no more tokens than the run has, and is scored on its windows.
#[test]
fn counting_is_a_run() {
    let corner = Corner::cyclic();
    let trained = ["train.sweep_windows=9", "train.steps=6"];
    corner.start("trained", &trained).unwrap();
    let count = |out: &str, order, changes: &[&str]| {
        kiln_train::count(NgramRequest {
            recipe: corner.recipe(changes),
            order,
            out: corner.path(out),
            data: &corner.data(),
            source: &corner.path("."),
            versions: Default::default(),
            view: Mode::Plain,
        })
    };
    let run = count("counted", 3, &trained).unwrap();
    assert_eq!(
        (run.tokens, run.order, run.counted_order),
        (6 * 4 * 16, 3, 3)
    );
    // One gram of each length for every character, and a shorter one or two at the beginning of the text.
    assert!((3 * 36..3 * 36 + 3).contains(&run.counts), "{}", run.counts);
    let folder = RunFolder::open(corner.path("counted")).unwrap();
    assert_eq!(read_ngram(&folder).unwrap(), Some(run));
    let [own, of_model] = ["counted", "trained"].map(|run| {
        let text = std::fs::read(corner.path(run).join("windows.json")).unwrap();
        serde_json::from_slice::<WindowScores>(&text)
            .unwrap()
            .validation
    });
    assert_eq!((own.tokens.len(), &own.tokens), (9, &of_model.tokens));
    let nats: f64 = own.nats.iter().map(|nats| f64::from(*nats)).sum();
    let loss = corner.series("counted", Kind::Final, "validation_loss")[0].1;
    assert!((nats / 144.0 - loss).abs() < 1e-6 && loss < 0.2, "{loss}");
    // Three tokens are two that are seen: more context changes nothing, less does.
    let sliding = [
        "train.sweep_windows=9",
        "train.contexts=[1, 2, 16]",
        "train.context_stride=1",
    ];
    count("sliding", 3, &sliding).unwrap();
    let loss = |context: usize| {
        let key = format!("validation_loss_context_{context}");
        corner.series("sliding", Kind::Final, &key)[0].1
    };
    assert!((loss(2) - loss(16)).abs() < 1e-12 && loss(1) > 1.01 * loss(2));
    let whole = count("whole", 3, &["train.steps=100000"]).unwrap();
    assert!(whole.tokens > 3000 && whole.tokens < 36 * 120);
    for (changes, expected) in [
        (&["task.mqar.pairs=4"][..], "n-grams count text"),
        (
            &["model.preset=fnet-masked", "objective.kind=masked-token"],
            "predict the next token",
        ),
    ] {
        let error = count("refused", 2, changes).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!corner.path("refused").exists());
    }
    // A finished run is not written over, nor a trained one; a count that was cut off is made anew.
    assert!(count("counted", 3, &trained).is_err() && count("trained", 3, &trained).is_err());
    std::fs::remove_file(corner.path("counted/ngram.json")).unwrap();
    assert_eq!(count("counted", 3, &trained).unwrap().tokens, 6 * 4 * 16);
}
