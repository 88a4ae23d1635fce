//! One update at a time: what it learns, how it accumulates, clips, and refuses what is not finite.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

mod common;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use common::{distance, values};
use kiln_loader::TokenBatch;
use kiln_train::{Learner, Loss, LossTerms, OptimizerConfig, OptimizerKind, Update};
use kiln_zoo::ModelConfig;

const VOCAB: usize = 32;

fn device() -> Device {
    Device::flex().autodiff()
}

fn config(preset: &str) -> ModelConfig {
    let mut config = ModelConfig::preset(preset).unwrap();
    config.backbone.vocab_size = VOCAB;
    config
}

fn learner(config: &ModelConfig, optimizer: &OptimizerConfig) -> Learner {
    let model = config.init(11, &device()).unwrap();
    let optimizer = optimizer.init(&model);
    Learner::new(model, optimizer)
}

/// Lanes of pseudo-random tokens; lane i has `lengths[i]` targets and padding after them.
fn batch(seq: usize, lengths: &[usize]) -> TokenBatch {
    let mut state = 99_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(7);
        ((state >> 40) % VOCAB as u64) as u32
    };
    let mut all = TokenBatch {
        batch: 0,
        seq,
        inputs: vec![],
        targets: vec![],
        mask: vec![],
    };
    for &length in lengths {
        let window: Vec<u32> = (0..=seq).map(|_| next()).collect();
        let real = |i: usize, token: u32| if i < length { token } else { 0 };
        all.batch += 1;
        all.inputs.extend((0..seq).map(|i| real(i, window[i])));
        all.targets.extend((0..seq).map(|i| real(i, window[i + 1])));
        all.mask.extend((0..seq).map(|i| i < length));
    }
    all
}

/// The same lanes in `parts` batches.
fn split(batch: &TokenBatch, parts: usize) -> Vec<TokenBatch> {
    let lanes = batch.batch / parts;
    let size = lanes * batch.seq;
    (0..parts)
        .map(|part| {
            let at = part * size..(part + 1) * size;
            TokenBatch {
                batch: lanes,
                seq: batch.seq,
                inputs: batch.inputs[at.clone()].to_vec(),
                targets: batch.targets[at.clone()].to_vec(),
                mask: batch.mask[at].to_vec(),
            }
        })
        .collect()
}

fn update(learner: Learner, batches: &[TokenBatch], rate: f64, clip: f64) -> (Learner, Update) {
    let loss = &mut Loss::CrossEntropy;
    learner
        .update(batches, loss, rate, clip, &device())
        .unwrap()
}

#[test]
fn both_models_overfit_one_batch() {
    let batch = [batch(32, &[32; 4])];
    for preset in ["transformer-tiny", "resnet-bk-tiny"] {
        let mut learner = learner(&config(preset), &OptimizerConfig::default());
        let mut losses = Vec::new();
        for _ in 0..400 {
            let update;
            (learner, update) = self::update(learner, &batch, 3e-3, 1.0);
            assert_eq!(update.skipped, None);
            losses.push(update.loss);
            if update.loss < 0.05 {
                break;
            }
        }
        // Uniform guessing over 32 tokens is ln 32 = 3.47 nats.
        assert!((losses[0] - 3.47).abs() < 0.3, "{preset}: {}", losses[0]);
        let last = losses[losses.len() - 1];
        assert!(last < 0.05, "{preset}: {last} after {}", losses.len());
    }
}

#[test]
fn muon_overfits_one_batch_too() {
    let batch = [batch(16, &[16; 4])];
    let optimizer = OptimizerConfig {
        kind: OptimizerKind::Muon,
        ..OptimizerConfig::default()
    };
    for preset in ["transformer-tiny", "resnet-bk-tiny"] {
        let mut learner = learner(&config(preset), &optimizer);
        let mut loss = f64::MAX;
        for _ in 0..300 {
            let update;
            (learner, update) = self::update(learner, &batch, 3e-3, 1.0);
            loss = update.loss;
            if loss < 0.05 {
                break;
            }
        }
        assert!(loss < 0.05, "{preset}: {loss}");
    }
}

/// 4 x 8 is 1 x 32, with and without padding. With padding the four batches have different numbers of tokens, so means of
/// means would differ. AdamW's epsilon is large here, so that an update is proportional to its gradient: at the usual one
/// it is nearly its sign, which round-off can flip.
#[test]
fn accumulation_weighs_tokens() {
    let optimizer = OptimizerConfig {
        epsilon: 1.0,
        ..OptimizerConfig::default()
    };
    let padded: Vec<usize> = (0..32).map(|lane| 1 + lane * 15 / 31).collect();
    for (what, lengths) in [("full", vec![16; 32]), ("padded", padded)] {
        let whole = batch(16, &lengths);
        let parts = split(&whole, 4);
        for preset in ["transformer-tiny", "resnet-bk-tiny"] {
            let config = config(preset);
            let before = values(&learner(&config, &optimizer).model);
            let run = |batches: &[TokenBatch]| {
                let (learner, done) = update(learner(&config, &optimizer), batches, 1.0, 0.0);
                (values(&learner.model), done)
            };
            let (one, one_update) = run(std::slice::from_ref(&whole));
            let (four, four_update) = run(&parts);
            assert_eq!(one_update.tokens, lengths.iter().sum::<usize>() as u64);
            assert_eq!(one_update.tokens, four_update.tokens);
            let relative = |a: f64, b: f64| (a / b - 1.0).abs();
            assert!(relative(one_update.loss, four_update.loss) < 1e-5);
            let norms = (one_update.grad_norm, four_update.grad_norm);
            assert!(
                relative(norms.0, norms.1) < 1e-5,
                "{preset} {what}: {norms:?}"
            );
            let moved = distance(&one, &before);
            let apart = distance(&one, &four);
            assert!(moved > 1e-2, "{preset} {what}: moved by {moved} only");
            assert!(apart < 1e-5 * moved, "{preset} {what}: {apart} of {moved}");
            if what == "padded" {
                // The test can tell: batches weighted alike give another loss.
                let alone = |part: &TokenBatch| run(std::slice::from_ref(part)).1.loss;
                let unweighted = parts.iter().map(alone).sum::<f64>() / 4.0;
                assert!(relative(unweighted, one_update.loss) > 1e-4, "{preset}");
            }
        }
    }
}

/// What stands in the padding does not matter.
#[test]
fn padding_has_no_gradient() {
    let clean = batch(16, &[16, 3, 9, 1]);
    let mut dirty = clean.clone();
    for (i, real) in clean.mask.iter().enumerate() {
        if !real {
            (dirty.inputs[i], dirty.targets[i]) = (5, 9);
        }
    }
    for preset in ["transformer-tiny", "resnet-bk-tiny"] {
        let run = |batch: &TokenBatch| {
            let learner = learner(&config(preset), &OptimizerConfig::default());
            let (learner, done) = update(learner, std::slice::from_ref(batch), 1e-3, 0.0);
            (values(&learner.model), done.loss, done.grad_norm)
        };
        let (clean, dirty) = (run(&clean), run(&dirty));
        assert!((clean.1 / dirty.1 - 1.0).abs() < 1e-6, "{preset}");
        assert!((clean.2 / dirty.2 - 1.0).abs() < 1e-5, "{preset}");
    }
}

/// With betas of 0 and an epsilon far above the gradient, AdamW's update is rate / epsilon times the gradient, so that
/// the weights show what arrived at the optimizer.
#[test]
fn clipping_bounds_the_global_norm_and_keeps_the_direction() {
    let optimizer = OptimizerConfig {
        betas: [0.0, 0.0],
        epsilon: 1e6,
        weight_decay: 0.0,
        ..OptimizerConfig::default()
    };
    let batch = [batch(16, &[16; 4])];
    for preset in ["transformer-tiny", "resnet-bk-tiny"] {
        let config = config(preset);
        let before = values(&learner(&config, &optimizer).model);
        let step = |clip: f64| {
            let (learner, done) = update(learner(&config, &optimizer), &batch, 1e6, clip);
            (values(&learner.model), done)
        };
        let (free, unclipped) = step(0.0);
        let norm = unclipped.grad_norm;
        // Weights of 0.02 hold differences to 1e-9, and there are 1e5 of them.
        let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-3;
        assert!(
            close(distance(&free, &before), norm),
            "{preset}: norm {norm}"
        );
        let (loose, _) = step(norm * 1.01);
        assert_eq!(free, loose, "{preset}: clipped below its bound");
        for share in [0.5, 0.1] {
            let (clipped, done) = step(share * norm);
            assert_eq!(
                done.grad_norm, norm,
                "{preset}: the norm before clipping is told"
            );
            let moved = distance(&clipped, &before);
            assert!(close(moved, share * norm), "{preset}: {moved} at {share}");
            // Same direction: what is left to the free step is 1 - share of it.
            let left = distance(&clipped, &free);
            assert!(close(left, (1.0 - share) * norm), "{preset}: {left}");
        }
    }
}

/// Where the factor of clipping stays on the device, the update is the same: with and without clipping, over several steps and
/// batches, and with steps in between that are left out.
#[test]
fn updates_ahead_of_the_device_are_the_same() {
    let parts = split(&batch(16, &[16, 9, 4, 12]), 2);
    let mut config = config("transformer-tiny");
    config.backbone.tie_embeddings = false;
    for clip in [0.0, 0.05, 1e3] {
        let run = |ahead: bool, lost: bool| {
            let mut learner = learner(&config, &OptimizerConfig::default());
            if ahead {
                learner.optimizer = learner.optimizer.ahead();
            }
            let mut told = Vec::new();
            for step in 0..4 {
                if lost && step == 2 {
                    let head = blow_head(learner.model.clone(), 1e25);
                    let model = std::mem::replace(&mut learner.model, head);
                    let blown = values(&learner.model);
                    // A rate that is no number would spoil all weights, were the step not left out.
                    let (after, done) = update(learner, &parts, f64::NAN, clip);
                    assert_eq!(done.skipped, Some("the gradient norm"), "{done:?}");
                    assert_eq!(values(&after.model), blown);
                    learner = Learner { model, ..after };
                }
                let (next, done) = update(learner, &parts, 1e-3, clip);
                assert_eq!(done.skipped, None, "{done:?}");
                told.push((done.loss, done.grad_norm));
                learner = next;
            }
            (values(&learner.model), told)
        };
        let start = values(&learner(&config, &OptimizerConfig::default()).model);
        let ((expected, told), (found, told_ahead)) = (run(false, false), run(true, false));
        assert_eq!(told[0].0, told_ahead[0].0);
        for ((loss, norm), (loss_ahead, norm_ahead)) in told.iter().zip(&told_ahead) {
            assert!(
                (loss / loss_ahead - 1.0).abs() < 1e-5,
                "{loss} {loss_ahead}"
            );
            assert!(
                (norm / norm_ahead - 1.0).abs() < 1e-4,
                "{norm} {norm_ahead}"
            );
        }
        let (moved, apart) = (distance(&expected, &start), distance(&expected, &found));
        assert!(apart < 1e-3 * moved, "clip {clip}: {apart} of {moved}");
        let (with_lost, _) = run(true, true);
        assert_eq!(
            found, with_lost,
            "clip {clip}: a step that was left out counts"
        );
    }
}

/// Multiplies all weights of the head.
struct Blow(f64);

impl ModuleMapper for Blow {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let factor = self.0;
        param.map(|tensor| {
            let device = tensor.device();
            Tensor::from_data((tensor * factor).into_data(), &device).require_grad()
        })
    }
}

#[test]
fn what_is_not_finite_is_left_out_and_named() {
    let batch = [batch(16, &[16; 2])];
    let mut config = config("transformer-tiny");
    config.backbone.tie_embeddings = false;
    for (factor, what) in [
        (f64::NAN, "the loss"),
        (f64::INFINITY, "the loss"),
        // Scores of 1e25 have a finite loss, and gradients whose squares are above f32.
        (1e25, "the gradient norm"),
    ] {
        for ahead in [false, true] {
            let mut learner = learner(&config, &OptimizerConfig::default());
            if ahead {
                learner.optimizer = learner.optimizer.ahead();
            }
            match what {
                "the loss" => learner.model = learner.model.map(&mut Blow(factor)),
                _ => learner.model = blow_head(learner.model, factor),
            }
            let bits = |learner: &Learner| -> Vec<u32> {
                values(&learner.model)
                    .iter()
                    .flatten()
                    .map(|x| x.to_bits())
                    .collect()
            };
            let before = bits(&learner);
            let (after, done) = update(learner, &batch, 1e-3, 1.0);
            assert_eq!(done.skipped, Some(what), "factor {factor}: {done:?}");
            assert_eq!(done.tokens, 32);
            assert_eq!(
                bits(&after),
                before,
                "factor {factor}: a skipped update moved weights"
            );
        }
    }
}

fn blow_head(model: kiln_zoo::LanguageModel, factor: f64) -> kiln_zoo::LanguageModel {
    struct Head {
        inside: bool,
        blow: Blow,
    }
    impl ModuleMapper for Head {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.inside |= name == "head";
        }
        fn exit_module(&mut self, name: &str, _container: &str) {
            self.inside &= name != "head";
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            match self.inside {
                true => self.blow.map_float(param),
                false => param,
            }
        }
    }
    model.map(&mut Head {
        inside: false,
        blow: Blow(factor),
    })
}

/// The loss that is told stays plain cross-entropy, what is minimised is more, and gradients accumulate as without.
#[test]
fn terms_are_minimised_and_not_told() {
    let config = config("transformer-tiny");
    let optimizer = OptimizerConfig::default();
    let whole = batch(16, &[16, 9, 16, 3]);
    let with = |terms: LossTerms, batches: &[TokenBatch]| {
        let learner = Learner {
            terms,
            ..learner(&config, &optimizer)
        };
        update(learner, batches, 1e-3, 0.0)
    };
    let batches = [whole.clone()];
    let (plain, told) = with(LossTerms::default(), &batches);
    assert_eq!(told.objective, told.loss);
    for terms in [
        LossTerms {
            label_smoothing: 0.2,
            z_loss: 0.0,
        },
        LossTerms {
            label_smoothing: 0.0,
            z_loss: 0.1,
        },
    ] {
        let (after, found) = with(terms, &batches);
        assert_eq!(found.loss, told.loss);
        // Scores are small: log Z is a little above ln 32, and the mean score about that of a target.
        let z_loss = terms.z_loss * (VOCAB as f64).ln().powi(2);
        let added = found.objective - found.loss;
        assert!((added - z_loss).abs() < 0.1, "{terms:?}: {added}");
        assert_ne!(found.grad_norm, told.grad_norm);
        let (after, plain) = (values(&after.model), values(&plain.model));
        assert!(distance(&after, &plain) > 1e-3, "{terms:?}");
        let (accumulated, parts) = with(terms, &split(&whole, 2));
        assert!((parts.objective / found.objective - 1.0).abs() < 1e-6);
        assert!((parts.grad_norm / found.grad_norm - 1.0).abs() < 1e-5);
        let off = distance(&values(&accumulated.model), &after);
        assert!(off < 1e-4, "{terms:?}: {off}");
    }
}

/// Blocks that are computed twice give the gradients of those that are kept, whatever their mixer, head and precision of weights.
#[test]
fn recomputed_blocks_give_the_same_update() {
    let batches = [batch(16, &[16, 9]), batch(16, &[16, 16])];
    for (preset, tied) in [
        ("transformer-tiny", true),
        ("transformer-tiny", false),
        ("resnet-bk-tiny", true),
        ("resolvent-tiny", true),
    ] {
        let mut config = config(preset);
        config.backbone.tie_embeddings = tied;
        let run = |recompute| {
            let mut learner = learner(&config, &OptimizerConfig::default());
            learner.recompute = recompute;
            let mut last = None;
            for _ in 0..3 {
                let (next, update) = update(learner, &batches, 1e-2, 1.0);
                (learner, last) = (next, Some((update.loss, update.grad_norm)));
            }
            (values(&learner.model), last.unwrap())
        };
        let (kept, (loss, norm)) = run(false);
        let (computed, (loss_again, norm_again)) = run(true);
        assert!(
            (loss - loss_again).abs() < 1e-6,
            "{preset}: {loss} {loss_again}"
        );
        assert!(
            (norm / norm_again - 1.0).abs() < 1e-5,
            "{preset}: {norm} {norm_again}"
        );
        let moved = distance(
            &kept,
            &values(&learner(&config, &OptimizerConfig::default()).model),
        );
        let apart = distance(&kept, &computed);
        // Adam's steps have the size of the rate however small a gradient is, and with it its rounding.
        assert!(apart < 1e-3 * moved, "{preset}: {apart} of {moved}");
    }
}
