//! What whole layers are worth.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kiln_loader::TokenBatch;
use kiln_train::{DeviceBatch, TrainError};
use kiln_zoo::LanguageModel;

use crate::CompressError;

/// Added to products of norms, so that vectors of zeros have no direction rather than a NaN.
const EPSILON: f64 = 1e-12;

/// The layers that stay by measured loss: again and again the layer goes without which the loss on the batches is least, until
/// `stay` are left.
///
/// # Errors
/// Those of the model.
pub(crate) fn by_loss(
    model: &LanguageModel,
    batches: &[TokenBatch],
    stay: usize,
    device: &Device,
) -> Result<Vec<usize>, CompressError> {
    let mut kept: Vec<usize> = (0..model.blocks.len()).collect();
    while kept.len() > stay {
        let mut least: Option<(f64, usize)> = None;
        for place in 0..kept.len() {
            let mut without = kept.clone();
            without.remove(place);
            let loss = loss(&of_layers(model, &without), batches, device)?;
            // A loss that is no number is no reason to take a layer away.
            if loss.is_finite() && least.is_none_or(|(best, _)| loss < best) {
                least = Some((loss, place));
            }
        }
        kept.remove(least.map_or(kept.len() - 1, |(_, place)| place));
    }
    Ok(kept)
}

/// 1 - cos(x, y) of what a layer is given and what it gives on, meaned over positions: how much it changes the residual stream
/// (ShortGPT's block influence, arXiv 2403.03853).
///
/// # Errors
/// Those of the model.
pub(crate) fn influence(
    model: &LanguageModel,
    batches: &[TokenBatch],
    device: &Device,
) -> Result<Vec<f64>, CompressError> {
    let mut sums = vec![0.0; model.blocks.len()];
    let mut positions = 0;
    for batch in batches {
        let on_device = DeviceBatch::new(batch, device);
        let trace = model.trace(on_device.inputs).map_err(TrainError::from)?;
        positions += batch.inputs.len();
        for (layer, sum) in sums.iter_mut().enumerate() {
            let cosine = cosines(trace[layer].clone(), trace[layer + 1].clone());
            *sum += f64::from((cosine.neg() + 1.0).sum().into_scalar::<f32>());
        }
    }
    let mean = |sum: f64| sum / positions.max(1) as f64;
    Ok(sums.into_iter().map(mean).collect())
}

/// The cosine at each position, `[batch, seq, 1]`, of two `[batch, seq, d_model]`.
fn cosines(x: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
    let norms = (x.clone() * x.clone()).sum_dim(2) * (y.clone() * y.clone()).sum_dim(2);
    (x * y).sum_dim(2) / (norms.sqrt() + EPSILON)
}

/// Some layers of a model, in their order.
fn of_layers(model: &LanguageModel, kept: &[usize]) -> LanguageModel {
    let mut model = model.clone();
    let blocks = std::mem::take(&mut model.blocks).into_iter().enumerate();
    model.blocks = blocks
        .filter(|(layer, _)| kept.contains(layer))
        .map(|(_, block)| block)
        .collect();
    model
}

/// Mean loss of the batches in nats a target.
pub(super) fn loss(
    model: &LanguageModel,
    batches: &[TokenBatch],
    device: &Device,
) -> Result<f64, CompressError> {
    let model = model.valid();
    let (mut nats, mut targets) = (0.0, 0);
    for batch in batches {
        let sum = DeviceBatch::new(batch, device).nats(&model);
        let sum = sum.map_err(TrainError::from)?.sum();
        nats += f64::from(sum.into_scalar::<f32>());
        targets += batch.num_tokens();
    }
    Ok(nats / targets.max(1) as f64)
}
