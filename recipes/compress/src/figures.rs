//! What a compression cost and saved, stage by stage: `stage.json` of each stage and `compress.json` of all.

use std::path::Path;

use kiln_cost::{ColdStart, Pace};
use kiln_run::{FileError, atomic_write};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::CompressError;
use crate::apply::LayerFigures;
use crate::judge::Quality;
use crate::recipe::CompressRecipe;

/// Layout version of [`StageFigures`] and [`Compression`].
pub const COMPRESS_VERSION: u32 = 1;

/// The figures of all stages, in the folder of a compression.
pub(crate) const FIGURES: &str = "compress.json";

/// A model and what it took to make it of the one before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageFigures {
    /// [`COMPRESS_VERSION`].
    pub version: u32,
    /// Number of the stage, from 1 on; 0 is the original.
    pub number: usize,
    /// What was done, in a few words: `gptq, 4 bits, group 64`.
    pub what: String,
    /// Seconds of calibration and compression, without measuring.
    pub seconds: f64,
    /// Tokens of the calibration; 0 if the stage needs none.
    pub calibration_tokens: u64,
    /// Bytes of `model.safetensors` and `config.json`: weights, scales, masks, names and the storage of every tensor.
    pub file_bytes: u64,
    /// Bytes of the weights in the device's memory, as the opened run holds them.
    pub memory_bytes: u64,
    /// SHA-256 of `model.safetensors`.
    pub weights: String,
    /// Scores on the validation split.
    pub quality: Quality,
    /// Decoding of one sequence, warm; none for a bidirectional model, and where it was not asked for.
    pub decode: Option<Pace>,
    /// Its first tokens, from the folder on, where decoding was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold: Option<ColdStart>,
    /// What became of every layer that the stage worked on.
    pub layers: Vec<LayerFigures>,
    /// What every number of bits was found to cost in every layer, where a budget decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bits: Vec<BitsFigures>,
}

/// What a number of bits costs in a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BitsFigures {
    /// The layer.
    pub layer: String,
    /// Bits of a weight.
    pub bits: u8,
    /// Bytes of the layer.
    pub bytes: u64,
    /// Kullback-Leibler divergence of the model's distribution from that before the stage in nats a token, with this layer alone in so
    /// many bits, on text of the calibration.
    pub loss: f64,
    /// Whether the layer got them.
    pub chosen: bool,
}

/// A whole compression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compression {
    /// [`COMPRESS_VERSION`].
    pub version: u32,
    /// Name of the recipe.
    pub name: String,
    /// The resolved recipe.
    pub recipe: CompressRecipe,
    /// Corpus or task of the run.
    pub corpus: String,
    /// The original.
    pub original: StageFigures,
    /// After every stage.
    pub stages: Vec<StageFigures>,
}

impl StageFigures {
    /// Size of the file as a share of another's.
    pub fn file_ratio(&self, original: &Self) -> f64 {
        self.file_bytes as f64 / original.file_bytes as f64
    }

    /// Memory of the weights as a share of another's.
    pub fn memory_ratio(&self, original: &Self) -> f64 {
        self.memory_bytes as f64 / original.memory_bytes as f64
    }
}

impl Compression {
    /// The result: the last stage, or the original before the first.
    pub fn last(&self) -> &StageFigures {
        self.stages.last().unwrap_or(&self.original)
    }
}

/// SHA-256 of the weights that a run was compressed of; none of a run that no compression made.
///
/// # Errors
/// A `compress.json` that is damaged, or of another layout.
pub fn original_of(run: &Path) -> Result<Option<String>, CompressError> {
    let path = run.join(FIGURES);
    match path.is_file() {
        true => Ok(Some(read::<Compression>(&path)?.original.weights)),
        false => Ok(None),
    }
}

/// Writes figures, atomically.
pub(crate) fn write<T: Serialize>(figures: &T, path: &Path) -> Result<(), FileError> {
    atomic_write(path, |out| {
        serde_json::to_writer_pretty(&mut *out, figures).map_err(std::io::Error::from)
    })
}

/// Reads figures of this version.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, CompressError> {
    let bad = |why: String| CompressError::BadFile {
        path: path.into(),
        why,
    };
    let text = std::fs::read(path).map_err(FileError::io("read", path))?;
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| bad(format!("it is no JSON: {error}")))?;
    let version = value.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(COMPRESS_VERSION.into()) {
        let found = version.map_or("none".into(), |version| version.to_string());
        return Err(bad(format!(
            "its version is {found}, and this Kiln reads {COMPRESS_VERSION}"
        )));
    }
    serde_json::from_value(value).map_err(|error| bad(error.to_string()))
}
