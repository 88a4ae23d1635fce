//! What holds for a model's weights throughout training: zeros that stay zero, numbers that are rounded, and the form that they
//! are stored in.

mod beside;
mod form;
mod pruned;

use std::collections::{BTreeMap, HashMap, HashSet};

use burn::module::{Module, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use kiln_backbone::{Embedding, Linear, Matrix, Rows, Weight};
use kiln_quant::{Encoding, PackedFormat};
use kiln_zoo::LanguageModel;

use crate::TrainError;
use crate::learned::{self, Gathered, Place};
use crate::quantize::{QuantizeConfig, Rounded, matrix};
use crate::storage::{Storage, Stored, StoredModel};
use beside::Adapter;
use form::{Changed, Formed};

/// The name of the embedding's tensor.
const EMBEDDING: &str = "tokens";

/// What a model's weights keep to. Nothing, by default.
#[derive(Clone, Debug, Default)]
pub struct Constraint {
    /// 1 where a weight may move, 0 where it stays zero.
    masks: HashMap<ParamId, Tensor<2>>,
    /// Weights that are computed with as they will be packed.
    rounded: HashMap<ParamId, Rounding>,
    /// Names of the tensors that become zero in training, a part of them.
    pruned: HashMap<ParamId, String>,
    /// What matrices move by, where they do not themselves.
    adapters: HashMap<ParamId, Adapter>,
    /// How tensors are stored at the end; 32 bits a number where nothing is said.
    forms: BTreeMap<String, Storage>,
}

/// How a weight is rounded.
#[derive(Clone, Debug)]
struct Rounding {
    /// Name of its tensor in a file of plain numbers.
    tensor: String,
    format: PackedFormat,
    clip: bool,
    /// Whether the transpose is packed: an embedding, whose rows have scales of their own.
    rows: bool,
    /// Whether the layer's inputs are rounded to signs too.
    signs: bool,
    /// Where its steps are learned, if they are.
    steps: Option<Place>,
}

impl Rounding {
    /// The weights, or an embedding's transpose, and back.
    fn turned(&self, weights: Tensor<2>) -> Tensor<2> {
        match self.rows {
            true => weights.transpose(),
            false => weights,
        }
    }

    /// `logs` are those of the learned steps.
    fn round(&self, weights: Tensor<2>, logs: Option<Tensor<1>>) -> Rounded {
        let weights = self.turned(weights);
        match logs {
            Some(logs) => learned::round(weights, self.format, logs),
            None => Rounded::new(weights, self.format, self.clip),
        }
    }

    fn values(&self, weights: Tensor<2>, logs: Option<Tensor<1>>) -> Tensor<2> {
        self.turned(self.round(weights, logs).values())
    }
}

impl Constraint {
    /// Whether weights stay in the memory where the optimizer moves them: none is taken back to zero after a step.
    pub(crate) fn is_in_place(&self) -> bool {
        self.masks.is_empty() && self.pruned.is_empty()
    }

    /// Keeps the zeros of pruned weights, and the form of every tensor. Packed tensors have to be rounded; see
    /// [`Constraint::rounding`].
    pub(crate) fn of_stored(
        stored: &StoredModel,
        model: &mut LanguageModel,
        device: &Device,
    ) -> Self {
        let mut constraint = Self {
            forms: stored.table().tensors,
            ..Self::default()
        };
        for (name, layer) in model.linears_mut() {
            if let Some(stored) = stored.tensors.get(&format!("{name}.weight")) {
                constraint.add_masks(&layer.weight, stored, &device.clone().inner());
            }
        }
        constraint
    }

    fn add_masks(&mut self, weight: &Weight, stored: &Stored, device: &Device) {
        let mut add = |matrix: &Matrix, stored: &Stored| {
            if let (Matrix::Dense(weight), Stored::Sparse(_)) = (matrix, stored) {
                self.masks.insert(weight.id, mask(stored, device));
            }
        };
        match (weight, stored) {
            (Weight::Matrix(matrix), stored) => add(matrix, stored),
            (Weight::LowRank(factors), Stored::LowRank { first, second }) => {
                add(&factors.down, first);
                add(&factors.up, second);
            }
            (Weight::LowRank(_), _) => {}
        }
    }

    /// Rounds the weights of a recipe's `[quantize]` too.
    ///
    /// # Errors
    /// [`TrainError::Setting`] if there is no such layer, or one has zeros that the levels do not have.
    pub(crate) fn rounding(
        mut self,
        config: &QuantizeConfig,
        model: &mut LanguageModel,
    ) -> Result<Self, TrainError> {
        config.check()?;
        let selection = config.selection();
        let clip = config.clip;
        let rows = match model.embedding() {
            Embedding::Rows(rows) => (EMBEDDING.to_string(), rows),
            Embedding::Factorised(factors) => (format!("{EMBEDDING}.rows"), &factors.rows),
        };
        if selection.has(EMBEDDING)
            && let (tensor, Rows::Dense(rows)) = rows
        {
            let [vocab, width] = rows.shape().dims();
            self.rounded.insert(
                rows.id,
                Rounding {
                    tensor,
                    format: config.format(EMBEDDING, [width, vocab]),
                    clip,
                    rows: true,
                    // Tokens are looked up, and a tied head is no layer of its own.
                    signs: false,
                    steps: None,
                },
            );
        }
        let mut names = vec![EMBEDDING.to_string()];
        for (name, layer) in model.linears_mut() {
            if selection.has(&name) {
                let signs = config.takes_signs(&name);
                if signs {
                    take_signs(&name, layer)?;
                }
                for (tensor, id, dims) in weights(&name, layer) {
                    let rounding = Rounding {
                        tensor,
                        format: config.format(&name, dims),
                        clip,
                        rows: false,
                        signs,
                        steps: None,
                    };
                    self.rounded.insert(id, rounding);
                }
            }
            names.push(name);
        }
        if config.learned {
            self.learn_steps(model);
        }
        let signs = |id| {
            let rounding: Option<&Rounding> = self.rounded.get(id);
            rounding.filter(|rounding| rounding.format.encoding == Encoding::Sign)
        };
        match self.masks.keys().chain(self.pruned.keys()).find_map(signs) {
            Some(rounding) => Err(TrainError::setting(
                "quantize.encoding",
                "sign",
                format!(
                    "`{}` has pruned weights, and no sign is zero: take `ternary`, or leave the layer out with `except`",
                    rounding.tensor
                ),
            )),
            _ if self.rounded.is_empty() => Err(TrainError::setting(
                "quantize.layers",
                config.layers.join(", "),
                format!(
                    "no layer fits it and `quantize.except`; the layers are {}",
                    names.join(", ")
                ),
            )),
            _ if config.inputs.is_some()
                && !self.rounded.values().any(|rounding| rounding.signs) =>
            {
                Err(TrainError::setting(
                    "quantize.inputs",
                    "sign",
                    "no linear layer has weights that are signs, and an embedding keeps its inputs: leave the key out, or select other layers",
                ))
            }
            _ => Ok(self),
        }
    }

    /// The tensors of a model that are wanted.
    fn gathered<'a>(model: &LanguageModel, wanted: &'a dyn Fn(ParamId) -> bool) -> Gathered<'a> {
        let mut gathered = Gathered::new(wanted);
        model.visit(&mut gathered);
        gathered
    }

    /// Whether the model is stored otherwise than in plain numbers of 32 bits.
    pub(crate) fn has_form(&self) -> bool {
        !self.forms.is_empty()
            || !self.rounded.is_empty()
            || !self.pruned.is_empty()
            || !self.adapters.is_empty()
    }

    /// The model that is computed with: weights where adapters take them, and rounded ones, in the place of those that are trained, under
    /// the same ids.
    pub fn seen(&self, model: &LanguageModel) -> LanguageModel {
        let model = model.clone();
        if self.rounded.is_empty() && self.adapters.is_empty() {
            return model;
        }
        let learned: HashSet<ParamId> = model.learned.iter().map(|param| param.id).collect();
        let wanted = |id| learned.contains(&id);
        let gathered = Self::gathered(&model, &wanted);
        model.map(&mut Changed(|id, weights: Tensor<2>| {
            let moved = self.moved(id, weights.clone(), &gathered);
            let Some(rounding) = self.rounded.get(&id) else {
                return moved;
            };
            let steps = rounding.steps.as_ref();
            let logs = steps.and_then(|steps| gathered.vector(steps.id));
            Some(rounding.values(moved.unwrap_or(weights), logs))
        }))
    }

    /// Leaves no gradient where a weight stays zero.
    pub(crate) fn mask(&self, grads: &mut GradientsParams) {
        for (id, mask) in &self.masks {
            if let Some(grad) = grads.remove::<2>(*id) {
                grads.register(*id, grad * mask.clone());
            }
        }
    }

    /// Sets to zero what an optimizer moved away from it.
    pub(crate) fn keep(&self, model: LanguageModel) -> LanguageModel {
        match self.masks.is_empty() {
            true => model,
            false => model.map(&mut Changed(|id, weights: Tensor<2>| {
                Some(weights * self.masks.get(&id)?.clone())
            })),
        }
    }

    /// A trained model, read from a file of plain numbers, in the form that it is to be stored in.
    ///
    /// # Errors
    /// Numbers that are not finite, or beyond half precision.
    pub(crate) fn stored(
        &self,
        mut plain: StoredModel,
        device: &Device,
    ) -> Result<StoredModel, TrainError> {
        self.merge(&mut plain.tensors, device);
        let mut left = Formed {
            roundings: self
                .rounded
                .values()
                .map(|rounding| (rounding.tensor.as_str(), rounding))
                .collect(),
            pruned: self.pruned.values().map(String::as_str).collect(),
            plain: plain.tensors,
            steps: HashMap::new(),
            device: device.clone(),
        };
        let mut steps = HashMap::new();
        for rounding in self.rounded.values() {
            if let Some(place) = &rounding.steps
                && let Some(stored) = left.plain.remove(&learned::name(place.number))
            {
                steps.insert(rounding.tensor.clone(), stored);
            }
        }
        left.steps = steps;
        let names: Vec<String> = match self.forms.is_empty() {
            true => left.plain.keys().cloned().collect(),
            false => self.forms.keys().cloned().collect(),
        };
        let mut tensors = BTreeMap::new();
        for name in names {
            let stored = left.stored(&name, self.forms.get(&name))?;
            tensors.insert(name, stored);
        }
        Ok(StoredModel { tensors })
    }
}

/// Has a layer round its inputs to signs.
fn take_signs(name: &str, layer: &mut Linear) -> Result<(), TrainError> {
    match layer.weight {
        Weight::Matrix(Matrix::Dense(_)) => {
            layer.take_signs();
            Ok(())
        }
        _ => Err(TrainError::setting(
            "quantize.inputs",
            "sign",
            format!(
                "`{name}` is the product of two matrices, and what is between them is not rounded: leave the layer out with `except`, or the key"
            ),
        )),
    }
}

/// The trained matrices of a layer: name in a file, id and shape.
fn weights(name: &str, layer: &Linear) -> Vec<(String, ParamId, [usize; 2])> {
    let all = match &layer.weight {
        Weight::Matrix(matrix) => vec![("weight", matrix)],
        Weight::LowRank(factors) => {
            vec![("weight.down", &factors.down), ("weight.up", &factors.up)]
        }
    };
    let trained = |(field, matrix): (&str, &Matrix)| match matrix {
        Matrix::Dense(weight) => Some((format!("{name}.{field}"), weight.id, matrix.dims())),
        Matrix::Packed(_) => None,
    };
    all.into_iter().filter_map(trained).collect()
}

/// 1 where a pruned matrix has a weight.
fn mask(stored: &Stored, device: &Device) -> Tensor<2> {
    let shape = stored.shape();
    let values = stored.values().into_iter();
    let values = values.map(|value| f32::from(u8::from(value != 0.0)));
    matrix(values.collect(), [shape[0], shape[1]], device)
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests;
