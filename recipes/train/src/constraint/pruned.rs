//! Weights that become zero in training: which of them, and when they are.

use std::collections::BTreeMap;

use burn::optim::GradientsParams;
use burn::tensor::{DType, Device};
use kiln_zoo::LanguageModel;

use super::{Constraint, weights};
use crate::TrainError;
use crate::prune::PruneConfig;
use crate::quantize::matrix;

/// A weight that may go.
struct Effect {
    /// |g w|.
    size: f32,
    /// Which tensor, by its place among the names, and where in it.
    tensor: usize,
    place: usize,
}

impl Constraint {
    /// Names the layers whose weights become zero by a recipe's `[prune]`; none are zero for it yet.
    ///
    /// # Errors
    /// [`TrainError::Setting`] if there is no such layer.
    pub(crate) fn pruning(
        mut self,
        config: &PruneConfig,
        model: &mut LanguageModel,
    ) -> Result<Self, TrainError> {
        config.check()?;
        let selection = config.selection();
        let mut names = Vec::new();
        for (name, layer) in model.linears_mut() {
            if selection.has(&name) {
                let all = weights(&name, layer).into_iter();
                self.pruned.extend(all.map(|(tensor, id, _)| (id, tensor)));
            }
            names.push(name);
        }
        match self.pruned.is_empty() {
            false => Ok(self),
            true => Err(TrainError::setting(
                "prune.layers",
                config.layers.join(", "),
                format!(
                    "no layer with numbers to prune fits it and `prune.except`; the layers are {}",
                    names.join(", ")
                ),
            )),
        }
    }

    /// Makes so large a share of the weights of every pruned layer zero, the smallest first: from now on they stay so. Weights that are
    /// zero already count, and of equal ones none is spared.
    pub(crate) fn prune(&mut self, model: &LanguageModel, share: f64) {
        let wanted = |id| self.pruned.contains_key(&id);
        let gathered = Self::gathered(model, &wanted);
        for (id, weights) in gathered.matrices {
            let sizes = weights.abs();
            let mut all: Vec<f32> = sizes.clone().into_data().iter().collect();
            let count = (share * all.len() as f64).round() as usize;
            let Some(last) = count.checked_sub(1) else {
                continue;
            };
            let (_, largest, _) = all.select_nth_unstable_by(last, f32::total_cmp);
            let mask = sizes.greater_elem(*largest).float().cast(DType::F32);
            self.masks.insert(id, mask);
        }
    }

    /// Makes that share of the weights of all pruned layers together zero whose products with their gradients are least in size: what
    /// the loss moves by to first order when they go. They stay so from now on.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for a gradient that is not finite, and a layer that would be left without weights.
    pub(crate) fn prune_by_effect(
        &mut self,
        model: &LanguageModel,
        grads: &GradientsParams,
        share: f64,
        device: &Device,
    ) -> Result<(), TrainError> {
        let refused = |why| Err(TrainError::setting("prune.sparsity", share, why));
        let wanted = |id| self.pruned.contains_key(&id);
        let gathered = Self::gathered(model, &wanted);
        // By name, so that ties fall alike in every process.
        let mut tensors = BTreeMap::new();
        for (id, weights) in gathered.matrices {
            let dims = weights.dims();
            let sizes = match grads.get::<2>(id) {
                Some(grad) => (grad * weights).abs(),
                // Nothing depends on it.
                None => weights.zeros_like(),
            };
            let sizes: Vec<f32> = sizes.into_data().iter().collect();
            tensors.insert(self.pruned[&id].clone(), (id, dims, sizes));
        }
        let mut all = Vec::new();
        for (tensor, (_, _, sizes)) in tensors.values().enumerate() {
            let effects = sizes.iter().enumerate();
            all.extend(effects.map(|(place, &size)| Effect {
                size,
                tensor,
                place,
            }));
        }
        if !all.iter().all(|effect| effect.size.is_finite()) {
            return refused("the gradient of the first weights is not finite: check `train.batch` and the model's `init_std`".into());
        }
        let count = (share * all.len() as f64).round() as usize;
        let mut masks: Vec<Vec<f32>> = tensors
            .values()
            .map(|(_, _, sizes)| vec![1.0; sizes.len()])
            .collect();
        if let Some(last) = count.checked_sub(1) {
            let order = |a: &Effect, b: &Effect| {
                let places = (a.tensor, a.place).cmp(&(b.tensor, b.place));
                a.size.total_cmp(&b.size).then(places)
            };
            all.select_nth_unstable_by(last, order);
            for gone in &all[..count] {
                masks[gone.tensor][gone.place] = 0.0;
            }
        }
        for ((name, (id, dims, _)), mask) in tensors.into_iter().zip(masks) {
            if mask.iter().all(|kept| *kept == 0.0) {
                return refused(format!(
                    "no weight of `{name}` would be left, and nothing would pass it: lower the share, or leave the layer out with `prune.except`"
                ));
            }
            self.masks.insert(id, matrix(mask, dims, device));
        }
        Ok(())
    }

    /// Keeps the zeros that pruned layers have.
    pub(crate) fn keep_zeros(&mut self, model: &LanguageModel) {
        let wanted = |id| self.pruned.contains_key(&id);
        let gathered = Self::gathered(model, &wanted);
        for (id, weights) in gathered.matrices {
            let mask = weights.not_equal_elem(0.0).float().cast(DType::F32);
            self.masks.insert(id, mask);
        }
    }
}

#[cfg(all(test, feature = "flex"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::Device;
    use kiln_zoo::ModelConfig;

    use super::*;

    /// The smallest weights go, once; what was taken stays gone, and doing it again changes nothing.
    #[test]
    fn zeros_join_zeros() {
        let device = Device::flex();
        let mut config = ModelConfig::preset("transformer-tiny").unwrap();
        config.backbone.vocab_size = 11;
        let mut model = config.init(3, &device).unwrap();
        let prune = PruneConfig {
            except: vec!["*.down".into()],
            ..PruneConfig::new(0.5)
        };
        let mut constraint = Constraint::default().pruning(&prune, &mut model).unwrap();
        let sizes = |model: &LanguageModel, name: &str| {
            let mut model = model.clone();
            let layers = model.linears_mut();
            let layer = layers.into_iter().find(|(path, _)| path == name).unwrap().1;
            let weights = layer.weight.to_dense().abs().into_data();
            weights.iter::<f32>().collect::<Vec<_>>()
        };
        let before = sizes(&model, "blocks.0.mlp.up");
        constraint.prune(&model, 0.25);
        let quarter = constraint.keep(model.clone());
        constraint.prune(&quarter, 0.5);
        let half = constraint.keep(quarter.clone());
        constraint.prune(&half, 0.5);
        let again = constraint.keep(half.clone());
        for (model, share) in [(&quarter, 0.25), (&half, 0.5), (&again, 0.5)] {
            let after = sizes(model, "blocks.0.mlp.up");
            let gone: Vec<f32> = before
                .iter()
                .zip(&after)
                .filter(|(_, after)| **after == 0.0)
                .map(|(before, _)| *before)
                .collect();
            assert_eq!(gone.len(), (share * before.len() as f64).round() as usize);
            let largest = gone.into_iter().fold(0.0, f32::max);
            let kept = after.into_iter().filter(|size| *size > 0.0);
            assert!(kept.into_iter().all(|size| size > largest));
            assert!(
                sizes(model, "blocks.0.mlp.down")
                    .iter()
                    .all(|size| *size > 0.0)
            );
        }
        let none = PruneConfig {
            layers: vec!["tokens".into()],
            ..prune
        };
        let refused = Constraint::default()
            .pruning(&none, &mut model)
            .unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("no layer with numbers to prune"),
            "{refused}"
        );
    }

    /// As many as asked for over all layers, none of which has less effect than one that stays; what is left comes back from the zeros.
    #[test]
    fn the_least_effects_go() {
        let device = Device::flex();
        let training = device.clone().autodiff();
        let mut config = ModelConfig::preset("transformer-tiny").unwrap();
        config.backbone.vocab_size = 11;
        let mut model = config.init(3, &training).unwrap();
        let tokens = burn::tensor::Tensor::<2, burn::tensor::Int>::from_data(
            [[1, 5, 2, 7, 3, 3, 9, 10], [4, 4, 0, 6, 8, 1, 2, 5]],
            &training,
        );
        // Any function of the weights will do.
        let loss = model.hidden(tokens).unwrap().powi_scalar(3).sum();
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        let prune = PruneConfig {
            method: crate::PruneBy::Snip,
            except: vec!["head".into()],
            ..PruneConfig::new(0.7)
        };
        let mut constraint = Constraint::default().pruning(&prune, &mut model).unwrap();
        constraint
            .prune_by_effect(&model, &grads, 0.7, &device)
            .unwrap();
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        let wanted = |id| constraint.pruned.contains_key(&id);
        for (id, weights) in Constraint::gathered(&model, &wanted).matrices {
            let effects = (grads.get::<2>(id).unwrap() * weights).abs().into_data();
            let mask: Vec<f32> = constraint.masks[&id].clone().into_data().iter().collect();
            for (effect, mask) in effects.iter::<f32>().zip(mask) {
                match mask == 0.0 {
                    true => gone.push(effect),
                    false => kept.push(effect),
                }
            }
        }
        let all = kept.len() + gone.len();
        assert_eq!(gone.len(), (0.7 * all as f64).round() as usize);
        let most = gone.iter().copied().fold(0.0, f32::max);
        assert!(kept.iter().all(|effect| *effect >= most), "{most}");
        let thin = constraint.keep(model.clone());
        let before = constraint.masks.clone();
        constraint.masks.clear();
        constraint.keep_zeros(&thin);
        assert_eq!(before.len(), constraint.masks.len());
        for (id, mask) in before {
            assert_eq!(mask.into_data(), constraint.masks[&id].clone().into_data());
        }
        let refused = constraint
            .prune_by_effect(&model, &grads, 0.99999, &device)
            .unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("would be left, and nothing would pass it"),
            "{refused}"
        );
    }
}
