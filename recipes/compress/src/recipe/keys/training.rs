//! The keys of stages that train.

use kiln_quant::Encoding;
use kiln_train::{AdaptersConfig, PruneConfig, QuantizeConfig, Selection};

use super::{Bits, GROUP, Keys, Kind, unknown_method};
use crate::quantize::Clip;
use crate::recipe::{Recover, Student};

/// Peak learning rate: a small one, as the weights are near a minimum.
const LEARNING_RATE: f64 = 3e-4;
/// The same of a model that has still to be learned.
const STUDENT_RATE: f64 = 1e-3;
/// Share of its loss that the original gives it.
const STUDENT_SHARE: f64 = 0.9;
/// As `[distill]` of training has it.
const TEMPERATURE: f64 = 2.0;

impl Keys {
    /// What both kinds read.
    pub(super) fn recover(&mut self, quantize: Option<QuantizeConfig>) -> Result<Recover, String> {
        let steps = self.steps.take();
        let steps = steps.ok_or("a stage that trains needs `steps`, the number of updates")?;
        if steps == 0 {
            return Err("`steps` is 0, but must be at least 1".into());
        }
        let learning_rate = self.learning_rate.take().unwrap_or(LEARNING_RATE);
        if !(learning_rate > 0.0 && learning_rate <= 10.0) {
            return Err(format!(
                "`learning_rate` is {learning_rate}, but must lie in (0, 10]"
            ));
        }
        let distill = self.distill.take().unwrap_or(0.0);
        if !(0.0..=1.0).contains(&distill) {
            return Err(format!("`distill` is {distill}, but must lie in [0, 1]"));
        }
        // Without a teacher a temperature is left over, and told as a key that does nothing.
        let temperature = match distill {
            0.0 => TEMPERATURE,
            _ => self.temperature.take().unwrap_or(TEMPERATURE),
        };
        Ok(Recover {
            steps,
            learning_rate,
            batch: self.batch.take().unwrap_or(0),
            distill,
            temperature,
            quantize,
            prune: None,
            adapters: self.adapters()?,
        })
    }

    fn adapters(&mut self) -> Result<Option<AdaptersConfig>, String> {
        // Without a rank an `alpha` is left over, and told as a key that does nothing.
        let Some(rank) = self.rank.take() else {
            return Ok(None);
        };
        let config = AdaptersConfig {
            alpha: self.alpha.take(),
            ..AdaptersConfig::new(rank)
        };
        config.check().map_err(|error| error.to_string())?;
        Ok(Some(config))
    }

    pub(super) fn gradual(&mut self) -> Result<Recover, String> {
        let missing = "a gradual stage needs `sparsity`, the share of zeros in the end";
        let plain = PruneConfig::new(self.sparsity.take().ok_or(missing)?);
        let config = PruneConfig {
            initial: self.initial.take().unwrap_or(plain.initial),
            end: self.end.take().unwrap_or(plain.end),
            every: self.every.take().unwrap_or(plain.every),
            layers: self.layers.take().unwrap_or(plain.layers),
            except: self.except.take().unwrap_or(plain.except),
            ..plain
        };
        config.check().map_err(|error| error.to_string())?;
        if self.rank.is_some() {
            return Err("`rank` does nothing in a gradual stage: weights that become zero are those that move; recover by adapters in a stage after it".into());
        }
        Ok(Recover {
            prune: Some(config),
            ..self.recover(None)?
        })
    }

    pub(super) fn student(&mut self) -> Result<Student, String> {
        let missing =
            "a distill stage needs a `student`, such as { preset = \"student-half-char-cpu\" }";
        let model = self.student.take().ok_or(missing)?;
        if self.rank.is_some() {
            return Err("`rank` does nothing in a distill stage: a student has no weights yet to adapt; recover by adapters in a stage after it".into());
        }
        self.learning_rate.get_or_insert(STUDENT_RATE);
        self.distill.get_or_insert(STUDENT_SHARE);
        Ok(Student {
            model,
            layers: self.init_layers.take(),
            fresh: self.fresh.take().unwrap_or_default(),
            training: self.recover(None)?,
        })
    }

    pub(super) fn qat(&mut self) -> Result<Recover, String> {
        const KNOWN: &str = "integer, ternary or sign";
        let encoding = match self.method("qat", KNOWN)?.as_str() {
            "integer" => match self.bits.take() {
                Some(Bits::Number(bits)) => integers(bits)?,
                _ => return Err("a qat stage of integers needs `bits`: 2, 3, 4 or 8".into()),
            },
            "ternary" => Encoding::Ternary,
            "sign" => Encoding::Sign,
            other => return Err(unknown_method(other, KNOWN)),
        };
        let all = Selection::default();
        let inputs = self.inputs.take();
        // Products of signs have no groups.
        let group = if inputs.is_some() { 0 } else { GROUP };
        let mut config = QuantizeConfig {
            group: self.group.take().unwrap_or(group),
            inputs,
            layers: self.layers.take().unwrap_or(all.layers),
            except: self.except.take().unwrap_or(all.except),
            ..QuantizeConfig::new(encoding)
        };
        if !config.group.is_multiple_of(32) {
            return Err(format!(
                "`group` is {}, but must be a multiple of 32, or 0 for one scale an output",
                config.group
            ));
        }
        for (pattern, bits) in self.bits_of.take().unwrap_or_default() {
            config.encoding_of.insert(pattern, integers(bits)?);
        }
        config.learned = self.learned.take().unwrap_or(false);
        if has_integers(&config) {
            config.symmetric = self.symmetric.take().unwrap_or(false);
            config.clip = self.clip.take() == Some(Clip::Mse);
        }
        config.check().map_err(|error| error.to_string())?;
        self.recover(Some(config))
    }
}

/// Whether some layer has integer levels.
fn has_integers(config: &QuantizeConfig) -> bool {
    let mut all = config.encoding_of.values().chain([&config.encoding]);
    all.any(|encoding| encoding.has_zero_points())
}

fn integers(bits: u8) -> Result<Encoding, String> {
    match bits {
        8 => Ok(Encoding::Int8),
        4 => Ok(Encoding::Int4),
        3 => Ok(Encoding::Int3),
        2 => Ok(Encoding::Int2),
        _ => Err(format!("`bits` is {bits}, but must be 2, 3, 4 or 8")),
    }
}

/// The keys that say the same.
pub(super) fn recover_keys(work: Recover) -> Keys {
    let keys = Keys {
        kind: Kind::Recover,
        steps: Some(work.steps),
        learning_rate: Some(work.learning_rate),
        batch: Some(work.batch),
        distill: Some(work.distill),
        temperature: (work.distill > 0.0).then_some(work.temperature),
        rank: work.adapters.as_ref().map(|adapters| adapters.rank),
        alpha: work.adapters.and_then(|adapters| adapters.alpha),
        ..Keys::default()
    };
    let Some(config) = work.quantize else {
        return match work.prune {
            Some(config) => gradual_keys(keys, config),
            None => keys,
        };
    };
    let (single, integers) = (config.encoding.has_zero_points(), has_integers(&config));
    let bits = |encoding: Encoding| encoding.bits() as u8;
    let bits_of = config.encoding_of.iter();
    let method = match config.encoding {
        Encoding::Ternary => "ternary",
        Encoding::Sign => "sign",
        _ => "integer",
    };
    let clip = match config.clip {
        true => Clip::Mse,
        false => Clip::None,
    };
    Keys {
        kind: Kind::Qat,
        method: Some(method.into()),
        bits: single.then_some(Bits::Number(bits(config.encoding))),
        bits_of: Some(
            bits_of
                .map(|(layer, own)| (layer.clone(), bits(*own)))
                .collect(),
        ),
        learned: Some(config.learned),
        inputs: config.inputs,
        symmetric: integers.then_some(config.symmetric),
        clip: integers.then_some(clip),
        group: Some(config.group),
        layers: Some(config.layers),
        except: Some(config.except),
        ..keys
    }
}

/// The keys that say the same.
pub(super) fn student_keys(work: Student) -> Keys {
    Keys {
        kind: Kind::Distill,
        student: Some(work.model),
        init_layers: work.layers,
        fresh: Some(work.fresh),
        ..recover_keys(work.training)
    }
}

fn gradual_keys(keys: Keys, config: PruneConfig) -> Keys {
    Keys {
        kind: Kind::Gradual,
        sparsity: Some(config.sparsity),
        initial: Some(config.initial),
        end: Some(config.end),
        every: Some(config.every),
        layers: Some(config.layers),
        except: Some(config.except),
        ..keys
    }
}
