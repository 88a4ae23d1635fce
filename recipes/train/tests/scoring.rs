//! What a batch asks for on the device, and that a score does not depend on how windows are batched.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use kiln_text::{Loader, LoaderConfig, Order, TokenStore};
use kiln_train::{DeviceBatch, Evaluator, Objective, ObjectiveKind};
use kiln_zoo::ModelConfig;

const VOCAB: usize = 32;

/// Position i's target is token i + 1 of the same lane, on the device.
#[test]
fn targets_are_the_next_tokens() {
    let tokens: Vec<u32> = (0..1000).collect();
    let store = Arc::new(TokenStore::from_tokens(tokens, 1000, 1000).unwrap());
    for order in [Order::Crops, Order::Shuffled, Order::Sequential] {
        let config = LoaderConfig {
            batch: 5,
            seq: 9,
            order,
            seed: 3,
        };
        let mut loader = Loader::new(Arc::clone(&store), config).unwrap();
        let mut counted = 0;
        for _ in 0..30 {
            let Some(batch) = loader.next_batch() else {
                break;
            };
            let on_device = DeviceBatch::new(&batch, &Device::flex());
            assert_eq!(on_device.inputs.dims(), [5, 9]);
            let ids = |tensor: Tensor<2, burn::tensor::Int>| -> Vec<i64> {
                tensor.into_data().iter::<i64>().collect()
            };
            let (inputs, targets) = (ids(on_device.inputs), ids(on_device.targets));
            let mask: Vec<f32> = match on_device.mask {
                Some(mask) => mask.into_data().iter::<f32>().collect(),
                None => vec![1.0; 45],
            };
            for i in 0..45 {
                assert_eq!(mask[i] == 1.0, batch.mask[i]);
                if mask[i] == 1.0 {
                    counted += 1;
                    // In this stream the token after n is n + 1.
                    assert_eq!(targets[i], inputs[i] + 1, "{order:?} at {i}");
                }
                if mask[i] == 1.0 && i % 9 > 0 {
                    assert_eq!(inputs[i], targets[i - 1], "{order:?} lane of {i}");
                }
            }
        }
        if order == Order::Sequential {
            assert_eq!(counted, 999, "every token but the first is a target once");
        }
    }
}

#[test]
fn evaluation_does_not_depend_on_the_batch() {
    // 1 + 77 * 16 + 5 tokens: the last window is short, and no batch size below divides the windows.
    let tokens: Vec<u32> = (0..1238_u64).map(|i| (i * i % 31) as u32).collect();
    let store = Arc::new(TokenStore::from_tokens(tokens, 1238, VOCAB as u32).unwrap());
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
        let score = |batch| {
            evaluator
                .sequential(&model, &store, [batch, 16, 0])
                .unwrap()
        };
        let one = score(1);
        match next_token {
            true => assert_eq!(one.tokens, 1237, "{preset}"),
            // Each of the 78 windows masks its own tokens, at least one.
            false => assert!((78..400).contains(&one.tokens), "{preset}: {}", one.tokens),
        }
        for batch in [7, 32] {
            let many = score(batch);
            assert_eq!(many.tokens, one.tokens, "{preset}");
            let relative = (many.loss() / one.loss() - 1.0).abs();
            assert!(relative <= 1e-6, "{preset} at batch {batch}: {relative:e}");
        }
        // A limit counts windows, whatever the batch.
        for batch in [1, 4, 32] {
            let some = evaluator
                .sequential(&model, &store, [batch, 16, 10])
                .unwrap();
            let expected = evaluator.sequential(&model, &store, [10, 16, 10]).unwrap();
            assert_eq!(some.tokens, expected.tokens, "{preset} at batch {batch}");
            if next_token {
                assert_eq!(some.tokens, 160, "{preset} at batch {batch}");
            }
        }
    }
}
