//! What a batch asks for on the device, and that a score does not depend on how windows are batched.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor};
use kiln_loader::{Loader, LoaderConfig, Order, Windows};
use kiln_text::{TextWindows, TokenStore};
use kiln_train::{DeviceBatch, Evaluator, Objective, ObjectiveKind, Score};
use kiln_zoo::ModelConfig;

const VOCAB: usize = 32;

/// Position i's target is token i + 1 of the same lane, on the device.
#[test]
fn targets_are_the_next_tokens() {
    let tokens: Vec<u32> = (0..1000).collect();
    let windows = windows(tokens, 1000, 9);
    for order in [Order::Crops, Order::Shuffled, Order::Sequential] {
        let config = LoaderConfig {
            batch: 5,
            order,
            seed: 3,
        };
        let mut loader = Loader::new(Arc::clone(&windows), config).unwrap();
        let mut counted = 0;
        for _ in 0..30 {
            let Some(batch) = loader.next_batch() else {
                break;
            };
            let on_device = DeviceBatch::new(&batch, &Device::flex());
            assert_eq!(on_device.inputs.dims(), [5, 9]);
            let ids =
                |tensor: Tensor<1, Int>| -> Vec<i64> { tensor.into_data().iter::<i64>().collect() };
            let inputs = ids(on_device.inputs.flatten(0, 1));
            let targets = ids(on_device.targets);
            let places = match on_device.places {
                Some(places) => ids(places),
                None => (0..45).collect(),
            };
            let expected: Vec<_> = (0..45).filter(|i| batch.mask[*i as usize]).collect();
            assert_eq!(places, expected);
            counted += places.len();
            for (&place, target) in places.iter().zip(targets) {
                // In this stream the token after n is n + 1.
                let input = inputs[place as usize];
                assert_eq!(target, input + 1, "{order:?} at {place}");
                if place % 9 < 8 && places.contains(&(place + 1)) {
                    assert_eq!(
                        inputs[place as usize + 1],
                        target,
                        "{order:?} after {place}"
                    );
                }
            }
        }
        if order == Order::Sequential {
            assert_eq!(counted, 999, "every token but the first is a target once");
        }
    }
}

fn windows(tokens: Vec<u32>, vocab: u32, seq: usize) -> Arc<dyn Windows> {
    let bytes = tokens.len() as u64;
    let store = TokenStore::from_tokens(tokens, bytes, vocab).unwrap();
    Arc::new(TextWindows::new(Arc::new(store), seq).unwrap())
}

#[test]
fn evaluation_does_not_depend_on_the_batch() {
    // 1 + 77 * 16 + 5 tokens: the last window is short, and no batch size below divides the windows.
    let tokens: Vec<u32> = (0..1238_u64).map(|i| (i * i % 31) as u32).collect();
    let windows = windows(tokens, VOCAB as u32, 16);
    let device = Device::flex();
    for (preset, kind) in [
        ("transformer-tiny", ObjectiveKind::NextToken),
        ("resnet-bk-tiny", ObjectiveKind::NextToken),
        ("resnet-bk-masked", ObjectiveKind::MaskedToken),
        ("transformer-masked", ObjectiveKind::MaskedToken),
        ("fnet-masked", ObjectiveKind::MaskedToken),
    ] {
        let mut config = ModelConfig::preset(preset).unwrap();
        config.backbone.vocab_size = VOCAB;
        let model = config.init(3, &device).unwrap();
        let next_token = kind == ObjectiveKind::NextToken;
        let evaluator = Evaluator {
            objective: Objective {
                kind,
                ..Objective::default()
            },
            vocab: VOCAB,
            device: &device,
        };
        let score = |batch, most| {
            let all = evaluator.sequential(&model, &windows, [batch, most]);
            let all = all.unwrap();
            assert_eq!(all.len(), if most == 0 { 78 } else { most }, "{preset}");
            Score::total(&all)
        };
        let one = score(1, 0);
        match next_token {
            true => assert_eq!(one.tokens, 1237, "{preset}"),
            // Each of the 78 windows masks its own tokens, at least one.
            false => assert!((78..400).contains(&one.tokens), "{preset}: {}", one.tokens),
        }
        for batch in [7, 32] {
            let many = score(batch, 0);
            assert_eq!(many.tokens, one.tokens, "{preset}");
            assert_eq!(many.correct, one.correct, "{preset}");
            let relative = (many.loss() / one.loss() - 1.0).abs();
            assert!(relative <= 1e-6, "{preset} at batch {batch}: {relative:e}");
        }
        // A limit counts windows, whatever the batch.
        for batch in [1, 4, 32] {
            let some = score(batch, 10);
            assert_eq!(
                some.tokens,
                score(10, 10).tokens,
                "{preset} at batch {batch}"
            );
            if next_token {
                assert_eq!(some.tokens, 160, "{preset} at batch {batch}");
            }
        }
    }
}
