//! Cross-entropy at the positions that count, and what is minimised beside it.

use burn::tensor::{Device, Int, Tensor, TensorData};
use kiln_fused::{
    LinearLoss, LossOptions, LossTerms, cross_entropy, cross_entropy_sum, linear_cross_entropy,
    select_rows,
};
use kiln_graph::{GraphError, write_ids};
use kiln_loader::TokenBatch;
use kiln_zoo::{LanguageModel, ModelError};

/// A batch on a device. Of its `[batch, seq]` positions, those whose target counts are numbered in row-major order.
#[derive(Clone)]
pub struct DeviceBatch {
    /// Token ids `[batch, seq]`.
    pub inputs: Tensor<2, Int>,
    /// Ids to predict where they count, `[counted]`.
    pub targets: Tensor<1, Int>,
    /// Places of these targets among all `batch * seq`, `[counted]`; none if all count.
    pub places: Option<Tensor<1, Int>>,
}

/// A batch in the numbers that a device has.
struct Ids {
    inputs: Vec<i32>,
    targets: Vec<i32>,
    places: Option<Vec<i32>>,
}

impl Ids {
    fn of(batch: &TokenBatch) -> Self {
        let places: Vec<_> = (0..batch.mask.len()).filter(|at| batch.mask[*at]).collect();
        let targets = places.iter().map(|&at| batch.targets[at] as i32).collect();
        let all = places.len() == batch.mask.len();
        Self {
            inputs: batch.inputs.iter().map(|&id| id as i32).collect(),
            targets,
            places: (!all).then(|| places.iter().map(|&at| at as i32).collect()),
        }
    }
}

impl DeviceBatch {
    /// Copies a batch to a device.
    pub fn new(batch: &TokenBatch, device: &Device) -> Self {
        let Ids {
            inputs,
            targets,
            places,
        } = Ids::of(batch);
        let ids = |values: Vec<i32>| {
            let shape = [values.len()];
            Tensor::<1, Int>::from_data(TensorData::new(values, shape), device)
        };
        Self {
            inputs: ids(inputs).reshape([batch.batch, batch.seq]),
            targets: ids(targets),
            places: places.map(ids),
        }
    }

    /// Puts another batch of the same shape where this one is.
    ///
    /// # Errors
    /// Those of [`write_ids`].
    pub(crate) fn write(&self, batch: &TokenBatch) -> Result<(), GraphError> {
        let ids = Ids::of(batch);
        write_ids(self.inputs.clone().inner(), &ids.inputs)?;
        write_ids(self.targets.clone().inner(), &ids.targets)?;
        match (&self.places, &ids.places) {
            (Some(at), Some(places)) => write_ids(at.clone().inner(), places),
            _ => Ok(()),
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
    use burn::tensor::activation::log_softmax;
    use kiln_zoo::ModelConfig;

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
