//! Configurations and presets.

use burn::tensor::Device;
use kiln_backbone::{
    Backbone, BackboneConfig, BackboneState, InitRng, ModelError, stable_param_ids,
};
use kiln_resnet_bk::{BkConfig, Direction};
use kiln_transformer::AttentionConfig;
use serde::{Deserialize, Serialize};

use crate::{AnyMixer, AnyState, MixerKind};

/// A language model of any kind.
pub type LanguageModel = Backbone<AnyMixer>;

/// Its generation state.
pub type ModelState = BackboneState<AnyState>;

/// All that determines a model but its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Mixers of the first layers, repeated to the last.
    pub pattern: Vec<MixerKind>,
    /// The shape around the mixers.
    pub backbone: BackboneConfig,
    /// Settings of attention layers, if the pattern has any.
    #[serde(default)]
    pub attention: AttentionConfig,
    /// Settings of BK layers, if the pattern has any.
    #[serde(default)]
    pub bk: BkConfig,
}

impl ModelConfig {
    /// The configuration a preset name stands for, with `vocab_size` 0; none if there is no such preset.
    pub fn preset(name: &str) -> Option<Self> {
        if let Some(preset) = kiln_transformer::PRESETS.iter().find(|p| p.name == name) {
            let (backbone, attention) = (preset.config)();
            return Some(Self {
                pattern: vec![MixerKind::Attention],
                backbone,
                attention,
                bk: BkConfig::default(),
            });
        }
        let preset = kiln_resnet_bk::PRESETS.iter().find(|p| p.name == name)?;
        let (backbone, bk) = (preset.config)();
        Some(Self {
            pattern: vec![MixerKind::Bk],
            backbone,
            attention: AttentionConfig::default(),
            bk,
        })
    }

    /// Checks every setting of the backbone and of the mixers that the pattern has, without making a tensor.
    ///
    /// # Errors
    /// Names the first setting that cannot be built.
    pub fn validate(&self) -> Result<(), ModelError> {
        if self.pattern.is_empty() {
            return Err(ModelError::TooSmall {
                name: "pattern (number of mixers)",
                value: 0,
                least: 1,
            });
        }
        self.backbone.validate()?;
        for mixer in &self.pattern {
            match mixer {
                MixerKind::Attention => self.attention.validate(&self.backbone)?,
                MixerKind::Bk => self.bk.validate()?,
            }
        }
        Ok(())
    }

    /// Builds the model with weights drawn from `seed`: the same on every device and in every process.
    ///
    /// # Errors
    /// Those of [`ModelConfig::validate`].
    pub fn init(&self, seed: u64, device: &Device) -> Result<LanguageModel, ModelError> {
        self.validate()?;
        let mixer = |layer: usize, rng: &mut InitRng| match self.mixer(layer) {
            MixerKind::Attention => {
                let mixer = self.attention.init(&self.backbone, rng, device)?;
                Ok(AnyMixer::Attention(mixer))
            }
            MixerKind::Bk => {
                let mixer = self.bk.init(&self.backbone, rng, device)?;
                Ok(AnyMixer::Bk(mixer))
            }
        };
        let model = self.backbone.init(mixer, &mut InitRng::new(seed), device)?;
        Ok(stable_param_ids(model))
    }

    /// Whether every layer sees the past only.
    pub fn is_causal(&self) -> bool {
        self.bk.direction == Direction::Causal || !self.pattern.contains(&MixerKind::Bk)
    }

    /// Forward multiplications and additions a token of a sequence of `seq` costs. Training costs three times that.
    pub fn flops_per_token(&self, model: &LanguageModel, seq: usize) -> u64 {
        self.backbone.flops_per_token(model, seq)
    }

    fn mixer(&self, layer: usize) -> MixerKind {
        self.pattern[layer % self.pattern.len()]
    }
}

/// A preset's name and purpose.
pub struct PresetInfo {
    /// Name that recipes use.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
}

/// Every preset of every model.
pub fn presets() -> Vec<PresetInfo> {
    let transformers = kiln_transformer::PRESETS
        .iter()
        .map(|p| (p.name, p.purpose));
    let resnets = kiln_resnet_bk::PRESETS.iter().map(|p| (p.name, p.purpose));
    transformers
        .chain(resnets)
        .map(|(name, purpose)| PresetInfo { name, purpose })
        .collect()
}
