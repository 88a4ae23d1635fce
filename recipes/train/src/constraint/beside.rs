//! What is learned beside the weights: steps of rounded ones, and adapters.

use std::collections::{BTreeMap, HashSet};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use kiln_backbone::{InitRng, stable_param_ids};
use kiln_quant::FloatType;
use kiln_zoo::LanguageModel;

use super::{Constraint, Rounding, weights};
use crate::TrainError;
use crate::adapters::AdaptersConfig;
use crate::learned::{self, Gathered, Place};
use crate::quantize::matrix;
use crate::storage::Stored;

/// What a matrix moves by.
#[derive(Clone, Debug)]
pub(super) struct Adapter {
    /// Name of the matrix in a file of plain numbers.
    tensor: String,
    /// `[d_input, d_output]`
    dims: [usize; 2],
    rank: usize,
    factor: f64,
    /// a and b, row after row.
    places: [Place; 2],
}

impl Adapter {
    /// a and b.
    fn pair(&self, learned: impl Fn(&Place) -> Option<Tensor<1>>) -> Option<[Tensor<2>; 2]> {
        let ([d_input, d_output], rank) = (self.dims, self.rank);
        let [a, b] = &self.places;
        Some([
            learned(a)?.reshape([d_input, rank]),
            learned(b)?.reshape([rank, d_output]),
        ])
    }

    /// w + c a b, with the zeros of a mask.
    fn moved(&self, w: Tensor<2>, [a, b]: [Tensor<2>; 2], mask: Option<&Tensor<2>>) -> Tensor<2> {
        let moved = w + a.matmul(b).mul_scalar(self.factor);
        match mask {
            Some(mask) => moved * mask.clone(),
            None => moved,
        }
    }
}

/// Adds tensors without autodiff to what a model learns beside its weights.
fn add(model: &mut LanguageModel, tensors: Vec<Tensor<1>>) -> Vec<Place> {
    let first = model.learned.len();
    let autodiff = model.embedding().dense().device().is_autodiff();
    for tensor in tensors {
        model.learned.push(Param::from_tensor(match autodiff {
            true => Tensor::from_inner(tensor),
            false => tensor,
        }));
    }
    // Ids follow from paths, so that a checkpoint's optimizer finds its state.
    model.learned = stable_param_ids(model.clone()).learned;
    let added = model.learned.iter().enumerate().skip(first);
    added
        .map(|(number, param)| Place {
            number,
            id: param.id,
        })
        .collect()
}

impl Constraint {
    /// Has the matrices of a recipe's `[adapters]` move by those, and no other matrix at all.
    ///
    /// # Errors
    /// [`TrainError::Setting`] if there is no such layer.
    pub(crate) fn adapting(
        mut self,
        config: &AdaptersConfig,
        model: &mut LanguageModel,
        seed: u64,
    ) -> Result<Self, TrainError> {
        config.check()?;
        let selection = config.selection();
        let (mut wanted, mut names) = (Vec::new(), Vec::new());
        for (name, layer) in model.linears_mut() {
            if selection.has(&name) {
                wanted.extend(weights(&name, layer));
            }
            names.push(name);
        }
        if wanted.is_empty() {
            return Err(TrainError::setting(
                "adapters.layers",
                config.layers.join(", "),
                format!(
                    "no layer with numbers to train fits it and `adapters.except`; the layers are {}",
                    names.join(", ")
                ),
            ));
        }
        let device = model.embedding().dense().device().inner();
        let mut rng = InitRng::new(seed);
        for (tensor, id, dims) in wanted {
            let [d_input, d_output] = dims;
            let rank = config.rank.min(d_input).min(d_output);
            let bound = (d_input as f64).sqrt().recip();
            let numbers = rng.uniform(d_input * rank, -bound, bound);
            let a = Tensor::from_data(TensorData::new(numbers, [d_input * rank]), &device);
            let b = Tensor::zeros([rank * d_output], &device);
            if let Ok(places) = add(model, vec![a, b]).try_into() {
                let adapter = Adapter {
                    tensor,
                    dims,
                    rank,
                    factor: config.factor(),
                    places,
                };
                self.adapters.insert(id, adapter);
            }
        }
        Ok(self)
    }

    /// Makes the steps of all rounded weights numbers that are learned, from those that they have now.
    pub(super) fn learn_steps(&mut self, model: &mut LanguageModel) {
        let ids: HashSet<ParamId> = self.rounded.keys().copied().collect();
        let wanted = |id| ids.contains(&id);
        let gathered = Self::gathered(model, &wanted);
        let mut roundings: Vec<(&ParamId, &mut Rounding)> = self.rounded.iter_mut().collect();
        roundings.sort_by(|a, b| a.1.tensor.cmp(&b.1.tensor));
        for (id, rounding) in roundings {
            if let Some(weights) = gathered.matrix(*id) {
                let logs = learned::start(&rounding.round(weights, None));
                rounding.steps = add(model, vec![logs]).pop();
            }
        }
    }

    /// Where a weight is by its adapter, if it has one.
    pub(super) fn moved(
        &self,
        id: ParamId,
        weights: Tensor<2>,
        learned: &Gathered<'_>,
    ) -> Option<Tensor<2>> {
        let adapter = self.adapters.get(&id)?;
        let pair = adapter.pair(|place| learned.vector(place.id))?;
        Some(adapter.moved(weights, pair, self.masks.get(&id)))
    }

    /// Turns the gradients at the weights that are computed with into those of what is learned in their place.
    pub fn learn(&self, model: &LanguageModel, grads: &mut GradientsParams) {
        if model.learned.is_empty() {
            return;
        }
        let beside: HashSet<ParamId> = model.learned.iter().map(|param| param.id).collect();
        let wanted = |id| {
            beside.contains(&id)
                || self.rounded.contains_key(&id)
                || self.adapters.contains_key(&id)
        };
        let gathered = Self::gathered(model, &wanted);
        for (id, rounding) in &self.rounded {
            self.learn_step(*id, rounding, &gathered, grads);
        }
        for (id, adapter) in &self.adapters {
            let pair = adapter.pair(|place| gathered.vector(place.id));
            let (Some([a, b]), Some(grad)) = (pair, grads.remove::<2>(*id)) else {
                continue;
            };
            let of_a = grad
                .clone()
                .matmul(b.transpose())
                .mul_scalar(adapter.factor);
            let of_b = a.transpose().matmul(grad).mul_scalar(adapter.factor);
            for (place, grad) in adapter.places.iter().zip([of_a, of_b]) {
                let count = grad.shape().num_elements();
                grads.register(place.id, grad.reshape([count]));
            }
        }
        if !self.adapters.is_empty() {
            model.visit(&mut Still(grads));
        }
    }

    /// Turns the gradient at a rounded weight into those of the weight and its step, where that is learned.
    fn learn_step(
        &self,
        id: ParamId,
        rounding: &Rounding,
        gathered: &Gathered<'_>,
        grads: &mut GradientsParams,
    ) {
        let Some(step) = &rounding.steps else {
            return;
        };
        let (Some(weights), Some(logs)) = (gathered.matrix(id), gathered.vector(step.id)) else {
            return;
        };
        let Some(grad) = grads.remove::<2>(id) else {
            return;
        };
        let weights = self.moved(id, weights.clone(), gathered).unwrap_or(weights);
        let (weights, grad) = (rounding.turned(weights), rounding.turned(grad));
        let (grad, of_logs) = learned::gradients(weights, rounding.format, logs, grad);
        grads.register(id, rounding.turned(grad));
        grads.register(step.id, of_logs);
    }

    /// Puts the matrices of a file of plain numbers where their adapters took them, by the operations of [`Constraint::moved`].
    pub(super) fn merge(&self, plain: &mut BTreeMap<String, Stored>, device: &Device) {
        for (id, adapter) in &self.adapters {
            let learned = |place: &Place| {
                let stored = plain.get(&learned::name(place.number))?;
                let data = TensorData::new(stored.values(), stored.shape());
                Some(Tensor::from_data(data, device))
            };
            let (Some(pair), Some(weights)) = (adapter.pair(learned), plain.get(&adapter.tensor))
            else {
                continue;
            };
            let weights = matrix(weights.values(), adapter.dims, device);
            let moved = adapter.moved(weights, pair, self.masks.get(id));
            let merged = Stored::Float {
                kind: FloatType::F32,
                shape: adapter.dims.to_vec(),
                values: moved.into_data().iter().collect(),
            };
            plain.insert(adapter.tensor.clone(), merged);
            for place in &adapter.places {
                plain.remove(&learned::name(place.number));
            }
        }
    }
}

/// Leaves no gradient of a matrix: those that move do so by their adapters.
struct Still<'a>(&'a mut GradientsParams);

impl ModuleVisitor for Still<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if D >= 2 {
            self.0.remove::<D>(param.id);
        }
    }
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::Int;
    use kiln_zoo::ModelConfig;

    use super::*;

    const SEED: u64 = 5;

    fn adapted(device: &Device) -> (LanguageModel, Constraint) {
        let mut config = ModelConfig::preset("transformer-tiny").unwrap();
        config.backbone.vocab_size = 13;
        let mut model = config.init(3, device).unwrap();
        let config = AdaptersConfig {
            alpha: Some(6.0),
            layers: vec!["blocks.*".into()],
            ..AdaptersConfig::new(2)
        };
        let constraint = Constraint::default();
        let constraint = constraint.adapting(&config, &mut model, SEED).unwrap();
        (model, constraint)
    }

    fn loss(constraint: &Constraint, model: &LanguageModel, device: &Device) -> Tensor<1> {
        let tokens = Tensor::<2, Int>::from_data([[1, 5, 2, 9, 3], [4, 4, 0, 12, 7]], device);
        let logits = constraint.seen(model).forward(tokens).unwrap();
        logits.square().mean()
    }

    /// A step along the gradients of a and b moves the loss as far as those are long; nothing but vectors has a gradient beside them.
    #[test]
    fn gradients_are_those_of_the_product() {
        let device = Device::flex().autodiff();
        let (mut model, constraint) = adapted(&device);
        let mut rng = InitRng::new(7);
        let mut numbers = |param: &Param<Tensor<1>>, size: f64| {
            let count = param.val().shape().num_elements();
            let data = TensorData::new(rng.normal(count, size), [count]);
            Tensor::<1>::from_data(data, &device)
        };
        // With b = 0 as at the start, nothing would reach a.
        let set = |param: &Param<Tensor<1>>, value: Tensor<1>| {
            Param::initialized(param.id, value.detach().require_grad())
        };
        model.learned = model
            .learned
            .iter()
            .map(|param| set(param, numbers(param, 0.1)))
            .collect();
        let seen = constraint.seen(&model);
        let tokens = Tensor::<2, Int>::from_data([[1, 5, 2, 9, 3], [4, 4, 0, 12, 7]], &device);
        let loss_now = seen.forward(tokens).unwrap().square().mean();
        let mut grads = GradientsParams::from_grads(loss_now.backward(), &seen);
        constraint.learn(&model, &mut grads);
        // Along the gradient itself, whose length is the slope there.
        let gradients = model
            .learned
            .iter()
            .map(|param| grads.get::<1>(param.id).unwrap());
        let gradients: Vec<Tensor<1>> = gradients.collect();
        let squares = gradients.iter().map(|grad| grad.clone().square().sum());
        let slope = squares
            .map(|sum| sum.into_scalar::<f32>())
            .sum::<f32>()
            .sqrt();
        let unit = |grad: &Tensor<1>| Tensor::from_inner(grad.clone().div_scalar(slope));
        let directions: Vec<Tensor<1>> = gradients.iter().map(unit).collect();
        let step = 1e-2;
        let at = |step: f64| {
            let mut moved = model.clone();
            let all = model.learned.iter().zip(&directions);
            let there = all.map(|(param, way)| {
                let value = param.val() + way.clone().mul_scalar(step);
                set(param, value)
            });
            moved.learned = there.collect();
            loss(&constraint, &moved, &device).into_scalar::<f32>()
        };
        let found = (at(step) - at(-step)) / (2.0 * step as f32);
        assert!((found / slope - 1.0).abs() < 2e-2, "{found} {slope}");
        struct Matrices<'a>(&'a GradientsParams, usize);
        impl ModuleVisitor for Matrices<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.1 += usize::from(D >= 2 && self.0.get::<D>(param.id).is_some());
            }
        }
        let mut matrices = Matrices(&grads, 0);
        model.visit(&mut matrices);
        assert_eq!(matrices.1, 0);
    }

    /// At the start nothing has moved, and the same seed gives the same adapters.
    #[test]
    fn they_start_at_nothing() {
        let device = Device::flex();
        let (model, constraint) = adapted(&device);
        let plain = loss(&Constraint::default(), &model, &device).into_scalar::<f32>();
        let moved = loss(&constraint, &model, &device).into_scalar::<f32>();
        assert_eq!(plain, moved);
        let (again, _) = adapted(&device);
        for (first, second) in model.learned.iter().zip(&again.learned) {
            assert_eq!(first.val().into_data(), second.val().into_data());
        }
        assert!(model.learned.len() >= 2 * 2 * 5);
    }
}
