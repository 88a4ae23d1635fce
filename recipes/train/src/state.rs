//! What a checkpoint holds: weights, optimizer state, and a position in the run.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use burn::store::{ModuleSnapshot, SafetensorsStore, SafetensorsStoreError};
use burn::tensor::Device;
use kiln_backbone::stable_param_ids;
use kiln_loader::LoaderState;
use kiln_run::{Checkpoint, CheckpointStore, FileError};
use kiln_text::Hash;
use kiln_zoo::{LanguageModel, ModelConfig, Precision};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::optimizer::TrainOptimizer;
use crate::recipe::Objective;
use crate::scale::LossScale;
use crate::storage::{StorageTable, StoredModel, packed};

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.bpk";
const POSITION: &str = "position.json";

/// Where a run stands, apart from its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Optimizer steps tried, skipped ones included.
    pub step: u64,
    /// Target tokens seen.
    pub tokens: u64,
    /// Next training batch.
    pub loader: LoaderState,
    /// Best validation loss so far in nats a token, if there was an evaluation.
    pub best: Option<f64>,
    /// Evaluations since the best one.
    pub evals_since_best: u32,
    /// Steps skipped for a loss or gradient that was not finite.
    pub skipped: u64,
    /// What the loss is multiplied by, in f16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
    /// Whether the last step was left out by the device after the optimizer had counted it: its state is one ahead until the next.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last_lost: bool,
    /// Seconds of training so far, over all resumes.
    pub elapsed_s: f64,
}

/// What `config.json` of a run says: enough to use `model.safetensors` and the tokenizer beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// Version of this file's layout.
    pub version: u32,
    /// The model.
    pub model: ModelConfig,
    /// What it predicts.
    pub objective: Objective,
    /// What it computes in, unless someone asks for something else; its weights are f32 either way.
    #[serde(default, skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// Tokens of a training sequence.
    pub seq: usize,
    /// Corpus or task the model was trained on.
    pub corpus: String,
    /// SHA-256 of that corpus (`rust-deps` changes with every `Cargo.lock`) or of the task's settings.
    pub corpus_hash: String,
    /// SHA-256 of the tokenizer the model was trained with; none for a task.
    pub tokenizer: Option<String>,
    /// SHA-256 of `model.safetensors`: the format has no checksum, and a flipped bit would be a strange loss.
    pub weights: String,
    /// How every tensor is stored in `model.safetensors`; none where all of them are plain numbers in 32 bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageTable>,
}

/// Layout version of [`RunConfig`] without storage, as training writes it.
pub const RUN_CONFIG_VERSION: u32 = 1;

/// Layout version of [`RunConfig`] with storage, as compression writes it: a Kiln that does not know packed weights refuses it.
pub const COMPRESSED_CONFIG_VERSION: u32 = 2;

/// Layout version of [`RunConfig`] with layers whose inputs become integers, or weights in floating point of 8 bits: a Kiln that does not
/// know them refuses it.
pub const EIGHT_BIT_CONFIG_VERSION: u32 = 3;

/// Layout version of [`RunConfig`] with complex layers whose parts share scales: a Kiln that does not know them refuses it.
pub const COMPLEX_CONFIG_VERSION: u32 = 4;

/// Layout version of [`RunConfig`] with layers whose inputs become signs: a Kiln that does not know them refuses it.
pub const SIGNS_CONFIG_VERSION: u32 = 5;

/// Writes weights as safetensors, in the f32 they are trained in. Names are the module's paths without enum variants.
///
/// # Errors
/// An io error that names nothing: callers add the path.
pub fn save_model(model: &LanguageModel, path: &Path) -> io::Result<()> {
    // One entry of metadata: with more of them, their order in the file is random, and equal models differ in bytes.
    let mut store = SafetensorsStore::from_file(path)
        .overwrite(true)
        .skip_enum_variants(true)
        .clear_metadata()
        .metadata("producer", "kiln");
    model.save_into(&mut store).map_err(|error| {
        // Burn's error type does not name its source.
        let below = match &error {
            SafetensorsStoreError::Safetensors(error) => system_error(error),
            SafetensorsStoreError::Io(error) => system_error(error),
            _ => None,
        };
        below.unwrap_or_else(|| io::Error::other(error))
    })
}

/// The system's error below a library's: a full disk is to be told as one, with what helps against it.
fn system_error(error: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error())
        .map(io::Error::from_raw_os_error)
}

/// Builds the model of `config` and fills it with weights, every tensor of which must be there with its shape, and no other.
///
/// # Errors
/// [`TrainError::BadFile`] naming what is missing, left over or of the wrong shape.
pub fn load_model(
    config: &ModelConfig,
    path: &Path,
    device: &Device,
) -> Result<LanguageModel, TrainError> {
    if !path.is_file() {
        return Err(bad(path, "there is no such file".into()));
    }
    let model = config.init(0, device)?;
    load_from(
        SafetensorsStore::from_file(path),
        &BTreeSet::new(),
        model,
        path,
    )
}

/// The same from tensors that were read from `path`: what is packed or factorised stays so in the model, all else is dense there.
///
/// # Errors
/// As [`load_model`].
pub fn load_stored(
    config: &ModelConfig,
    stored: &StoredModel,
    path: &Path,
    device: &Device,
) -> Result<LanguageModel, TrainError> {
    let plain = stored
        .plain()
        .map_err(|error| bad(path, format!("its tensors cannot be laid out: {error}")))?;
    let kept: BTreeSet<&str> = stored.kept().collect();
    let store = SafetensorsStore::from_bytes(Some(plain));
    let mut model = load_from(store, &kept, config.init(0, device)?, path)?;
    match packed::replace(&mut model, stored, device) {
        Ok(()) => Ok(stable_param_ids(model)),
        Err(why) => Err(bad(path, why)),
    }
}

fn bad(path: &Path, why: String) -> TrainError {
    TrainError::BadFile {
        path: path.into(),
        why,
    }
}

/// Fills a model from all tensors but the `absent` ones.
fn load_from(
    store: SafetensorsStore,
    absent: &BTreeSet<&str>,
    mut model: LanguageModel,
    path: &Path,
) -> Result<LanguageModel, TrainError> {
    let bad = |why: String| bad(path, why);
    let mut store = store
        .skip_enum_variants(true)
        .validate(false)
        .allow_partial(true);
    let result = model.load_from(&mut store).map_err(|error| {
        bad(format!(
            "it is no readable safetensors file ({error}); restore it from a checkpoint"
        ))
    })?;
    let names = |names: Vec<String>| names.into_iter().take(4).collect::<Vec<_>>().join(", ");
    if !result.errors.is_empty() {
        let errors = result.errors.iter().map(ToString::to_string).collect();
        return Err(bad(format!(
            "tensors do not fit the model of config.json: {}",
            names(errors)
        )));
    }
    let missing = result.missing.into_iter().map(|(name, _)| name);
    let missing: Vec<String> = missing
        .filter(|name| !absent.contains(name.as_str()))
        .collect();
    if !missing.is_empty() {
        return Err(bad(format!(
            "tensors of the model are missing: {}",
            names(missing)
        )));
    }
    if !result.unused.is_empty() {
        return Err(bad(format!(
            "it has tensors the model does not know: {}",
            names(result.unused)
        )));
    }
    // Loading from a file without ids keeps the model's own, which follow from the paths.
    Ok(model)
}

/// SHA-256 of a file, as [`RunConfig::weights`] holds it.
///
/// # Errors
/// A file that cannot be read.
pub fn hash_file(path: &Path) -> Result<String, FileError> {
    let read = || Hash::of_reader(std::fs::File::open(path)?);
    let (hash, _) = read().map_err(FileError::io("read", path))?;
    Ok(hash.to_string())
}

/// Writes a checkpoint; readers see all of it or none.
///
/// # Errors
/// A full disk and the like, with the path; earlier checkpoints stay.
pub fn save_checkpoint(
    store: &CheckpointStore,
    model: &LanguageModel,
    optimizer: &TrainOptimizer,
    position: &Position,
) -> Result<Checkpoint, TrainError> {
    let mut writer = store.begin(position.step)?;
    writer.write_at(MODEL, |path| save_model(model, path))?;
    let bytes = optimizer
        .into_bytes()
        .map_err(|error| TrainError::BadFile {
            path: store.folder(position.step).join(OPTIMIZER),
            why: format!("the optimizer's state cannot be written: {error}"),
        })?;
    writer.write(OPTIMIZER, |out| out.write_all(&bytes))?;
    let position = Position {
        last_lost: optimizer.is_lost(),
        ..position.clone()
    };
    writer.write(POSITION, |out| {
        serde_json::to_writer_pretty(&mut *out, &position).map_err(io::Error::from)
    })?;
    Ok(writer.finish()?)
}

/// What [`load_checkpoint`] brings back.
pub struct Restored {
    /// Weights on the training device.
    pub model: LanguageModel,
    /// Optimizer with its moments.
    pub optimizer: TrainOptimizer,
    /// Where the run stood.
    pub position: Position,
}

/// Reads a checkpoint whose files were verified by the store into a model of its shape.
///
/// # Errors
/// [`TrainError::BadFile`] for contents that do not fit.
pub fn load_checkpoint(
    checkpoint: &Checkpoint,
    shape: LanguageModel,
    optimizer: TrainOptimizer,
) -> Result<Restored, TrainError> {
    let bad = |path: &Path, why: String| TrainError::BadFile {
        path: path.into(),
        why,
    };
    let model = load_weights(checkpoint, shape)?;
    let path = checkpoint.file(OPTIMIZER)?;
    let bytes = std::fs::read(&path).map_err(FileError::io("read", &path))?;
    let optimizer = optimizer
        .from_bytes(burn::tensor::Bytes::from_bytes_vec(bytes))
        .map_err(|error| {
            bad(
                &path,
                format!("the optimizer's state cannot be read: {error}"),
            )
        })?;
    let path = checkpoint.file(POSITION)?;
    let text = std::fs::read(&path).map_err(FileError::io("read", &path))?;
    let position: Position = serde_json::from_slice(&text)
        .map_err(|error| bad(&path, format!("it is no position of a run: {error}")))?;
    optimizer.note_lost(position.last_lost);
    Ok(Restored {
        model,
        optimizer,
        position,
    })
}

/// Weights of a checkpoint alone, in a model of its shape.
///
/// # Errors
/// As [`load_checkpoint`].
pub fn load_weights(
    checkpoint: &Checkpoint,
    shape: LanguageModel,
) -> Result<LanguageModel, TrainError> {
    let path = checkpoint.file(MODEL)?;
    load_from(
        SafetensorsStore::from_file(&path),
        &BTreeSet::new(),
        shape,
        &path,
    )
}

#[cfg(all(test, feature = "flex"))]
mod tests;
