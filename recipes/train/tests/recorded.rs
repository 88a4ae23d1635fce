//! Updates whose passes are recorded are those whose launches are given one by one, on the backend of `KILN_TEST_BACKEND`.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

use burn::tensor::Device;
use kiln_loader::TokenBatch;
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
}
