//! What a compression recipe says: where the model is, what it is calibrated on, and the stages in their order.

mod integer;
mod keys;
mod quantize;
mod recover;
mod structured;
mod student;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::CompressError;
use crate::layers::EMBEDDING;
use crate::prune::Pattern;
use crate::quantize::Clip;
pub use integer::{Integer, IntegerInputs};
use keys::Keys;
pub use kiln_train::Selection;
pub use quantize::{Auto, Complex, Quantize, QuantizeMethod};
pub use recover::Recover;
pub use structured::{Importance, Part, Structured};
pub use student::Student;

/// Nobody waits longer for the pace of a stage.
const MOST_SECONDS: f64 = 3600.0;

/// A compression recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompressRecipe {
    /// One line for the book's table of contents.
    #[serde(default)]
    pub description: String,
    /// Run folder of the model; recipes of the book leave it to `--set from=RUN`.
    #[serde(default)]
    pub from: String,
    /// What the layers' inputs are taken from.
    #[serde(default)]
    pub calibration: Calibration,
    /// What every stage is measured on.
    #[serde(default)]
    pub measure: Measure,
    /// What is done, in this order.
    pub stage: Vec<Stage>,
}

/// Windows of training text that the methods see the layers' inputs on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Calibration {
    /// Corpus, tokenized as the run's; empty is the run's own.
    pub corpus: String,
    /// Number of windows, each as long as those the run was trained on.
    pub windows: usize,
    /// Which windows.
    pub seed: u64,
    /// Windows of one forward pass.
    pub batch: usize,
    /// Whether the layers of a block see the inputs that the compressed blocks before it give them, which costs a pass a block;
    /// otherwise those of the model before the stage. Low rank shares its budget among all layers at once, and does not read it.
    pub sequential: bool,
}

impl Default for Calibration {
    fn default() -> Self {
        Self {
            corpus: String::new(),
            windows: 512,
            seed: 1,
            batch: 16,
            sequential: true,
        }
    }
}

/// How a stage's result is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Measure {
    /// Most validation windows to score; 0 is all.
    pub windows: usize,
    /// Windows of one forward pass.
    pub batch: usize,
    /// Seconds of decoding; 0 leaves its speed out.
    pub decode_seconds: f64,
    /// Validation windows on which each layer is measured alone, all others being as before the stage; 0 leaves that out.
    pub sensitivity_windows: usize,
}

impl Default for Measure {
    fn default() -> Self {
        Self {
            windows: 0,
            batch: 16,
            decode_seconds: 2.0,
            sensitivity_windows: 0,
        }
    }
}

/// One stage: what is done to which layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Keys", into = "Keys")]
pub struct Stage {
    /// What is done.
    pub work: Work,
    /// To which layers.
    pub layers: Selection,
}

/// What a stage does.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Weights become codes of a few bits.
    Quantize(Quantize),
    /// Weights and the inputs that they multiply become integers of 8 bits.
    Integer(Integer),
    /// Weights become floating point of 8 bits (E4M3), with a scale an output.
    Float8,
    /// Weights become zero.
    Prune(Prune),
    /// Units go, and tensors get smaller.
    Structured(Structured),
    /// Matrices become products of two.
    LowRank(Factorize),
    /// The model is trained for a while.
    Recover(Box<Recover>),
    /// Another model is trained in its place.
    Distill(Box<Student>),
    /// Weights that are left go back to what they were in the original's training, and are trained from there.
    Rewind(Rewind),
    /// What is still in 32 bits is stored in 16.
    Half,
}

/// A stage that goes back in the original's training (arXiv 2003.02389).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewind {
    /// Updates of the original after which it kept a checkpoint; the rest of its updates follow.
    pub step: u64,
}

/// A stage that prunes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prune {
    /// Which weights may go.
    pub pattern: Pattern,
    /// Which of them go.
    pub method: PruneMethod,
}

/// Which weights go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PruneMethod {
    /// The smallest.
    Magnitude,
    /// Those that carry least.
    Wanda,
    /// Those whose loss can be made up for.
    SparseGpt {
        /// See [`crate::prune::SparseGptConfig::damping`].
        damping: f64,
    },
}

/// A stage of low rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factorize {
    /// Share of the layers' weights that the factors may have, all of them together.
    pub keep: f64,
    /// Damping of the Hessian that the error is weighted with; none for the plain decomposition.
    pub whitened: Option<f64>,
}

impl CompressRecipe {
    /// Checks what no single key shows.
    ///
    /// # Errors
    /// Names the first key that cannot be, and its bound.
    pub fn check(&self) -> Result<(), CompressError> {
        let bad = |key, value: String, why: &str| {
            Err(CompressError::Setting {
                key,
                value,
                why: why.into(),
            })
        };
        if self.from.is_empty() {
            return bad(
                "from",
                "empty".into(),
                "a run folder is needed: --set from=RUN",
            );
        }
        if self.stage.is_empty() {
            return bad("stage", "empty".into(), "at least one [[stage]] is needed");
        }
        for (key, value) in [
            ("calibration.windows", self.calibration.windows),
            ("calibration.batch", self.calibration.batch),
            ("measure.batch", self.measure.batch),
        ] {
            if value == 0 {
                return bad(key, "0".into(), "must be at least 1");
            }
        }
        let seconds = self.measure.decode_seconds;
        match (0.0..=MOST_SECONDS).contains(&seconds) {
            true => Ok(()),
            false => bad(
                "measure.decode_seconds",
                seconds.to_string(),
                "must lie in [0, 3600]",
            ),
        }
    }
}

impl Stage {
    /// The stage by the method of its kind that needs no calibration: another result of the same size.
    pub fn without_calibration(&self) -> Self {
        let work = match self.work.clone() {
            Work::Quantize(quantize) => Work::Quantize(Quantize {
                method: QuantizeMethod::RoundToNearest,
                clip: Clip::None,
                ..quantize
            }),
            Work::Integer(integer) => Work::Integer(integer.without_calibration()),
            Work::Float8 => Work::Float8,
            Work::Prune(prune) => Work::Prune(Prune {
                method: PruneMethod::Magnitude,
                ..prune
            }),
            Work::LowRank(factorize) => Work::LowRank(Factorize {
                whitened: None,
                ..factorize
            }),
            Work::Structured(structured) => Work::Structured(Structured {
                importance: Importance::Random,
                ..structured
            }),
            Work::Recover(recover) => Work::Recover(recover),
            Work::Distill(student) => Work::Distill(student),
            Work::Rewind(rewind) => Work::Rewind(rewind),
            Work::Half => Work::Half,
        };
        Self {
            work,
            layers: self.layers.clone(),
        }
    }
}

/// In a few words, for tables.
impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quantize(quantize) => quantize.fmt(f),
            Self::Integer(integer) => integer.fmt(f),
            Self::Float8 => f.write_str("fp8, scales by output"),
            Self::Prune(Prune { pattern, method }) => {
                let method = match method {
                    PruneMethod::Magnitude => "magnitude",
                    PruneMethod::Wanda => "wanda",
                    PruneMethod::SparseGpt { .. } => "sparsegpt",
                };
                match pattern {
                    Pattern::Unstructured { share } => write!(f, "{method}, {share} zeros"),
                    Pattern::NofM { keep, of } => write!(f, "{method}, {keep}:{of}"),
                }
            }
            Self::Structured(structured) => structured.fmt(f),
            Self::Recover(recover) => recover.fmt(f),
            Self::Distill(student) => student.fmt(f),
            Self::Rewind(rewind) => write!(f, "back to step {}, trained from there", rewind.step),
            Self::LowRank(Factorize { keep, whitened }) => {
                let method = if whitened.is_some() {
                    "whitened svd"
                } else {
                    "svd"
                };
                write!(f, "{method}, {keep} of the weights")
            }
            Self::Half => f.write_str("rest in 16 bits"),
        }
    }
}

impl Work {
    /// Whether it works on the model as a whole: no layer is left out, and none can be changed alone.
    pub fn is_whole(&self) -> bool {
        matches!(
            self,
            Self::Structured(_) | Self::Recover(_) | Self::Distill(_) | Self::Rewind(_)
        )
    }

    /// Its kind, as recipes call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Quantize(_) | Self::Integer(_) | Self::Float8 => "quantize",
            Self::Prune(_) => "prune",
            Self::Structured(_) => "structured",
            Self::Recover(recover) => recover.kind(),
            Self::Distill(_) => "distill",
            Self::Rewind(_) => "rewind",
            Self::LowRank(_) => "low-rank",
            Self::Half => "half",
        }
    }

    /// Whether it runs text of the calibration through the model.
    pub fn is_calibrated(&self) -> bool {
        match self {
            Self::Quantize(quantize) => quantize.method != QuantizeMethod::RoundToNearest,
            Self::Integer(integer) => integer.is_calibrated(),
            Self::Prune(prune) => prune.method != PruneMethod::Magnitude,
            Self::LowRank(factorize) => factorize.whitened.is_some(),
            Self::Structured(structured) => !matches!(
                structured.importance,
                Importance::Magnitude | Importance::Random
            ),
            Self::Recover(_) | Self::Distill(_) | Self::Rewind(_) | Self::Half | Self::Float8 => {
                false
            }
        }
    }

    /// Whether it goes by what the calibration knows of a layer. AWQ scales inputs, of which an embedding has none.
    pub fn goes_by(&self, layer: &str) -> bool {
        let scales_inputs =
            matches!(self, Self::Quantize(quantize) if quantize.method == QuantizeMethod::Awq);
        self.is_calibrated() && !(scales_inputs && layer == EMBEDDING)
    }
}

#[cfg(test)]
mod tests;
