//! A finished run, opened to use its model.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use kiln_run::{FileError, RunFolder, recipe};
use kiln_text::{DataConfig, Tokenizer, TokenizerConfig};
use kiln_zoo::{LanguageModel, Precision};

use crate::TrainError;
use crate::device::check_precision;
use crate::recipe::{ObjectiveKind, Resolved, TrainRecipe};
use crate::state::{
    COMPLEX_CONFIG_VERSION, COMPRESSED_CONFIG_VERSION, EIGHT_BIT_CONFIG_VERSION,
    RUN_CONFIG_VERSION, RunConfig, SIGNS_CONFIG_VERSION, hash_file, load_model, load_stored,
};
use crate::storage::StoredModel;

/// Model, configuration and, for text, tokenizer of a run folder.
pub struct Run {
    folder: RunFolder,
    /// What the model is.
    pub config: RunConfig,
    /// Its weights, without autodiff.
    pub model: LanguageModel,
    tokenizer: Option<Tokenizer>,
}

impl Run {
    /// Opens a run that reached its end, or what a compression made of one.
    ///
    /// # Errors
    /// A missing or damaged file, a tokenizer that is not the one the model was trained with, a layout that this Kiln does not know,
    /// a device that cannot compute in the precision it was trained in.
    pub fn open(path: &Path, device: &Device) -> Result<Self, TrainError> {
        Self::open_in(path, device, None)
    }

    /// The same computing in another precision than it was trained in.
    ///
    /// # Errors
    /// As [`Run::open`].
    pub fn open_in(
        path: &Path,
        device: &Device,
        precision: Option<Precision>,
    ) -> Result<Self, TrainError> {
        let folder = RunFolder::open(path)?;
        let config = read_config(&folder)?;
        let precision = precision.unwrap_or(config.precision);
        check_precision(device, precision)?;
        let tokenizer = match &config.tokenizer {
            Some(expected) => Some(tokenizer(&folder, expected)?),
            None => None,
        };
        let weights = folder.model();
        let model = match &config.storage {
            None => {
                let model = load_model(&config.model, &weights, device)?;
                check_hash(&config, &weights)?;
                model
            }
            Some(table) => {
                check_hash(&config, &weights)?;
                let stored = StoredModel::read(&weights, Some(table))?;
                load_stored(&config.model, &stored, &weights, device)?
            }
        };
        Ok(Self {
            folder,
            config,
            model: model.valid().with_precision(precision),
            tokenizer,
        })
    }

    /// The folder it was opened from.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// The tensors of its file, as they are stored.
    ///
    /// # Errors
    /// A file that was damaged since the run was opened.
    pub fn stored(&self) -> Result<StoredModel, TrainError> {
        StoredModel::read(&self.folder.model(), self.config.storage.as_ref())
    }

    /// The recipe the run was made with.
    ///
    /// # Errors
    /// A missing or damaged `recipe.toml`.
    pub fn recipe(&self) -> Result<TrainRecipe, TrainError> {
        let path = self.folder.recipe();
        let name = path.to_string_lossy();
        Ok(recipe::load::<TrainRecipe>(self.folder.path(), &name, &[])?.value)
    }

    /// The recipe with the data that the model is to see: its own, or another corpus, with the run's own tokenizer either way.
    ///
    /// # Errors
    /// A missing or damaged `recipe.toml`; a corpus for a model of a task.
    pub fn data_recipe(&self, corpus: Option<&str>) -> Result<TrainRecipe, TrainError> {
        let mut recipe = self.recipe()?;
        if recipe.task.is_some() {
            return match corpus {
                None => Ok(recipe),
                Some(name) => Err(TrainError::setting(
                    "data.name",
                    name,
                    format!(
                        "this run was trained on the task `{}`, whose examples are drawn; leave the corpus out",
                        self.config.corpus
                    ),
                )),
            };
        }
        recipe.data = DataConfig {
            name: corpus.map_or(recipe.data.name, String::from),
            tokenizer: TokenizerConfig::File {
                path: self.tokenizer_path(),
            },
            max_bytes: recipe.data.max_bytes,
        };
        Ok(recipe)
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Its tokenizer.
    ///
    /// # Errors
    /// [`TrainError::NoText`] for a model of a task.
    pub fn tokenizer(&self) -> Result<&Tokenizer, TrainError> {
        self.tokenizer.as_ref().ok_or_else(|| TrainError::NoText {
            path: self.folder.path().into(),
            task: self.config.corpus.clone(),
        })
    }

    /// Where the run's tokenizer is.
    pub fn tokenizer_path(&self) -> PathBuf {
        self.folder.tokenizer()
    }
}

/// `config.json` of a run that reached its end.
///
/// # Errors
/// A file that is missing, damaged, or of a layout that this Kiln does not know.
pub fn read_config(folder: &RunFolder) -> Result<RunConfig, TrainError> {
    let path = folder.config();
    let bad = |why: String| TrainError::BadFile {
        path: path.clone(),
        why,
    };
    if !path.is_file() {
        return Err(bad(
            "there is no such file; the run has not reached its end (go on with --resume), or this is no run folder".into(),
        ));
    }
    let text = std::fs::read(&path).map_err(FileError::io("read", &path))?;
    let damaged = |error| bad(format!("it is no configuration of a run: {error}"));
    // The version comes first: a later layout may have what this Kiln cannot read.
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
    let version = value.get("version").and_then(serde_json::Value::as_u64);
    let known = [
        RUN_CONFIG_VERSION,
        COMPRESSED_CONFIG_VERSION,
        EIGHT_BIT_CONFIG_VERSION,
        COMPLEX_CONFIG_VERSION,
        SIGNS_CONFIG_VERSION,
    ];
    if let Some(version) = version.filter(|version| !known.map(u64::from).contains(version)) {
        return Err(bad(format!(
            "its version is {version}, and this Kiln reads {RUN_CONFIG_VERSION} to {SIGNS_CONFIG_VERSION}"
        )));
    }
    let config: RunConfig = serde_json::from_value(value).map_err(damaged)?;
    // A table that needs a later version than the file says would be read by a Kiln that does not know it.
    let least = config.storage.as_ref().map(|table| table.config_version());
    match (config.version, least) {
        (RUN_CONFIG_VERSION, None) => Ok(config),
        (COMPRESSED_CONFIG_VERSION.., Some(least)) if config.version >= least => Ok(config),
        (version, table) => {
            let with = if table.is_some() {
                "with this"
            } else {
                "without"
            };
            Err(bad(format!(
                "its version is {version}, {with} `storage`, which does not go together"
            )))
        }
    }
}

/// Compares `model.safetensors` with what `config.json` says of it.
fn check_hash(config: &RunConfig, weights: &Path) -> Result<(), TrainError> {
    if !weights.is_file() {
        return Err(TrainError::BadFile {
            path: weights.into(),
            why: "there is no such file".into(),
        });
    }
    let found = hash_file(weights)?;
    if found == config.weights {
        return Ok(());
    }
    let why = format!(
        "its sha256 is {found}, but config.json says {}; it is damaged or of another run: put the right file back, or train again",
        config.weights
    );
    Err(TrainError::BadFile {
        path: weights.into(),
        why,
    })
}

/// The tokenizer of a run folder, if it is the `expected` one.
fn tokenizer(folder: &RunFolder, expected: &str) -> Result<Tokenizer, TrainError> {
    let tokenizer = Tokenizer::load(&folder.tokenizer())?;
    let hash = tokenizer.hash().to_string();
    match hash == expected {
        true => Ok(tokenizer),
        false => Err(TrainError::BadFile {
            path: folder.tokenizer(),
            why: format!(
                "the model was trained with the tokenizer of hash {expected}, but this one has {hash}; put the right tokenizer back"
            ),
        }),
    }
}

/// The recipe of a run folder, resolved by this version of Kiln: keys which came after the run was made have their defaults.
/// The data need not be here, as the vocabulary is the one that the run found.
///
/// # Errors
/// A missing or damaged `recipe.toml`, one without `model.backbone.vocab_size`, and those of [`Resolved::new`].
pub fn read_resolved(folder: &RunFolder) -> Result<Resolved, TrainError> {
    let path = folder.recipe();
    let recipe = recipe::load::<TrainRecipe>(folder.path(), &path.to_string_lossy(), &[])?;
    // A mask is one token more than the tokenizer's.
    let masked = recipe.value.objective.kind == ObjectiveKind::MaskedToken;
    let written = recipe.value.model.backbone.get("vocab_size");
    let vocab = written
        .and_then(toml::Value::as_integer)
        .and_then(|size| usize::try_from(size).ok()?.checked_sub(usize::from(masked)))
        .ok_or_else(|| TrainError::BadFile {
            path,
            why: "`model.backbone.vocab_size` is not there".into(),
        })?;
    Resolved::new(recipe, vocab)
}

/// The first key in which two resolved recipes differ, with both values as TOML, both being written out in full. Description and
/// sample do not count, nor do the keys `except` of `[train]`.
///
/// # Errors
/// A value that TOML cannot hold.
pub fn recipe_difference(
    before: &Resolved,
    now: &Resolved,
    except: &[&str],
) -> Result<Option<(String, String, String)>, TrainError> {
    let table = |resolved: &Resolved| -> Result<toml::Table, TrainError> {
        let recipe = resolved.written_out()?.value;
        let mut table = toml::Table::try_from(&recipe).map_err(kiln_run::RecipeError::NotToml)?;
        table.remove("description");
        table.remove("sample");
        if let Some(toml::Value::Table(train)) = table.get_mut("train") {
            train.retain(|key, _| !except.contains(&key));
        }
        Ok(table)
    };
    let (mut before, mut now) = (table(before)?, table(now)?);
    // A run writes down which weights it found; a recipe need not know them.
    for section in ["init", "distill"] {
        let stated = |table: &toml::Table| Some(table.get(section)?.get("weights")?.is_str());
        if stated(&before).is_none() || stated(&now).is_none() {
            for table in [&mut before, &mut now] {
                if let Some(toml::Value::Table(section)) = table.get_mut(section) {
                    section.remove("weights");
                }
            }
        }
    }
    Ok(first_difference("", &before, &now))
}

/// Refuses to resume with a recipe that would make another model or another stream of batches. Its length, its log and its
/// sample may change.
pub(crate) fn check_same_recipe(folder: &RunFolder, now: &Resolved) -> Result<(), TrainError> {
    let may_change = [
        "steps",
        "tokens",
        "max_seconds",
        "log_every",
        "gradient_probe_every",
        "keep_checkpoints",
        "keep_at",
        "patience",
        "target_accuracy",
        "sweep_windows",
        "final_sweep",
        "contexts",
        "context_stride",
    ];
    match recipe_difference(&read_resolved(folder)?, now, &may_change)? {
        None => Ok(()),
        Some((key, before, now)) => Err(TrainError::RecipeChanged { key, before, now }),
    }
}

/// The first key whose value differs between two tables, with both values as TOML; `at` is the dotted path of the tables.
fn first_difference(
    at: &str,
    before: &toml::Table,
    now: &toml::Table,
) -> Option<(String, String, String)> {
    let keys = before.keys().chain(now.keys());
    for key in keys {
        let path = if at.is_empty() {
            key.clone()
        } else {
            format!("{at}.{key}")
        };
        let shown =
            |value: Option<&toml::Value>| value.map_or("absent".into(), ToString::to_string);
        match (before.get(key), now.get(key)) {
            (Some(toml::Value::Table(a)), Some(toml::Value::Table(b))) => {
                let found = first_difference(&path, a, b);
                if found.is_some() {
                    return found;
                }
            }
            (a, b) if a != b => return Some((path, shown(a), shown(b))),
            _ => {}
        }
    }
    None
}
