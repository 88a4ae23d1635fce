//! Configurations and presets.

use burn::module::ParamId;
use burn::tensor::Device;
use kiln_backbone::{
    Backbone, BackboneConfig, BackboneState, Direction, InitRng, ModelError, Preset,
    stable_param_ids,
};
use kiln_baselines::{ConvConfig, FnetMixer, GlaConfig, MinGruConfig};
use kiln_resnet_bk::{BkConfig, GradRule};
use kiln_resolvent::ResolventConfig;
use kiln_students::StudentMixer;
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
    /// Settings of resolvent layers, if the pattern has any.
    #[serde(default)]
    pub resolvent: ResolventConfig,
    /// Settings of convolution layers, if the pattern has any.
    #[serde(default)]
    pub conv: ConvConfig,
    /// Settings of layers of gated linear attention, if the pattern has any.
    #[serde(default)]
    pub gla: GlaConfig,
    /// Settings of minGRU layers, if the pattern has any.
    #[serde(default)]
    pub min_gru: MinGruConfig,
}

impl ModelConfig {
    /// The configuration a preset name stands for, with `vocab_size` 0; none if there is no such preset.
    pub fn preset(name: &str) -> Option<Self> {
        let attention = find(kiln_transformer::PRESETS, name, |backbone, attention| {
            Self {
                attention,
                ..Self::of(MixerKind::Attention, backbone)
            }
        });
        let bk = || {
            find(kiln_resnet_bk::PRESETS, name, |backbone, bk| Self {
                bk,
                ..Self::of(MixerKind::Bk, backbone)
            })
        };
        let resolvent = || {
            find(kiln_resolvent::PRESETS, name, |backbone, resolvent| Self {
                resolvent,
                ..Self::of(MixerKind::Resolvent, backbone)
            })
        };
        let conv = || {
            find(kiln_baselines::CONV_PRESETS, name, |backbone, conv| Self {
                conv,
                ..Self::of(MixerKind::Conv, backbone)
            })
        };
        let gla = || {
            find(kiln_baselines::GLA_PRESETS, name, |backbone, gla| Self {
                gla,
                ..Self::of(MixerKind::Gla, backbone)
            })
        };
        let min_gru = || {
            find(
                kiln_baselines::MIN_GRU_PRESETS,
                name,
                |backbone, min_gru| Self {
                    min_gru,
                    ..Self::of(MixerKind::MinGru, backbone)
                },
            )
        };
        let fnet = || {
            find(kiln_baselines::FNET_PRESETS, name, |backbone, ()| {
                Self::of(MixerKind::Fnet, backbone)
            })
        };
        let student = || {
            find(kiln_students::PRESETS, name, |backbone, student| {
                let pattern = student.pattern.into_iter().map(|mixer| match mixer {
                    StudentMixer::Attention => MixerKind::Attention,
                    StudentMixer::Resolvent => MixerKind::Resolvent,
                });
                Self {
                    pattern: pattern.collect(),
                    attention: student.attention,
                    resolvent: student.resolvent,
                    ..Self::of(MixerKind::Attention, backbone)
                }
            })
        };
        attention
            .or_else(bk)
            .or_else(resolvent)
            .or_else(conv)
            .or_else(gla)
            .or_else(min_gru)
            .or_else(fnet)
            .or_else(student)
    }

    /// One kind of mixer with its default settings.
    fn of(mixer: MixerKind, backbone: BackboneConfig) -> Self {
        Self {
            pattern: vec![mixer],
            backbone,
            attention: AttentionConfig::default(),
            bk: BkConfig::default(),
            resolvent: ResolventConfig::default(),
            conv: ConvConfig::default(),
            gla: GlaConfig::default(),
            min_gru: MinGruConfig::default(),
        }
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
                MixerKind::Resolvent => self.resolvent.validate(&self.backbone)?,
                MixerKind::Conv => self.conv.validate()?,
                MixerKind::Gla => self.gla.validate(&self.backbone)?,
                MixerKind::MinGru => self.min_gru.validate()?,
                MixerKind::Fnet => {}
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
            MixerKind::Resolvent => {
                let mixer = self.resolvent.init(&self.backbone, rng, device)?;
                Ok(AnyMixer::Resolvent(mixer))
            }
            MixerKind::Conv => {
                let mixer = self.conv.init(&self.backbone, rng, device)?;
                Ok(AnyMixer::Conv(mixer))
            }
            MixerKind::Gla => {
                let mixer = self.gla.init(&self.backbone, rng, device)?;
                Ok(AnyMixer::Gla(mixer))
            }
            MixerKind::MinGru => {
                let mixer = self.min_gru.init(&self.backbone, rng, device)?;
                Ok(AnyMixer::MinGru(mixer))
            }
            MixerKind::Fnet => Ok(AnyMixer::Fnet(FnetMixer::new(self.backbone.d_model))),
        };
        let model = self.backbone.init(mixer, &mut InitRng::new(seed), device)?;
        Ok(stable_param_ids(model))
    }

    /// Whether every position's scores depend on tokens up to it only.
    pub fn is_causal(&self) -> bool {
        let causal = |mixer: &MixerKind| match mixer {
            MixerKind::Attention => self.attention.direction == Direction::Causal,
            MixerKind::Bk => self.bk.direction == Direction::Causal,
            MixerKind::Resolvent | MixerKind::Conv | MixerKind::Gla | MixerKind::MinGru => true,
            MixerKind::Fnet => false,
        };
        !self.backbone.decoder && self.pattern.iter().all(causal)
    }

    /// Whether training draws numbers that the host decides on, for dropout.
    pub fn drops(&self) -> bool {
        self.backbone.dropout > 0.0
            || (self.pattern.contains(&MixerKind::Resolvent) && self.resolvent.key_dropout > 0.0)
    }

    /// Forward multiplications and additions a token of a sequence of `seq` costs. Training costs three times that.
    pub fn flops_per_token(&self, model: &LanguageModel, seq: usize) -> u64 {
        self.backbone.flops_per_token(model, seq)
    }

    /// The mixer of a layer: the pattern repeats to the last layer, and has at least one entry (see
    /// [`ModelConfig::validate`]).
    pub fn mixer(&self, layer: usize) -> MixerKind {
        self.pattern[layer % self.pattern.len()]
    }
}

/// The model with another gradient rule in its BK layers: the same weights and scores, another gradient.
pub fn with_grad_rule(mut model: LanguageModel, rule: GradRule) -> LanguageModel {
    for block in &mut model.blocks {
        if let AnyMixer::Bk(mixer) = &mut block.mixer {
            mixer.set_grad_rule(rule);
        }
    }
    model
}

/// The trained weights of the projections that make the potentials of BK layers, first layer to last.
pub fn potential_weights(model: &LanguageModel) -> Vec<ParamId> {
    let id = |mixer: &AnyMixer| match mixer {
        AnyMixer::Bk(mixer) => mixer.potential_weight(),
        AnyMixer::Attention(_)
        | AnyMixer::Resolvent(_)
        | AnyMixer::Conv(_)
        | AnyMixer::Gla(_)
        | AnyMixer::MinGru(_)
        | AnyMixer::Fnet(_) => None,
    };
    model
        .blocks
        .iter()
        .filter_map(|block| id(&block.mixer))
        .collect()
}

fn find<C>(
    presets: &[Preset<C>],
    name: &str,
    config: impl FnOnce(BackboneConfig, C) -> ModelConfig,
) -> Option<ModelConfig> {
    let preset = presets.iter().find(|preset| preset.name == name)?;
    let (backbone, mixer) = (preset.config)();
    Some(config(backbone, mixer))
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
    fn infos<C>(presets: &[Preset<C>]) -> impl Iterator<Item = PresetInfo> {
        presets.iter().map(|preset| PresetInfo {
            name: preset.name,
            purpose: preset.purpose,
        })
    }
    infos(kiln_transformer::PRESETS)
        .chain(infos(kiln_resnet_bk::PRESETS))
        .chain(infos(kiln_resolvent::PRESETS))
        .chain(infos(kiln_baselines::CONV_PRESETS))
        .chain(infos(kiln_baselines::GLA_PRESETS))
        .chain(infos(kiln_baselines::MIN_GRU_PRESETS))
        .chain(infos(kiln_baselines::FNET_PRESETS))
        .chain(infos(kiln_students::PRESETS))
        .collect()
}
