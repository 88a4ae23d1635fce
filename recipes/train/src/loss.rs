//! Cross-entropy at the positions that count, and what is minimised beside it.

use burn::tensor::{Device, Int, Tensor, TensorData};
use kiln_fused::{
    LinearLoss, LossOptions, LossTerms, cross_entropy, cross_entropy_sum, linear_cross_entropy,
    select_rows,
};
use kiln_loader::TokenBatch;
use kiln_zoo::{LanguageModel, ModelError};

/// A batch on a device. Of its `[batch, seq]` positions, those whose target counts are numbered in row-major order.
pub struct DeviceBatch {
    /// Token ids `[batch, seq]`.
    pub inputs: Tensor<2, Int>,
    /// Ids to predict where they count, `[counted]`.
    pub targets: Tensor<1, Int>,
    /// Places of these targets among all `batch * seq`, `[counted]`; none if all count.
    pub places: Option<Tensor<1, Int>>,
}

impl DeviceBatch {
    /// Copies a batch to a device.
    pub fn new(batch: &TokenBatch, device: &Device) -> Self {
        let inputs: Vec<i32> = batch.inputs.iter().map(|&id| id as i32).collect();
        let ids = |values: Vec<i32>| {
            let shape = [values.len()];
            Tensor::<1, Int>::from_data(TensorData::new(values, shape), device)
        };
        let places: Vec<_> = (0..batch.mask.len()).filter(|at| batch.mask[*at]).collect();
        let targets = places.iter().map(|&at| batch.targets[at] as i32).collect();
        let all = places.len() == batch.mask.len();
        Self {
            inputs: ids(inputs).reshape([batch.batch, batch.seq]),
            targets: ids(targets),
            places: (!all).then(|| ids(places.iter().map(|&at| at as i32).collect())),
        }
    }

    /// The same batch without autodiff.
    pub fn inner(&self) -> Self {
        Self {
            inputs: self.inputs.clone().inner(),
            targets: self.targets.clone().inner(),
            places: self.places.clone().map(Tensor::inner),
        }
    }

    /// Scores over the vocabulary where targets count, `[counted, vocab]`. No other row meets the head.
    ///
    /// # Errors
    /// Those of the model.
    pub fn logits(&self, model: &LanguageModel) -> Result<Tensor<2>, ModelError> {
        Ok(self.logits_of(model, model.hidden(self.inputs.clone())?))
    }

    /// The same from the model's residual stream after the last block, `[batch, seq, d_model]`.
    pub(crate) fn logits_of(&self, model: &LanguageModel, hidden: Tensor<3>) -> Tensor<2> {
        model.logits(self.rows_of(hidden))
    }

    /// Rows of the residual stream after the last block where targets count, `[counted, d_model]`.
    ///
    /// # Errors
    /// Those of the model.
    pub(crate) fn rows(&self, model: &LanguageModel) -> Result<Tensor<2>, ModelError> {
        Ok(self.rows_of(model.hidden(self.inputs.clone())?))
    }

    fn rows_of(&self, hidden: Tensor<3>) -> Tensor<2> {
        let [batch, seq, d_model] = hidden.dims();
        let rows = hidden.reshape([batch * seq, d_model]);
        match &self.places {
            Some(places) => select_rows(rows, places.clone()),
            None => rows,
        }
    }

    /// The loss of the targets that count. Where the head is one matrix, the scores of all of them are never in memory at once.
    ///
    /// # Errors
    /// Those of the model.
    ///
    /// # Panics
    /// If options are out of range.
    pub fn loss(
        &self,
        model: &LanguageModel,
        options: LossOptions,
    ) -> Result<LinearLoss, ModelError> {
        let hidden = model.hidden(self.inputs.clone())?;
        Ok(self.loss_of(model, hidden, options))
    }

    /// The same from the model's residual stream after the last block, `[batch, seq, d_model]`.
    pub(crate) fn loss_of(
        &self,
        model: &LanguageModel,
        hidden: Tensor<3>,
        options: LossOptions,
    ) -> LinearLoss {
        let (rows, targets) = (self.rows_of(hidden), self.targets.clone());
        match model.head_matrix() {
            Some(head) => linear_cross_entropy(model.head_inputs(rows), head, targets, options),
            None => cross_entropy_sum(model.logits(rows), targets, options),
        }
    }

    /// Negative log-likelihood of each target that counts in nats, `[counted]`.
    ///
    /// # Errors
    /// Those of the model.
    pub fn nats(&self, model: &LanguageModel) -> Result<Tensor<1>, ModelError> {
        Ok(cross_entropy(self.logits(model)?, self.targets.clone()))
    }
}

/// What is minimised, in words; none for plain cross-entropy.
pub(crate) fn words_of(terms: LossTerms) -> Option<String> {
    let LossTerms {
        label_smoothing,
        z_loss,
    } = terms;
    let named = [("label smoothing", label_smoothing), ("z-loss", z_loss)];
    let named = named.iter().filter(|(_, value)| *value != 0.0);
    let named: Vec<_> = named
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    (!named.is_empty()).then(|| format!("cross-entropy with {}", named.join(" and ")))
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::module::{Module, Param};
    use burn::optim::GradientsParams;
    use burn::tensor::activation::log_softmax;
    use kiln_backbone::{Embedding, Factorised, PackedWeight, Rows, Weight};
    use kiln_quant::{Encoding, FloatType, PackedFormat, PackedMatrix};
    use kiln_zoo::ModelConfig;

    const VOCAB: usize = 64;

    fn model(tied: bool) -> LanguageModel {
        let mut config = ModelConfig::preset("transformer-tiny").unwrap_or_else(|| unreachable!());
        config.backbone.vocab_size = VOCAB;
        config.backbone.tie_embeddings = tied;
        let model = config.init(3, &Device::flex().autodiff());
        model.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Signs of a matrix `[d_input, VOCAB]`.
    fn signs(d_input: usize) -> PackedMatrix {
        let format = PackedFormat {
            encoding: Encoding::Int4,
            asymmetric: false,
            d_input,
            d_output: VOCAB,
            group: d_input,
            scales: FloatType::F16,
        };
        let levels: Vec<i16> = (0..d_input * VOCAB).map(|at| (at % 7) as i16 - 3).collect();
        let packed = PackedMatrix::pack(format, &levels, &[0.03; VOCAB], None);
        packed.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Models with every kind of head, and whether it is one matrix.
    fn heads() -> Vec<(&'static str, LanguageModel, bool)> {
        let device = Device::flex().autodiff();
        let mut all = vec![("tied", model(true), true), ("own", model(false), true)];
        let [_, d_model] = all[0].1.embedding().dims();
        let mut packed = model(true);
        let rows = PackedWeight::new(&signs(d_model), &device);
        *packed.embedding_mut() = Embedding::Rows(Rows::Packed(rows));
        all.push(("packed", packed, false));
        let mut factorised = model(true);
        let rows = factorised.embedding().dense().detach();
        *factorised.embedding_mut() = Embedding::Factorised(Factorised {
            rows: Rows::Dense(Param::from_tensor(rows.clone().narrow(1, 0, 5))),
            up: Param::from_tensor(rows.narrow(0, 0, 5)),
        });
        all.push(("factorised", factorised, false));
        let mut own = model(false);
        if let Some((_, head)) = own.linears_mut().pop() {
            head.weight = Weight::packed(&signs(d_model), &device);
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
                let found = on_device
                    .loss(&model, options)
                    .unwrap_or_else(|error| panic!("{error}"));
                let logits = on_device
                    .logits(&model)
                    .unwrap_or_else(|error| panic!("{error}"));
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
                let [found, expected] =
                    grads.map(|grads| crate::optimizer::global_norm(&model, &grads));
                assert!(
                    (found / expected - 1.0).abs() < 1e-5,
                    "{name}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn what_is_minimised_is_named() {
        assert_eq!(words_of(LossTerms::default()), None);
        let terms = LossTerms {
            label_smoothing: 0.1,
            z_loss: 1e-4,
        };
        let both = "cross-entropy with label smoothing 0.1 and z-loss 0.0001";
        assert_eq!(words_of(terms).as_deref(), Some(both));
        let terms = LossTerms {
            label_smoothing: 0.0,
            ..terms
        };
        let one = "cross-entropy with z-loss 0.0001";
        assert_eq!(words_of(terms).as_deref(), Some(one));
    }

    /// Rows that are taken before the head have the nats of the whole forward pass.
    #[test]
    fn nats_are_those_of_the_whole_forward_pass() {
        let device = Device::flex();
        let mut config = ModelConfig::preset("transformer-tiny").unwrap_or_else(|| unreachable!());
        config.backbone.vocab_size = 11;
        let model = config
            .init(3, &device)
            .unwrap_or_else(|error| panic!("{error}"));
        let (batch, seq) = (2, 5);
        let tokens = |shift: u32| (0..10).map(|i| (3 * i + shift) % 11).collect();
        for counted in [vec![1, 4, 5, 9], vec![0], (0..10).collect()] {
            let batch = TokenBatch {
                batch,
                seq,
                inputs: tokens(0),
                targets: tokens(3),
                mask: (0..10).map(|at| counted.contains(&at)).collect(),
            };
            let on_device = DeviceBatch::new(&batch, &device);
            assert_eq!(on_device.places.is_none(), counted.len() == 10);
            let nats = on_device
                .nats(&model)
                .unwrap_or_else(|error| panic!("{error}"));
            let nats: Vec<f32> = nats.into_data().iter::<f32>().collect();
            let whole = model
                .forward(on_device.inputs)
                .unwrap_or_else(|error| panic!("{error}"));
            let whole: Vec<f32> = log_softmax(whole, 2).into_data().iter::<f32>().collect();
            assert_eq!(nats.len(), counted.len());
            for (found, at) in nats.iter().zip(counted) {
                let expected = -whole[at * 11 + batch.targets[at] as usize];
                assert!((found - expected).abs() < 1e-5, "{at}: {found} {expected}");
            }
        }
    }
}
