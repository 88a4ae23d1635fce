//! Weights that become zero in training: which of them, and when they are.

use burn::tensor::DType;
use kiln_zoo::LanguageModel;

use super::{Constraint, weights};
use crate::TrainError;
use crate::prune::PruneConfig;

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
}
