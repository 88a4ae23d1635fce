//! The figures of one model on one device.

use std::path::Path;

use kiln_run::hardware::Provenance;
use kiln_run::{FileError, atomic_write};
use kiln_zoo::Precision;
use serde::{Deserialize, Serialize};

use crate::CostError;

/// Layout version of [`Cost`].
pub const COST_VERSION: u32 = 2;

/// What a model costs on a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// [`COST_VERSION`].
    pub version: u32,
    /// The run folder's name, the recipe's or the preset's.
    pub name: String,
    /// Where the weights come from.
    pub weights: Weights,
    /// The backend and the number of its device: "flex", "cuda:1".
    pub backend: String,
    /// What the model computes in; its weights are f32 either way. Figures of two precisions are not those of two models.
    pub precision: Precision,
    /// Machine, threads, versions, commit, command line and the moment the measurement began; its seed is the weights'.
    pub provenance: Provenance,
    /// What was asked for.
    pub settings: Settings,
    /// Numbers in the model's parameters.
    pub parameters: Parameters,
    /// Bytes of the parameters in the device's memory.
    pub weight_bytes: u64,
    /// Files on disk; none without a run.
    pub files: Option<Files>,
    /// A training step.
    pub training: Outcome<TrainingCost>,
    /// Generation by batch and length, in the order of measurement.
    pub rows: Vec<Row>,
}

/// Where weights come from. Times do not depend on it; there is no quality to set beside them without training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weights {
    /// A finished run.
    Trained,
    /// A seed.
    Initial,
}

/// What is measured, and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Prompt lengths in tokens.
    pub lengths: Vec<usize>,
    /// Sequences side by side.
    pub batches: Vec<usize>,
    /// Seconds for all rows and the training step together.
    pub seconds: f64,
}

/// Numbers in parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Those that training changes.
    pub trainable: u64,
    /// All of them.
    pub all: u64,
}

/// Bytes on disk of what a finished run's model needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// `model.safetensors`.
    pub weights: u64,
    /// `tokenizer.json`.
    pub tokenizer: u64,
    /// `config.json`.
    pub config: u64,
}

/// One batch at one length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Sequences side by side.
    pub batch: usize,
    /// Tokens of each before decoding.
    pub length: usize,
    /// What was found.
    #[serde(flatten)]
    pub outcome: Outcome<RowCost>,
}

/// Figures, or why there are none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome<T> {
    /// It was measured.
    Measured(T),
    /// It was not tried.
    LeftOut {
        /// Why.
        reason: String,
    },
    /// It was tried and ended in an error.
    Failed {
        /// The error.
        reason: String,
    },
}

/// Generation and scoring of one batch at one length. A bidirectional model has neither prefill, decoding nor state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowCost {
    /// The whole prompt at once, from the initial state, with the state after it.
    pub prefill: Option<Pace>,
    /// One step: a token more for every sequence, from the state after the prompt on.
    pub decode: Option<Pace>,
    /// The whole sequence at once, without state.
    pub forward: Pace,
    /// Bytes of the state of one sequence at that length, as the model answers.
    pub state_bytes: Option<u64>,
    /// The same counted off the tensors of the state.
    pub counted_state_bytes: Option<u64>,
    /// Most memory during the row in bytes, weights included (see [`TrainingCost::peak_memory_bytes`]).
    pub peak_memory_bytes: Option<u64>,
}

/// One update: forward, backward, clipping, optimizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingCost {
    /// Sequences of one forward pass.
    pub batch: usize,
    /// Tokens of a sequence.
    pub seq: usize,
    /// Forward passes of one update.
    pub accumulate: usize,
    /// The update.
    pub step: Pace,
    /// Most memory during the updates in bytes, weights and optimizer included. On the CPU the peak resident set of the process,
    /// on a GPU what the allocator reserved; none where neither is known.
    pub peak_memory_bytes: Option<u64>,
}

/// Time of a piece of work that is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// Seconds of one repetition.
    pub seconds: Spread,
    /// Tokens of all sequences over the median time.
    pub tokens_per_second: f64,
    /// Energy of the device; none where it does not report it, or worked too short for its counter.
    pub energy: Option<Energy>,
}

/// Median and quartiles over repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// The middle.
    pub median: f64,
    /// A quarter of the repetitions took less.
    pub lower_quartile: f64,
    /// A quarter of the repetitions took more.
    pub upper_quartile: f64,
    /// Repetitions after warm-up.
    pub repeats: usize,
}

/// Energy of the whole device, its idle power included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Energy {
    /// Joules a token: generated, read or trained on.
    pub joules_per_token: f64,
    /// Average power in watts.
    pub watts: f64,
}

impl<T> Outcome<T> {
    /// The figures, if there are any.
    pub fn measured(&self) -> Option<&T> {
        match self {
            Self::Measured(figures) => Some(figures),
            Self::LeftOut { .. } | Self::Failed { .. } => None,
        }
    }

    /// Why there are no figures.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Measured(_) => None,
            Self::LeftOut { reason } | Self::Failed { reason } => Some(reason),
        }
    }
}

impl Cost {
    /// The figures of a batch and length.
    pub fn at(&self, batch: usize, length: usize) -> Option<&RowCost> {
        let row = self
            .rows
            .iter()
            .find(|row| row.batch == batch && row.length == length)?;
        row.outcome.measured()
    }

    /// Writes it as JSON, atomically.
    ///
    /// # Errors
    /// See [`atomic_write`].
    pub fn write(&self, path: &Path) -> Result<(), CostError> {
        Ok(atomic_write(path, |out| {
            serde_json::to_writer_pretty(&mut *out, self)?;
            out.write_all(b"\n")
        })?)
    }

    /// Reads what [`Cost::write`] wrote.
    ///
    /// # Errors
    /// A file that is missing, of another layout, or no cost.
    pub fn read(path: &Path) -> Result<Self, CostError> {
        /// All that every layout has.
        #[derive(Deserialize)]
        struct Head {
            version: u64,
        }
        let text = std::fs::read(path).map_err(FileError::io("read", path))?;
        let bad = |error: serde_json::Error| CostError::BadFile {
            path: path.into(),
            why: error.to_string(),
        };
        let found = serde_json::from_slice::<Head>(&text).map_err(bad)?.version;
        if found != u64::from(COST_VERSION) {
            return Err(CostError::WrongVersion {
                path: path.into(),
                found,
                expected: COST_VERSION,
            });
        }
        serde_json::from_slice(&text).map_err(bad)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::collections::BTreeMap;

    use kiln_run::hardware::Hardware;

    use super::*;

    pub fn pace(median: f64) -> Pace {
        Pace {
            seconds: Spread {
                median,
                lower_quartile: 0.9 * median,
                upper_quartile: 1.25 * median,
                repeats: 5,
            },
            tokens_per_second: 1.0 / median,
            energy: Some(Energy {
                joules_per_token: 0.5,
                watts: 0.5 / median,
            }),
        }
    }

    /// A row whose prefill takes `prefill` seconds and a step of which takes `decode`.
    pub fn row(batch: usize, length: usize, [prefill, decode]: [f64; 2], state_bytes: u64) -> Row {
        Row {
            batch,
            length,
            outcome: Outcome::Measured(RowCost {
                prefill: Some(pace(prefill)),
                decode: Some(pace(decode)),
                forward: pace(0.75 * prefill),
                state_bytes: Some(state_bytes),
                counted_state_bytes: Some(state_bytes),
                peak_memory_bytes: None,
            }),
        }
    }

    pub fn cost(name: &str, rows: Vec<Row>) -> Cost {
        let versions = BTreeMap::from([("burn".to_string(), "0.22.1".to_string())]);
        let hardware = Hardware::detect(Some("flex".into()));
        Cost {
            version: COST_VERSION,
            name: name.into(),
            weights: Weights::Trained,
            backend: "flex".into(),
            precision: Precision::Bf16,
            provenance: Provenance::gather("no/such/folder".as_ref(), hardware, versions, 7),
            settings: Settings {
                lengths: rows.iter().map(|row| row.length).collect(),
                batches: vec![1],
                seconds: 60.0,
            },
            parameters: Parameters {
                trainable: 90,
                all: 100,
            },
            weight_bytes: 400,
            files: Some(Files {
                weights: 500,
                tokenizer: 20,
                config: 10,
            }),
            training: Outcome::Measured(TrainingCost {
                batch: 4,
                seq: 16,
                accumulate: 1,
                step: pace(0.25),
                peak_memory_bytes: Some(1 << 20),
            }),
            rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{cost, row};
    use super::*;

    #[test]
    fn a_cost_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cost.json");
        let mut written = cost("a", vec![row(1, 64, [0.125, 0.0625], 512)]);
        written.rows.push(Row {
            batch: 8,
            length: 1 << 16,
            outcome: Outcome::LeftOut {
                reason: "learned positions".into(),
            },
        });
        written.training = Outcome::Failed {
            reason: "out of memory".into(),
        };
        written.write(&path).unwrap();
        assert_eq!(Cost::read(&path).unwrap(), written);
        assert!(written.at(1, 64).is_some() && written.at(8, 1 << 16).is_none());
        let text = std::fs::read_to_string(&path).unwrap();
        for part in [
            "\"version\": 2",
            "\"precision\": \"bf16\"",
            "\"outcome\": \"measured\"",
            "\"outcome\": \"left-out\"",
            "\"reason\": \"learned positions\"",
        ] {
            assert!(text.contains(part), "`{part}` is not in {text}");
        }
    }

    #[test]
    fn another_layout_and_other_files_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cost.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Cost::read(&path).unwrap_err()
        };
        let error = read("{\"version\": 3, \"of\": \"the future\"}");
        assert!(
            matches!(
                &error,
                CostError::WrongVersion {
                    found: 3,
                    expected: 2,
                    ..
                }
            ),
            "{error}"
        );
        let said = error.to_string();
        assert!(
            said.contains("cost.json has layout 3, and this Kiln reads 2"),
            "{said}"
        );
        for text in ["{}", "no json", "{\"version\": 2}"] {
            let error = read(text);
            assert!(
                matches!(&error, CostError::BadFile { .. }),
                "{text}: {error}"
            );
        }
        let error = Cost::read(&folder.path().join("none.json")).unwrap_err();
        assert!(error.to_string().starts_with("cannot read "), "{error}");
    }
}
