//! Cross-entropy, summed over the tokens that count.

use burn::tensor::{Device, Int, Tensor, TensorData};
use kiln_fused::cross_entropy;
use kiln_text::TokenBatch;

/// A batch on a device.
pub struct DeviceBatch {
    /// Token ids `[batch, seq]`.
    pub inputs: Tensor<2, Int>,
    /// Ids to predict `[batch, seq]`.
    pub targets: Tensor<2, Int>,
    /// 1 where a target counts, 0 elsewhere `[batch, seq]`; none if all count.
    pub mask: Option<Tensor<2>>,
}

impl DeviceBatch {
    /// Copies a batch to a device.
    pub fn new(batch: &TokenBatch, device: &Device) -> Self {
        let shape = [batch.batch, batch.seq];
        let ids = |values: &[u32]| {
            let values: Vec<i32> = values.iter().map(|&id| id as i32).collect();
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        let mask = (!batch.mask.iter().all(|&counts| counts)).then(|| {
            let values: Vec<f32> = batch
                .mask
                .iter()
                .map(|&counts| f32::from(u8::from(counts)))
                .collect();
            Tensor::from_data(TensorData::new(values, shape), device)
        });
        Self {
            inputs: ids(&batch.inputs),
            targets: ids(&batch.targets),
            mask,
        }
    }
}

/// Negative log-likelihood of each target in nats, 0 where the mask is 0.
///
/// # Shapes
/// - `logits`: `[batch, seq, vocab]`
/// - returns `[batch * seq]`
pub fn token_nats(
    logits: Tensor<3>,
    targets: Tensor<2, Int>,
    mask: Option<Tensor<2>>,
) -> Tensor<1> {
    let [batch, seq, vocab] = logits.dims();
    let tokens = batch * seq;
    let nats = cross_entropy(logits.reshape([tokens, vocab]), targets.reshape([tokens]));
    match mask {
        Some(mask) => nats * mask.reshape([tokens]),
        None => nats,
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn two_tokens_by_hand() {
        let device = Device::flex();
        // softmax of (0, ln 3) is (1/4, 3/4).
        let logits =
            Tensor::<3>::from_floats([[[0.0, 3.0_f32.ln()], [0.0, 3.0_f32.ln()]]], &device);
        let targets = Tensor::<2, Int>::from_ints([[0, 1]], &device);
        let nats = token_nats(logits.clone(), targets.clone(), None)
            .into_data()
            .try_to_vec::<f32>()
            .unwrap();
        assert!(
            (nats[0] - 4.0_f32.ln()).abs() < 1e-6 && (nats[1] - (4.0_f32 / 3.0).ln()).abs() < 1e-6,
            "{nats:?}"
        );
        let mask = Tensor::<2>::from_floats([[0.0, 1.0]], &device);
        let masked = token_nats(logits, targets, Some(mask))
            .into_data()
            .try_to_vec::<f32>()
            .unwrap();
        assert_eq!((masked[0], masked[1]), (0.0, nats[1]));
    }
}
