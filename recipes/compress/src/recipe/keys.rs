//! A stage as TOML has it, checked key by key: a key that its kind or method does not read is an error, not ignored.

mod integer;
mod prune;
mod training;

use std::collections::BTreeMap;

use kiln_train::{InputSteps, ModelSection};
use serde::{Deserialize, Serialize};

use super::{
    Auto, Complex, Factorize, Part, Quantize, QuantizeMethod, Rewind, Selection, Stage, Structured,
    Work,
};
use crate::quantize::{Clip, Grid};
use integer::integer_keys;
use prune::prune_keys;
use training::{recover_keys, student_keys};

/// First damping of a Hessian, as in GPTQ and SparseGPT.
const DAMPING: f64 = 0.01;
/// First damping of whitening: just enough for the factor to exist, as more of it would blur what the inputs say.
const WHITENING: f64 = 1e-4;
/// Inputs that share a scale.
const GROUP: usize = 64;
/// The fewest bits that a layer can be given where a budget decides.
const AUTO_LEAST: u8 = 2;
/// Windows that it decides on.
const AUTO_WINDOWS: usize = 32;

/// The keys of `[[stage]]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bits: Option<Bits>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bits_of: Option<BTreeMap<String, u8>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    budget: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    windows: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    symmetric: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    learned: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nearest_group: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clip: Option<Clip>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    complex: Option<Complex>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    damping: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    act_order: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alpha: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inputs: Option<InputSteps>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sparsity: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    initial: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    every: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pattern: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keep: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    part: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    share: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    multiple: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    steps: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    student: Option<ModelSection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    init_layers: Option<Vec<usize>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fresh: Option<Vec<kiln_zoo::Part>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    learning_rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    distill: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rank: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    except: Option<Vec<String>>,
}

/// Bits of a weight: a number, or `"auto"`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Bits {
    Number(u8),
    Word(Word),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Word {
    Auto,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    #[default]
    Quantize,
    Prune,
    Structured,
    LowRank,
    Recover,
    Qat,
    Gradual,
    Distill,
    Rewind,
    Half,
}

impl TryFrom<Keys> for Stage {
    type Error = String;

    fn try_from(mut keys: Keys) -> Result<Self, String> {
        let work = match keys.kind {
            Kind::Quantize => match keys.eight_bits()? {
                Some(work) => work,
                None => Work::Quantize(keys.quantize()?),
            },
            Kind::Prune => Work::Prune(keys.prune()?),
            Kind::Structured => Work::Structured(keys.structured()?),
            Kind::LowRank => Work::LowRank(keys.low_rank()?),
            Kind::Recover => Work::Recover(Box::new(keys.recover(None)?)),
            Kind::Gradual => Work::Recover(Box::new(keys.gradual()?)),
            Kind::Qat => Work::Recover(Box::new(keys.qat()?)),
            Kind::Distill => Work::Distill(Box::new(keys.student()?)),
            Kind::Rewind => Work::Rewind(keys.rewind()?),
            Kind::Half => Work::Half,
        };
        let mut layers = Selection::default();
        // A stage that works on the whole model has no layers to choose from.
        if !work.is_whole() {
            layers.layers = keys.layers.take().unwrap_or(layers.layers);
            layers.except = keys.except.take().unwrap_or(layers.except);
        }
        keys.nothing_left(&work)?;
        Ok(Self { work, layers })
    }
}

impl Keys {
    fn method(&mut self, kind: &str, known: &str) -> Result<String, String> {
        let missing = || format!("a {kind} stage needs a `method`: {known}");
        self.method.take().ok_or_else(missing)
    }

    fn quantize(&mut self) -> Result<Quantize, String> {
        const KNOWN: &str = "rtn, gptq, awq, w8a8, smoothquant or fp8";
        let method = match self.method("quantize", KNOWN)?.as_str() {
            "rtn" => QuantizeMethod::RoundToNearest,
            "gptq" => QuantizeMethod::Gptq {
                damping: self.damping.take().unwrap_or(DAMPING),
                act_order: self.act_order.take().unwrap_or(false),
            },
            "awq" => QuantizeMethod::Awq,
            other => return Err(unknown_method(other, KNOWN)),
        };
        let bits_of = self.bits_of.take().unwrap_or_default();
        let (bits, auto) = match self.bits.take() {
            Some(Bits::Number(bits)) => (bits, None),
            Some(Bits::Word(Word::Auto)) => (AUTO_LEAST, Some(self.auto()?)),
            None => return Err("a quantize stage needs `bits`: 2, 3, 4, 8 or \"auto\"".into()),
        };
        let grid = Grid {
            bits,
            symmetric: self.symmetric.take().unwrap_or(false),
        };
        for bits in bits_of.values().chain([&grid.bits]) {
            let grid = Grid {
                bits: *bits,
                ..grid
            };
            grid.check().map_err(|error| error.to_string())?;
        }
        Ok(Quantize {
            method,
            grid,
            auto,
            bits_of: bits_of.into_iter().collect(),
            group: self.group.take().unwrap_or(GROUP),
            nearest_group: self.nearest_group.take().unwrap_or(false),
            clip: self.clip.take().unwrap_or_default(),
            complex: self.complex.take(),
        })
    }

    fn auto(&mut self) -> Result<Auto, String> {
        let windows = self.windows.take().unwrap_or(AUTO_WINDOWS);
        if windows == 0 {
            return Err("`windows` is 0, but must be at least 1".into());
        }
        match self.budget.take() {
            Some(budget) if budget > 0.0 && budget < 1.0 => Ok(Auto { budget, windows }),
            Some(budget) => Err(format!("`budget` is {budget}, but must lie in (0, 1)")),
            None => Err("`bits = \"auto\"` needs `budget`, the share of the layers' bytes in 32 bits that they may take".into()),
        }
    }

    fn structured(&mut self) -> Result<Structured, String> {
        let missing = "a structured stage needs a `part`: mlp, heads or layers";
        let part = Part::named(&self.part.take().ok_or(missing)?)?;
        let known = part.methods();
        let method = self.method("structured", &known)?;
        let importance = part.importance(&method);
        let importance = importance.ok_or_else(|| unknown_method(&method, &known))?;
        let share = match self.share.take() {
            Some(share) if share > 0.0 && share < 1.0 => share,
            Some(share) => return Err(format!("`share` is {share}, but must lie in (0, 1)")),
            None => {
                return Err("a structured stage needs `share`, that of the units that go".into());
            }
        };
        let multiple = self.multiple.take().unwrap_or(1);
        match multiple {
            0 => Err("`multiple` is 0, but must be at least 1".into()),
            _ => Ok(Structured {
                part,
                importance,
                share,
                multiple,
            }),
        }
    }

    fn rewind(&mut self) -> Result<Rewind, String> {
        match self.to.take() {
            Some(0) => {
                Err("`to` is 0, but must be at least 1: the first step that a run can keep".into())
            }
            Some(step) => Ok(Rewind { step }),
            None => Err(
                "a rewind stage needs `to`, the step of the original's training to go back to"
                    .into(),
            ),
        }
    }

    fn low_rank(&mut self) -> Result<Factorize, String> {
        const KNOWN: &str = "svd or whitened";
        let whitened = match self.method("low-rank", KNOWN)?.as_str() {
            "svd" => None,
            "whitened" => Some(self.damping.take().unwrap_or(WHITENING)),
            other => return Err(unknown_method(other, KNOWN)),
        };
        match self.keep.take() {
            Some(keep) if keep > 0.0 && keep < 1.0 => Ok(Factorize { keep, whitened }),
            Some(keep) => Err(format!("`keep` is {keep}, but must lie in (0, 1)")),
            None => Err("a low-rank stage needs `keep`, the share of weights that stay".into()),
        }
    }

    /// All that was not taken has no meaning here.
    fn nothing_left(&self, work: &Work) -> Result<(), String> {
        let left = toml::Table::try_from(self).map_err(|error| error.to_string())?;
        match left.keys().find(|key| *key != "kind") {
            None => Ok(()),
            Some(key) => Err(format!(
                "`{key}` does nothing in a {} stage of this method; leave it out",
                work.kind()
            )),
        }
    }
}

fn unknown_method(name: &str, known: &str) -> String {
    format!("there is no method `{name}` here; choose {known}")
}

/// The keys that say the same, defaults included.
impl From<Stage> for Keys {
    fn from(stage: Stage) -> Self {
        let whole = stage.work.is_whole();
        let keys = match stage.work {
            Work::Quantize(work) => quantize_keys(work),
            Work::Integer(work) => integer_keys(work),
            Work::Float8 => Self {
                method: Some("fp8".into()),
                ..Self::default()
            },
            Work::Prune(work) => prune_keys(work),
            Work::Structured(work) => Self {
                kind: Kind::Structured,
                method: Some(work.method().into()),
                part: Some(work.part.name().into()),
                share: Some(work.share),
                multiple: Some(work.multiple),
                ..Self::default()
            },
            Work::LowRank(work) => Self {
                kind: Kind::LowRank,
                method: Some(
                    if work.whitened.is_some() {
                        "whitened"
                    } else {
                        "svd"
                    }
                    .into(),
                ),
                keep: Some(work.keep),
                damping: work.whitened,
                ..Self::default()
            },
            Work::Recover(work) => return recover_keys(*work),
            Work::Distill(work) => return student_keys(*work),
            Work::Rewind(work) => Self {
                kind: Kind::Rewind,
                to: Some(work.step),
                ..Self::default()
            },
            Work::Half => Self {
                kind: Kind::Half,
                ..Self::default()
            },
        };
        Self {
            layers: (!whole).then_some(stage.layers.layers),
            except: (!whole).then_some(stage.layers.except),
            ..keys
        }
    }
}

fn quantize_keys(work: Quantize) -> Keys {
    let (method, damping, act_order) = match work.method {
        QuantizeMethod::RoundToNearest => ("rtn", None, None),
        QuantizeMethod::Gptq { damping, act_order } => ("gptq", Some(damping), Some(act_order)),
        QuantizeMethod::Awq => ("awq", None, None),
    };
    Keys {
        kind: Kind::Quantize,
        method: Some(method.into()),
        bits: Some(match work.auto {
            Some(_) => Bits::Word(Word::Auto),
            None => Bits::Number(work.grid.bits),
        }),
        budget: work.auto.map(|auto| auto.budget),
        windows: work.auto.map(|auto| auto.windows),
        bits_of: Some(work.bits_of.into_iter().collect()),
        symmetric: Some(work.grid.symmetric),
        group: Some(work.group),
        nearest_group: Some(work.nearest_group),
        clip: Some(work.clip),
        complex: work.complex,
        damping,
        act_order,
        ..Keys::default()
    }
}
