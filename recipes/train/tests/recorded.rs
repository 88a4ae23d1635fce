//! Updates whose passes are recorded are those whose launches are given one by one, on the backend of `KILN_TEST_BACKEND`.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

mod common;

use burn::tensor::Device;
use common::{Corner, STUDENT, with};
use kiln_loader::TokenBatch;
use kiln_run::Kind;
use kiln_train::{Learner, Loss, OptimizerConfig, RecordedPasses};
use kiln_zoo::ModelConfig;

const VOCAB: usize = 32;
const SEQ: usize = 24;

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
        other => panic!("KILN_TEST_BACKEND={other:?} was not compiled in"),
    }
}

/// Whether steps are recorded there.
fn records() -> bool {
    matches!(std::env::var("KILN_TEST_BACKEND").as_deref(), Ok("cuda"))
}

/// Tokens of a step; `counted` of every sequence's targets count.
fn batch(step: u64, counted: usize) -> TokenBatch {
    let lanes = 3;
    let mut state = step * 7 + 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(7);
        ((state >> 40) % VOCAB as u64) as u32
    };
    let tokens: Vec<u32> = (0..=lanes * SEQ).map(|_| next()).collect();
    TokenBatch {
        batch: lanes,
        seq: SEQ,
        inputs: tokens[..lanes * SEQ].to_vec(),
        targets: tokens[1..].to_vec(),
        mask: (0..lanes * SEQ).map(|at| at % SEQ < counted).collect(),
    }
}

/// Losses and norms of some updates, and what was said of recordings.
fn losses(
    preset: &str,
    steps: &[(usize, usize)],
    recorded: bool,
    recompute: bool,
) -> (Vec<[f64; 2]>, Vec<String>) {
    let device = device().autodiff();
    let mut config = ModelConfig::preset(preset).unwrap();
    config.backbone.vocab_size = VOCAB;
    let model = config.init(11, &device).unwrap();
    let optimizer = OptimizerConfig::default().init(&model);
    let mut learner = Learner {
        recorded: RecordedPasses::new(recorded),
        recompute,
        ..Learner::new(model, optimizer)
    };
    let (mut found, mut news) = (Vec::new(), Vec::new());
    for (step, &(micro, counted)) in steps.iter().enumerate() {
        let batches: Vec<_> = (0..micro as u64)
            .map(|at| batch(step as u64 * 10 + at, counted))
            .collect();
        // AdamW divides by the root of a square: where gradients are zero but for rounding, a large rate makes rounding large.
        let rate = 2e-5 * (1.0 + step as f64);
        let (next, update) = learner
            .update(&batches, &mut Loss::CrossEntropy, rate, 1.0, &device)
            .unwrap();
        learner = next;
        found.push([update.loss, update.grad_norm]);
        news.extend(learner.recorded.take_news());
    }
    (found, news)
}

fn compare(preset: &str, steps: &[(usize, usize)], recompute: bool, recordings: usize) {
    let (plain, silent) = losses(preset, steps, false, recompute);
    let (recorded, news) = losses(preset, steps, true, recompute);
    assert_eq!(silent, Vec::<String>::new());
    let said = news.iter().filter(|news| news.contains("are recorded"));
    match records() {
        true => assert_eq!(said.count(), recordings, "{news:?}"),
        false => assert_eq!(news, Vec::<String>::new()),
    }
    for (step, (plain, recorded)) in plain.iter().zip(&recorded).enumerate() {
        for (plain, recorded) in plain.iter().zip(recorded) {
            // Rows of an embedding's gradient are added up in no fixed order on some devices.
            let bound = 1e-5 * plain.abs();
            assert!(
                (plain - recorded).abs() <= bound,
                "{preset}, step {step}: {plain} and {recorded}"
            );
        }
    }
}

/// What a run notes with its passes recorded, and without: the same losses.
fn compare_runs(corner: &Corner, changes: &[&str], noted: &[&str]) {
    let run = |name: &str, graph: &str| {
        corner.finish(name, &with(changes, &["train.steps=16", graph]));
        let series = |key: &&str| corner.series(name, Kind::Train, key);
        noted.iter().map(series).collect::<Vec<_>>()
    };
    let plain = run("plain", "train.graph=false");
    let recorded = run("recorded", "train.graph=true");
    for (plain, recorded) in plain.iter().zip(&recorded) {
        assert_eq!(plain.len(), 16);
        for ((step, plain), (_, recorded)) in plain.iter().zip(recorded) {
            // Sums are of no fixed order on some devices, and steps follow from steps.
            let bound = 1e-4 * plain.abs();
            assert!(
                (plain - recorded).abs() <= bound,
                "{changes:?}, step {step}: {plain} and {recorded}"
            );
        }
    }
}

/// The same of a student. A recording has no time of the teacher's.
fn compare_taught(student: &[&str]) {
    let (corner, teacher) = Corner::cyclic().on(device()).with_teacher();
    let changes = with(&with(&STUDENT, student), &[&teacher]);
    let noted = ["loss", "distill_loss", "objective", "grad_norm"];
    compare_runs(&corner, &changes, &noted);
    let last = |name: &str| corner.records(name, Kind::Train).pop().unwrap();
    let is_timed = |name: &str| last(name).values.contains_key("teacher_tokens_per_s");
    assert!(is_timed("plain"));
    assert_eq!(is_timed("recorded"), !records());
}

/// One test, for tensors that another thread has made are another stream's, and a recording waits for none: tables of positions are
/// kept from one case to the next.
#[test]
fn recorded_updates_are_those_given_launch_by_launch() {
    for preset in ["transformer-tiny", "resolvent-tiny", "resnet-bk-tiny"] {
        compare(preset, &[(1, SEQ); 7], false, 1);
    }
    // Several batches with masks; blocks that are computed again.
    compare("transformer-tiny", &[(2, 5); 6], false, 1);
    compare("resolvent-tiny", &[(1, SEQ); 6], true, 1);
    // A batch of another shape is given launch by launch, and recorded if there are more of its kind.
    let steps = [SEQ, SEQ, SEQ, SEQ, 5, SEQ, 5, 5, 5, 5].map(|counted| (1, counted));
    compare("transformer-tiny", &steps, false, 2);
    // A teacher's answers, and what its layers say, are recorded with the student's passes.
    compare_taught(&["distill.weight=0.7"]);
    compare_taught(&["distill.top_k=4"]);
    compare_taught(&[
        "distill.features.kind=hidden",
        "distill.features.layers=[1]",
    ]);
    let other = "model.preset=resolvent-tiny";
    let mixers = ["model.backbone.n_layers=2", "distill.features.kind=mixers"];
    compare_taught(&with(&[other, "model.resolvent.d_key=8"], &mixers));
    // Weights that are computed with as they will be packed, with steps that are learned too.
    let learned = ["quantize.symmetric=true", "quantize.learned=true"];
    for more in [&[][..], &learned] {
        let rounded = ["quantize.encoding=int4", "quantize.group=32"];
        let corner = Corner::cyclic().on(device());
        compare_runs(&corner, &with(&rounded, more), &["loss", "grad_norm"]);
    }
}
