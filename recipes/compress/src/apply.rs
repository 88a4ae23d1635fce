//! One stage: from the tensors of a model to the smaller ones.

mod codes;
mod complex;
mod factorise;
mod float8;
mod half;
pub(crate) mod integer;
mod pack;
mod pruned;

use std::collections::BTreeMap;

use kiln_quant::FloatType;
use kiln_train::{Stored, StoredModel};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::layers::{Layer, Role, form, layers, matrix, transposed};
use crate::recipe::{Stage, Work};
use crate::{CompressError, Gram, Matrix, MethodError};
use half::tensors;

/// What the calibration knows of every layer's inputs, by the layer's name.
pub type Calibrated = BTreeMap<String, Gram>;

/// What a stage made of a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerFigures {
    /// Its name.
    pub layer: String,
    /// Name of its tensor.
    pub tensor: String,
    /// Rows and columns of its weights.
    pub shape: [usize; 2],
    /// What it is now: quantized, pruned, factorised, dense.
    pub form: String,
    /// Bytes before.
    pub bytes_before: u64,
    /// Bytes after, scales and masks included.
    pub bytes_after: u64,
    /// |W - W'|^2 / |W|^2.
    pub weight_error: f64,
    /// The same of the layer's output on the calibration inputs, where there are some.
    pub output_error: Option<f64>,
    /// Share of weights that are zero.
    pub zeros: f64,
    /// Columns of the first factor, where there are two.
    pub rank: Option<usize>,
    /// Kullback-Leibler divergence of the model's distribution from that before the stage in nats a token, with this layer alone
    /// changed; none where it was not asked for.
    pub sensitivity: Option<f64>,
}

/// A stage at work on a model.
pub struct Job<'a> {
    /// Its number, from 1 on.
    pub number: usize,
    /// What is to be done.
    pub stage: &'a Stage,
    /// What the methods go by.
    pub grams: &'a Calibrated,
}

impl Job<'_> {
    /// The model after the stage, and what became of every layer that it worked on. Layers are worked on side by side.
    ///
    /// # Errors
    /// Names the stage and the layer that cannot be compressed, and why.
    pub fn apply(
        &self,
        model: &StoredModel,
    ) -> Result<(StoredModel, Vec<LayerFigures>), CompressError> {
        if let Work::Integer(work) = self.stage.work {
            let made = self.integers(model, work, &[])?;
            return Ok((made.model, made.layers));
        }
        let selected = self.selected(model)?;
        let changed: Vec<Stored> = match &self.stage.work {
            Work::LowRank(work) => self.factorise(model, &selected, *work)?,
            _ => selected
                .par_iter()
                .map(|layer| self.changed(layer, &model.tensors[&layer.tensor]))
                .collect::<Result<_, _>>()?,
        };
        let figures = selected
            .par_iter()
            .zip(&changed)
            .filter(|(layer, _)| model.tensors[&layer.tensor].shape().len() == 2)
            .map(|(layer, after)| self.figures(layer, &model.tensors[&layer.tensor], after))
            .collect::<Result<_, _>>()?;
        let mut result = model.clone();
        for (layer, after) in selected.into_iter().zip(changed) {
            result.tensors.insert(layer.tensor, after);
        }
        Ok((result, figures))
    }

    /// The layers that the stage works on.
    ///
    /// # Errors
    /// [`CompressError::NothingSelected`].
    pub fn selected(&self, model: &StoredModel) -> Result<Vec<Layer>, CompressError> {
        let mut known = match self.stage.work {
            Work::Half => tensors(model),
            _ => layers(model),
        };
        if matches!(self.stage.work, Work::Prune(_) | Work::Integer(_)) {
            known.retain(|layer| layer.role == Role::Linear);
        }
        let names: Vec<_> = known.iter().map(|layer| layer.name.clone()).collect();
        known.retain(|layer| self.stage.layers.has(&layer.name));
        match known.is_empty() {
            false => Ok(known),
            true => Err(CompressError::NothingSelected {
                stage: self.number,
                known: names.join(", "),
            }),
        }
    }

    fn changed(&self, layer: &Layer, stored: &Stored) -> Result<Stored, CompressError> {
        let gram = self.grams.get(&layer.name);
        match &self.stage.work {
            Work::Quantize(work) => self.quantized(layer, stored, gram, work),
            Work::Float8 => self.floats(layer, stored),
            Work::Prune(work) => self.pruned(layer, stored, gram, *work),
            Work::Half => self.halved(layer, stored),
            // Ranks are shared among layers, see `factorise`, and smoothing among those behind a norm, see `integers`; the others
            // work on the whole model.
            Work::LowRank(_)
            | Work::Integer(_)
            | Work::Structured(_)
            | Work::Recover(_)
            | Work::Distill(_)
            | Work::Rewind(_) => Ok(stored.clone()),
        }
    }

    /// What became of every layer of a model.
    ///
    /// # Errors
    /// Weights that are not finite.
    pub(crate) fn all_figures(
        &self,
        before: &StoredModel,
        after: &StoredModel,
    ) -> Result<Vec<LayerFigures>, CompressError> {
        let figures = |layer: &Layer| {
            let [old, new] = [before, after].map(|model| &model.tensors[&layer.tensor]);
            self.figures(layer, old, new)
        };
        layers(before).par_iter().map(figures).collect()
    }

    fn figures(
        &self,
        layer: &Layer,
        before: &Stored,
        after: &Stored,
    ) -> Result<LayerFigures, CompressError> {
        let mut old = self.method(layer, matrix(before))?;
        let mut new = self.method(layer, matrix(after))?;
        if layer.role == Role::Embedding {
            old = self.method(layer, transposed(&old))?;
            new = self.method(layer, transposed(&new))?;
        }
        let shape = before.shape();
        let squares = |of: &dyn Fn(usize) -> f64| (0..old.values().len()).map(of).sum::<f64>();
        let size = squares(&|at| f64::from(old.values()[at]).powi(2));
        let gone = squares(&|at| f64::from(old.values()[at] - new.values()[at]).powi(2));
        let output_error = self.grams.get(&layer.name).map(|gram| {
            let whole = gram.energy(&old.to_f64(), old.d_output());
            gram.output_error(&old, &new) / whole.max(f64::MIN_POSITIVE)
        });
        Ok(LayerFigures {
            layer: layer.name.clone(),
            tensor: layer.tensor.clone(),
            shape: [shape[0], shape[1]],
            form: form(after).into(),
            bytes_before: before.bytes(),
            bytes_after: after.bytes(),
            weight_error: gone / size.max(f64::MIN_POSITIVE),
            output_error,
            zeros: new.sparsity(),
            rank: match after {
                Stored::LowRank { first, .. } => Some(first.shape()[1]),
                _ => None,
            },
            sensitivity: None,
        })
    }

    fn method<T>(&self, layer: &Layer, result: Result<T, MethodError>) -> Result<T, CompressError> {
        result.map_err(|source| CompressError::Method {
            stage: self.number,
            layer: layer.name.clone(),
            source,
        })
    }

    fn pack(&self, layer: &Layer, source: kiln_quant::QuantError) -> CompressError {
        CompressError::Pack {
            stage: self.number,
            layer: layer.name.clone(),
            source,
        }
    }

    /// Weights that a stage before has rounded cannot be rounded by this one.
    fn rounded_already(&self, layer: &Layer, stored: &Stored) -> CompressError {
        self.order(
            layer,
            stored,
            "quantizing",
            "round rounded weights once more",
        )
    }

    fn order(
        &self,
        layer: &Layer,
        stored: &Stored,
        work: &'static str,
        why: &'static str,
    ) -> CompressError {
        CompressError::Order {
            stage: self.number,
            layer: layer.name.clone(),
            found: form(stored),
            work,
            why,
        }
    }
}

fn float(matrix: Matrix) -> Stored {
    Stored::Float {
        kind: FloatType::F32,
        shape: vec![matrix.d_input(), matrix.d_output()],
        values: matrix.into_values(),
    }
}

#[cfg(test)]
mod tests;
