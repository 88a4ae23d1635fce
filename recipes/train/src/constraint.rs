//! What holds for a model's weights throughout training: zeros that stay zero, numbers that are rounded, and the form that they
//! are stored in.

use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use kiln_backbone::{Embedding, Linear, Matrix, Rows, Weight};
use kiln_quant::{Encoding, FloatType, PackedFormat, SparseMatrix};
use kiln_zoo::LanguageModel;

use crate::TrainError;
use crate::quantize::{QuantizeConfig, Rounded, matrix};
use crate::storage::{Storage, Stored, StoredModel};

/// The name of the embedding's tensor.
const EMBEDDING: &str = "tokens";

/// What a model's weights keep to. Nothing, by default.
#[derive(Clone, Debug, Default)]
pub struct Constraint {
    /// 1 where a weight may move, 0 where it stays zero.
    masks: HashMap<ParamId, Tensor<2>>,
    /// Weights that are computed with as they will be packed.
    rounded: HashMap<ParamId, Rounding>,
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
}

impl Rounding {
    fn round(&self, weights: Tensor<2>) -> Rounded {
        let weights = match self.rows {
            true => weights.transpose(),
            false => weights,
        };
        Rounded::new(weights, self.format, self.clip)
    }

    fn values(&self, weights: Tensor<2>) -> Tensor<2> {
        let values = self.round(weights).values();
        match self.rows {
            true => values.transpose(),
            false => values,
        }
    }
}

impl Constraint {
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
        let selection = config.selection();
        let clip = config.clip;
        if selection.has(EMBEDDING)
            && let Embedding::Rows(Rows::Dense(rows)) = model.embedding()
        {
            let [vocab, width] = rows.shape().dims();
            self.rounded.insert(
                rows.id,
                Rounding {
                    tensor: EMBEDDING.into(),
                    format: config.format([width, vocab]),
                    clip,
                    rows: true,
                },
            );
        }
        let mut names = vec![EMBEDDING.to_string()];
        for (name, layer) in model.linears_mut() {
            if selection.has(&name) {
                for (tensor, id, dims) in weights(&name, layer) {
                    let rounding = Rounding {
                        tensor,
                        format: config.format(dims),
                        clip,
                        rows: false,
                    };
                    self.rounded.insert(id, rounding);
                }
            }
            names.push(name);
        }
        let pruned = self.masks.keys().find_map(|id| self.rounded.get(id));
        match (pruned, config.encoding) {
            (Some(rounding), Encoding::Sign) => Err(TrainError::setting(
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
            _ => Ok(self),
        }
    }

    /// Whether the model is stored otherwise than in plain numbers of 32 bits.
    pub(crate) fn has_form(&self) -> bool {
        !self.forms.is_empty() || !self.rounded.is_empty()
    }

    /// The model that is computed with: rounded weights in the place of those that are trained, under the same ids.
    pub fn seen(&self, model: &LanguageModel) -> LanguageModel {
        let model = model.clone();
        match self.rounded.is_empty() {
            true => model,
            false => model.map(&mut Changed(|id, weights| {
                Some(self.rounded.get(&id)?.values(weights))
            })),
        }
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
        plain: StoredModel,
        device: &Device,
    ) -> Result<StoredModel, TrainError> {
        let mut left = Formed {
            roundings: self
                .rounded
                .values()
                .map(|rounding| (rounding.tensor.as_str(), rounding))
                .collect(),
            plain: plain.tensors,
            device: device.clone(),
        };
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

/// Changes the weights that a function has something for, without autodiff.
struct Changed<F>(F);

impl<F: Fn(ParamId, Tensor<2>) -> Option<Tensor<2>>> ModuleMapper for Changed<F> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D != 2 {
            return param;
        }
        let (id, value, mapper) = param.consume();
        let (tracked, on_autodiff) = (value.is_require_grad(), value.is_autodiff());
        let plain = match on_autodiff {
            true => value.clone().inner(),
            false => value.clone(),
        };
        let dims = plain.dims();
        let value = match (self.0)(id, plain.reshape([dims[0], dims[1]])) {
            None => value,
            Some(changed) => {
                let changed = changed.reshape(dims);
                match on_autodiff {
                    true => Tensor::from_inner(changed).set_require_grad(tracked),
                    false => changed,
                }
            }
        };
        Param::from_mapped_value(id, value, mapper)
    }
}

/// Plain tensors on their way to their form.
struct Formed<'a> {
    roundings: HashMap<&'a str, &'a Rounding>,
    plain: BTreeMap<String, Stored>,
    device: Device,
}

impl Formed<'_> {
    fn stored(&mut self, name: &str, form: Option<&Storage>) -> Result<Stored, TrainError> {
        if let Some(Storage::LowRank { first, second }) = form {
            return Ok(Stored::LowRank {
                first: Box::new(self.stored(&format!("{name}.down"), Some(first))?),
                second: Box::new(self.stored(&format!("{name}.up"), Some(second))?),
            });
        }
        let bad = |why: String| TrainError::Form {
            tensor: name.into(),
            why,
        };
        let packing = |error: kiln_quant::QuantError| bad(error.to_string());
        let plain = self.plain.remove(name);
        let plain = plain.ok_or_else(|| bad("the trained model has no such tensor".into()))?;
        if let Some(rounding) = self.roundings.get(name) {
            let shape = plain.shape();
            let weights = matrix(plain.values(), [shape[0], shape[1]], &self.device);
            let packed = rounding.round(weights).packed().map_err(packing)?;
            return Ok(match rounding.rows {
                true => Stored::PackedRows(packed),
                false => Stored::Packed(packed),
            });
        }
        match form {
            Some(Storage::Sparse(format)) => {
                let sparse = SparseMatrix::pack(*format, &plain.values()).map_err(packing)?;
                Ok(Stored::Sparse(sparse))
            }
            Some(Storage::Float(kind @ FloatType::F16)) => Ok(Stored::Float {
                kind: *kind,
                shape: plain.shape(),
                values: plain.values().into_iter().map(|x| kind.round(x)).collect(),
            }),
            _ => Ok(plain),
        }
    }
}
