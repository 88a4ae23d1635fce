//! The `[distill]` section of a recipe.

use std::path::PathBuf;

use kiln_backbone::Precision;
use serde::{Deserialize, Serialize};

use crate::{FeatureConfig, ResponseLoss, WrittenConfig};

/// What a student learns from, beside the targets of its data.
///
/// The loss of a target is `(1 - w) ce + w T^2 D`, with ce the cross-entropy, D the divergence of the student's distribution from
/// the teacher's, both at temperature T (Hinton et al., arXiv 1503.02531), and w the weight, which moves linearly over the run.
/// With features of share f, that counts 1 - f, and f the distance between the layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// Folder of the teacher's finished run, absolute or relative to where the command is given.
    pub teacher: PathBuf,
    /// What the teacher computes in; without it, what it was trained in. Its weights are f32 in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Divergence from the teacher.
    #[serde(default)]
    pub loss: ResponseLoss,
    /// T: divides the scores of both before they become probabilities.
    #[serde(default = "default_temperature")]
    pub temperature: f64,
    /// w at the first step: the divergence's share of the loss.
    #[serde(default = "default_weight")]
    pub weight: f64,
    /// w at the last step; without it, w stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_weight: Option<f64>,
    /// Tokens that keep a probability of their own, the teacher's likeliest; the others are one class together. 0 keeps all.
    #[serde(default)]
    pub top_k: usize,
    /// Whether the teacher answers once for every window of the training text, before the first step, and is read from disk
    /// after that.
    #[serde(default)]
    pub cache: bool,
    /// Likeness between the layers to learn as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<FeatureConfig>,
    /// Text that the teacher writes, to learn from in place of a share of the data's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<WrittenConfig>,
    /// SHA-256 of the teacher's weights. Written into the run folder; where a recipe states it, another teacher is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
}

fn default_temperature() -> f64 {
    2.0
}

fn default_weight() -> f64 {
    0.9
}

impl DistillConfig {
    /// The section with nothing but a teacher.
    pub fn new(teacher: PathBuf) -> Self {
        Self {
            teacher,
            precision: None,
            loss: ResponseLoss::default(),
            temperature: default_temperature(),
            weight: default_weight(),
            final_weight: None,
            top_k: 0,
            cache: false,
            features: None,
            text: None,
            weights: None,
        }
    }

    /// Whether the teacher is asked about batches; otherwise it only writes.
    pub fn is_asked(&self) -> bool {
        self.weight.max(self.final_weight.unwrap_or(0.0)) > 0.0 || self.features.is_some()
    }

    /// w after `share` of the run, in 0..=1.
    pub fn weight_at(&self, share: f64) -> f64 {
        let last = self.final_weight.unwrap_or(self.weight);
        self.weight + (last - self.weight) * share.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_is_strict_has_defaults_and_round_trips() {
        let config: DistillConfig = toml::from_str("teacher = 'runs/a'").unwrap();
        assert_eq!(config, DistillConfig::new("runs/a".into()));
        let text = "teacher = 'runs/a'\nprecision = 'bf16'\nloss = { jensen-shannon = 0.3 }\nfinal_weight = 0.0";
        let config: DistillConfig = toml::from_str(text).unwrap();
        assert_eq!(config.loss, ResponseLoss::JensenShannon(0.3));
        assert_eq!(config.precision, Some(Precision::Bf16));
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<DistillConfig>(&text).unwrap(), config);
        assert!(toml::from_str::<DistillConfig>("teacher = 'a'\ntemprature = 1.0").is_err());
    }

    #[test]
    fn the_weight_moves_on_a_straight_line() {
        let mut config = DistillConfig::new("a".into());
        assert_eq!([0.0, 1.0].map(|share| config.weight_at(share)), [0.9, 0.9]);
        config.final_weight = Some(0.5);
        let weights = [0.0, 0.5, 1.0, 2.0].map(|share| config.weight_at(share));
        for (found, expected) in weights.iter().zip([0.9, 0.7, 0.5, 0.5]) {
            assert!((found - expected).abs() < 1e-12, "{weights:?}");
        }
    }
}
