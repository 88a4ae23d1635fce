//! Layers that multiply integers: weights of int8 and inputs of 8 bits, smoothed or not.

use std::collections::BTreeMap;

use kiln_backbone::NormReaders;
use kiln_quant::Activations;
use kiln_train::{Stored, StoredModel};
use rayon::prelude::*;

use super::pack::packed;
use super::{Job, LayerFigures};
use crate::layers::{Layer, matrix};
use crate::quantize::{Clip, Grid, round_to_nearest, smoothing};
use crate::recipe::{Integer, IntegerInputs};
use crate::{CompressError, Gram, Matrix, MethodError};

/// The levels of weights.
const GRID: Grid = Grid {
    bits: 8,
    symmetric: true,
};
/// The largest level of an input.
const MOST: f64 = 127.0;

/// A model after a stage of integers.
pub(crate) struct Integers {
    pub model: StoredModel,
    pub layers: Vec<LayerFigures>,
    /// Tensors as they are where they alone are changed: with the divisors that a norm took over.
    pub alone: BTreeMap<String, Stored>,
}

/// A layer on its way to integers.
struct Smoothed<'a> {
    layer: &'a Layer,
    weights: Matrix,
    /// What its inputs are divided by, if by anything.
    divisors: Option<Vec<f32>>,
    /// Whether its norm does that.
    folded: bool,
}

impl Job<'_> {
    /// The model with integers in the selected layers. Where a norm has no other readers than selected layers, its gains take over their
    /// divisors.
    ///
    /// # Errors
    /// As [`Job::apply`].
    pub(crate) fn integers(
        &self,
        model: &StoredModel,
        work: Integer,
        readers: &[NormReaders],
    ) -> Result<Integers, CompressError> {
        let selected = self.selected(model)?;
        let mut all = Vec::with_capacity(selected.len());
        for layer in &selected {
            all.push(Smoothed {
                layer,
                weights: self.dense(layer, &model.tensors[&layer.tensor])?,
                divisors: None,
                folded: false,
            });
        }
        let mut result = model.clone();
        if let Some(alpha) = work.smoothing {
            for readers in readers {
                self.fold(&mut result, &mut all, readers, alpha)?;
            }
            for layer in all.iter_mut().filter(|layer| !layer.folded) {
                let divisors = self.shared(&[&*layer], alpha)?;
                layer.divisors = Some(divisors);
            }
        }
        let made: Vec<(Stored, LayerFigures)> = all
            .par_iter()
            .map(|layer| self.integer(layer, &model.tensors[&layer.layer.tensor], work.inputs))
            .collect::<Result<_, _>>()?;
        let (mut layers, mut alone) = (Vec::new(), BTreeMap::new());
        for (smoothed, (stored, figures)) in all.iter().zip(made) {
            let tensor = &smoothed.layer.tensor;
            let scaled = match &smoothed.divisors {
                Some(divisors) => Stored::Scaled {
                    divisors: divisors.clone(),
                    weights: Box::new(stored.clone()),
                },
                None => stored.clone(),
            };
            let kept = if smoothed.folded {
                stored
            } else {
                scaled.clone()
            };
            layers.push(LayerFigures {
                bytes_after: kept.bytes(),
                ..figures
            });
            result.tensors.insert(tensor.clone(), kept);
            alone.insert(tensor.clone(), scaled);
        }
        Ok(Integers {
            model: result,
            layers,
            alone,
        })
    }

    fn dense(&self, layer: &Layer, stored: &Stored) -> Result<Matrix, CompressError> {
        match stored {
            Stored::Float { .. } | Stored::Sparse(_) => self.method(layer, matrix(stored)),
            Stored::LowRank { .. } => Err(self.order(
                layer,
                stored,
                "quantizing",
                "leave what is between its factors without a step",
            )),
            _ => Err(self.rounded_already(layer, stored)),
        }
    }

    fn gram(&self, layer: &Layer) -> Result<&Gram, CompressError> {
        let gram = self.grams.get(&layer.name);
        self.method(layer, gram.ok_or(MethodError::NoTokens))
    }

    /// The divisors of layers that read the same inputs.
    fn shared(&self, layers: &[&Smoothed<'_>], alpha: f64) -> Result<Vec<f32>, CompressError> {
        let first = layers[0].layer;
        let weights: Vec<&Matrix> = layers.iter().map(|layer| &layer.weights).collect();
        self.method(first, smoothing(&weights, self.gram(first)?, alpha))
    }

    /// Divides a norm's gains and shifts by the divisors of its readers, if all of them are worked on.
    fn fold(
        &self,
        model: &mut StoredModel,
        all: &mut [Smoothed<'_>],
        readers: &NormReaders,
        alpha: f64,
    ) -> Result<(), CompressError> {
        let reads = |layer: &&Smoothed<'_>| readers.layers.contains(&layer.layer.name);
        let group: Vec<&Smoothed<'_>> = all.iter().filter(reads).collect();
        let gains = format!("{}.gamma", readers.norm);
        if group.len() < readers.layers.len() || !model.tensors.contains_key(&gains) {
            return Ok(());
        }
        let divisors = self.shared(&group, alpha)?;
        for name in [gains, format!("{}.beta", readers.norm)] {
            if let Some(stored) = model.tensors.get_mut(&name) {
                divide(stored, &divisors);
            }
        }
        let group = all
            .iter_mut()
            .filter(|layer| readers.layers.contains(&layer.layer.name));
        for layer in group {
            layer.divisors = Some(divisors.clone());
            layer.folded = true;
        }
        Ok(())
    }

    /// The weights times the divisors as int8, with the step of the inputs over them.
    fn integer(
        &self,
        smoothed: &Smoothed<'_>,
        before: &Stored,
        inputs: IntegerInputs,
    ) -> Result<(Stored, LayerFigures), CompressError> {
        let Smoothed {
            layer,
            weights,
            divisors,
            ..
        } = smoothed;
        let mut values = weights.values().to_vec();
        if let Some(divisors) = divisors {
            for (row, divisor) in values.chunks_exact_mut(weights.d_output()).zip(divisors) {
                row.iter_mut().for_each(|value| *value *= divisor);
            }
        }
        let scaled = self.method(
            layer,
            Matrix::new(weights.d_input(), weights.d_output(), values),
        )?;
        let codes = self.method(layer, round_to_nearest(&scaled, GRID, 0, Clip::None))?;
        let packed = packed(&codes).map_err(|source| self.pack(layer, source))?;
        let activations = match inputs {
            IntegerInputs::Dynamic => Activations::Dynamic,
            IntegerInputs::Static => Activations::Static {
                step: step(
                    self.method(layer, self.seen(layer, weights))?,
                    divisors.as_deref(),
                ),
            },
        };
        let stored = Stored::Integer {
            activations,
            weights: packed,
        };
        // The weights that it stands for before what its inputs are divided by.
        let whole = match divisors {
            Some(divisors) => Stored::Scaled {
                divisors: divisors.clone(),
                weights: Box::new(stored.clone()),
            },
            None => stored.clone(),
        };
        let figures = self.figures(layer, before, &whole)?;
        Ok((stored, figures))
    }

    /// The inputs of a layer, which are there and of its width.
    fn seen(&self, layer: &Layer, weights: &Matrix) -> Result<&Gram, MethodError> {
        let gram = self.grams.get(&layer.name).ok_or(MethodError::NoTokens)?;
        gram.check(weights).map(|()| gram)
    }
}

/// The step with which the largest input of a calibration, over its divisor, is the largest level.
fn step(gram: &Gram, divisors: Option<&[f32]>) -> f32 {
    let size = |input: usize| {
        let divisor = divisors.map_or(1.0, |divisors| divisors[input].into());
        gram.peak(input) / divisor
    };
    let largest = (0..gram.d_input()).map(size).fold(0.0, f64::max);
    (largest / MOST) as f32
}

/// Divides every number by the divisor of its channel. What was in 16 bits takes 32, as it is rounded no second time.
fn divide(stored: &mut Stored, divisors: &[f32]) {
    if let Stored::Float { kind, values, .. } = stored {
        *kind = kiln_quant::FloatType::F32;
        for (value, divisor) in values.iter_mut().zip(divisors) {
            *value /= divisor;
        }
    }
}

#[cfg(test)]
mod tests;
