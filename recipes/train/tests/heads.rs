//! The loss of every kind of head: that of its scores, which only a head of one matrix goes without.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use kiln_backbone::{Embedding, Factorised, PackedWeight, Rows, Weight};
use kiln_fused::{LossOptions, cross_entropy_sum};
use kiln_loader::TokenBatch;
use kiln_quant::{Encoding, FloatType, PackedFormat, PackedMatrix};
use kiln_train::{DeviceBatch, LossTerms, global_norm};
use kiln_zoo::{LanguageModel, ModelConfig};

const VOCAB: usize = 64;

fn model(tied: bool) -> LanguageModel {
    let mut config = ModelConfig::preset("transformer-tiny").unwrap();
    config.backbone.vocab_size = VOCAB;
    config.backbone.tie_embeddings = tied;
    config.init(3, &Device::flex().autodiff()).unwrap()
}

/// Levels without meaning, `[d_input, VOCAB]`.
fn levels(d_input: usize) -> PackedMatrix {
    let format = PackedFormat {
        encoding: Encoding::Int4,
        asymmetric: false,
        d_input,
        d_output: VOCAB,
        group: d_input,
        scales: FloatType::F16,
    };
    let levels: Vec<i16> = (0..d_input * VOCAB).map(|at| (at % 7) as i16 - 3).collect();
    PackedMatrix::pack(format, &levels, &[0.03; VOCAB], None).unwrap()
}

/// Models with every kind of head, and whether it is one matrix.
fn heads() -> Vec<(&'static str, LanguageModel, bool)> {
    let device = Device::flex().autodiff();
    let mut all = vec![("tied", model(true), true), ("own", model(false), true)];
    let [_, d_model] = all[0].1.embedding().dims();
    let mut packed = model(true);
    let rows = PackedWeight::new(&levels(d_model), &device);
    *packed.embedding_mut() = Embedding::Rows(Rows::Packed(rows));
    all.push(("packed", packed, false));
    let mut factorised = model(true);
    let rows = factorised.embedding().dense().inner();
    let leaf = |x: Tensor<2>| Param::from_tensor(Tensor::from_inner(x));
    *factorised.embedding_mut() = Embedding::Factorised(Factorised {
        rows: Rows::Dense(leaf(rows.clone().narrow(1, 0, 5))),
        up: leaf(rows.narrow(0, 0, 5)),
    });
    all.push(("factorised", factorised, false));
    let mut own = model(false);
    if let Some((_, head)) = own.linears_mut().pop() {
        head.weight = Weight::packed(&levels(d_model), &device);
    }
    all.push(("own and packed", own, false));
    all
}

/// Whatever the head is, the loss and its gradients are those of the scores; only a head that is one matrix goes without them.
#[test]
fn every_head_has_the_loss_of_its_scores() {
    let device = Device::flex().autodiff();
    let batch = TokenBatch {
        batch: 2,
        seq: 5,
        inputs: (0..10).map(|i| 3 * i % VOCAB as u32).collect(),
        targets: (0..10).map(|i| (3 * i + 3) % VOCAB as u32).collect(),
        mask: (0..10).map(|i| i % 4 != 1).collect(),
    };
    for (name, model, one_matrix) in heads() {
        assert_eq!(model.head_matrix().is_some(), one_matrix, "{name}");
        for terms in [
            LossTerms::default(),
            LossTerms {
                label_smoothing: 0.1,
                z_loss: 0.01,
            },
        ] {
            let options = LossOptions {
                terms,
                divisor: 7.0,
                ..LossOptions::default()
            };
            let on_device = DeviceBatch::new(&batch, &device);
            let found = on_device.loss(&model, options).unwrap();
            let logits = on_device.logits(&model).unwrap();
            let expected = cross_entropy_sum(logits, on_device.targets, options);
            let near = |found: Tensor<1>, expected: Tensor<1>| {
                let off = (found - expected).abs().max().into_scalar::<f32>();
                assert!(off < 1e-5, "{name}: off by {off}");
            };
            near(found.minimised.clone(), expected.minimised.clone());
            near(found.nats, expected.nats);
            let grads = [found.minimised, expected.minimised]
                .map(|loss| GradientsParams::from_grads(loss.backward(), &model));
            let trained = model.num_params();
            assert!(trained > 0 && !grads[0].is_empty(), "{name}");
            assert_eq!(grads[0].len(), grads[1].len(), "{name}");
            let [found, expected] = grads.map(|grads| global_norm(&model, &grads));
            assert!(
                (found / expected - 1.0).abs() < 1e-5,
                "{name}: {found} {expected}"
            );
        }
    }
}
