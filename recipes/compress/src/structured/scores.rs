//! What units within a layer are worth.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use kiln_backbone::{Matrix, NamedLinears, Weight};
use kiln_loader::TokenBatch;
use kiln_train::{DeviceBatch, StoredModel, TrainError};
use kiln_zoo::LanguageModel;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::depth::loss;
use super::units::Site;
use crate::CompressError;
use crate::calibrate::Batches;
use crate::layers::layers;

/// The Euclidean norm of all matrices of a unit, for every site and unit.
pub(crate) fn magnitude(model: &StoredModel, sites: &[Site]) -> Vec<Vec<f64>> {
    // Vectors and convolutions are of another size than matrices, and say nothing of what a unit carries.
    let matrices: Vec<String> = layers(model)
        .into_iter()
        .map(|layer| layer.tensor)
        .collect();
    let of = |site: &Site| {
        let mut squares = vec![0.0; site.units];
        let places = site.places.iter();
        for places in places.filter(|places| matrices.contains(&places.tensor)) {
            let stored = &model.tensors[&places.tensor];
            let (values, width) = (stored.values(), stored.shape()[1]);
            let mut along = vec![0.0; stored.shape()[places.axis]];
            for (at, value) in values.iter().enumerate() {
                let place = [at / width, at % width][places.axis];
                along[place] += f64::from(*value).powi(2);
            }
            for (unit, sum) in squares.iter_mut().enumerate() {
                *sum += places
                    .of(unit, site.units)
                    .map(|place| along[place])
                    .sum::<f64>();
            }
        }
        squares.into_iter().map(f64::sqrt).collect()
    };
    sites.iter().map(of).collect()
}

/// Scores drawn from a seed: what a method has to beat.
pub(crate) fn random(sites: &[Site], seed: u64) -> Vec<Vec<f64>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut of = |site: &Site| (0..site.units).map(|_| rng.random::<f64>()).collect();
    sites.iter().map(&mut of).collect()
}

/// How much the loss moves when a unit goes, to first order: the square of the sum of gradient times weight over the rows that read
/// it, which is the derivative by a factor 1 in front of the unit (Molchanov et al., arXiv 1906.10771), meaned over batches, of one window best.
///
/// # Errors
/// Those of the model and of the calibration.
pub(crate) fn taylor(
    model: &LanguageModel,
    sites: &[Site],
    batches: &mut Batches<'_>,
    device: &Device,
) -> Result<Vec<Vec<f64>>, CompressError> {
    let training = device.clone().autodiff();
    // A model that validates on a device with autodiff: nothing is dropped, and only what reads units takes a gradient.
    let mut model = model.clone().fork(&training);
    let outputs = leaves(&mut model, sites, &training);
    let mut scores: Vec<Vec<f64>> = sites.iter().map(|site| vec![0.0; site.units]).collect();
    while let Some(batch) = batches.next()? {
        let batch = DeviceBatch::new(&batch, &training);
        let loss = batch.nats(&model).map_err(TrainError::from)?.mean();
        let grads = loss.backward();
        for ((site, weight), scores) in sites.iter().zip(&outputs).zip(&mut scores) {
            let Some(grad) = weight.val().grad(&grads) else {
                continue;
            };
            let moved = (grad * weight.val().inner()).sum_dim(1).into_data(); // [rows, 1]
            let moved: Vec<f32> = moved.iter::<f32>().collect();
            for (unit, score) in scores.iter_mut().enumerate() {
                let places = site.output.of(unit, site.units);
                let sum: f64 = places.map(|place| f64::from(moved[place])).sum();
                *score += sum.powi(2);
            }
        }
    }
    batches.check_variety()?;
    let seen = batches.count().max(1) as f64;
    scores.iter_mut().flatten().for_each(|score| *score /= seen);
    Ok(scores)
}

/// The loss without a unit, all others being there, measured for one unit after the other.
///
/// # Cost
/// A forward pass of all batches for each unit of every site.
///
/// # Errors
/// Those of the model.
pub(crate) fn measured(
    model: &LanguageModel,
    sites: &[Site],
    batches: &[TokenBatch],
    device: &Device,
) -> Result<Vec<Vec<f64>>, CompressError> {
    let without = |site: &Site, unit: usize| {
        let mut model = model.clone();
        if let Some(weight) = reader(&mut model.linears_mut(), site) {
            let [rows, _] = weight.val().dims();
            let mut stays = vec![1.0_f32; rows];
            site.output
                .of(unit, site.units)
                .for_each(|row| stays[row] = 0.0);
            let stays = Tensor::from_data(TensorData::new(stays, [rows, 1]), device);
            *weight = Param::from_tensor(weight.val() * stays);
        }
        let loss = loss(&model, batches, device)?;
        // A loss that is no number is no reason to take a unit away.
        Ok(if loss.is_finite() { loss } else { f64::MAX })
    };
    let of = |site: &Site| (0..site.units).map(|unit| without(site, unit)).collect();
    sites.iter().map(of).collect()
}

/// The weights that read the units of every site, as what a gradient is asked for.
fn leaves(model: &mut LanguageModel, sites: &[Site], training: &Device) -> Vec<Param<Tensor<2>>> {
    let mut linears = model.linears_mut();
    let weight = |site: &Site| {
        let weight = reader(&mut linears, site)?;
        *weight = Param::from_data(weight.val().into_data(), training);
        Some(weight.clone())
    };
    sites.iter().filter_map(weight).collect()
}

/// The weights that read the units of a site. They are dense, or the site could not be cut.
fn reader<'a>(linears: &'a mut NamedLinears<'_>, site: &Site) -> Option<&'a mut Param<Tensor<2>>> {
    let named = |(name, _): &&mut (String, _)| site.output.tensor == format!("{name}.weight");
    let (_, layer) = linears.iter_mut().find(named)?;
    match &mut layer.weight {
        Weight::Matrix(Matrix::Dense(weight)) => Some(weight),
        _ => None,
    }
}
