//! A finished run, opened to use its model.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use kiln_run::{FileError, RunFolder, recipe};
use kiln_text::Tokenizer;
use kiln_zoo::LanguageModel;

use crate::TrainError;
use crate::recipe::{ObjectiveKind, Resolved, TrainRecipe};
use crate::state::{RUN_CONFIG_VERSION, RunConfig, hash_file, load_model};

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
    /// Opens a run that reached its end.
    ///
    /// # Errors
    /// A missing or damaged file, a tokenizer that is not the one the model was trained with.
    pub fn open(path: &Path, device: &Device) -> Result<Self, TrainError> {
        let folder = RunFolder::open(path)?;
        let config = read_config(&folder)?;
        let tokenizer = match &config.tokenizer {
            Some(expected) => Some(tokenizer(&folder, expected)?),
            None => None,
        };
        let model = load_model(&config.model, &folder.model(), device)?.valid();
        let weights = folder.model();
        let found = hash_file(&weights)?;
        if found != config.weights {
            let why = format!(
                "its sha256 is {found}, but config.json says {}; it is damaged or of another run: put the right file back, or train again",
                config.weights
            );
            return Err(TrainError::BadFile { path: weights, why });
        }
        Ok(Self {
            folder,
            config,
            model,
            tokenizer,
        })
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

/// The configuration of a run that reached its end.
///
/// # Errors
/// A missing or damaged `config.json`.
pub(crate) fn read_config(folder: &RunFolder) -> Result<RunConfig, TrainError> {
    let config_path = folder.config();
    let bad = |path: PathBuf, why: String| TrainError::BadFile { path, why };
    if !config_path.is_file() {
        return Err(bad(
            config_path,
            "there is no such file; the run has not reached its end (go on with --resume), or this is no run folder".into(),
        ));
    }
    let text = std::fs::read(&config_path).map_err(FileError::io("read", &config_path))?;
    let config: RunConfig = serde_json::from_slice(&text).map_err(|error| {
        bad(
            config_path.clone(),
            format!("it is no configuration of a run: {error}"),
        )
    })?;
    if config.version != RUN_CONFIG_VERSION {
        let why = format!(
            "its version is {}, and this Kiln reads {RUN_CONFIG_VERSION}",
            config.version
        );
        return Err(bad(config_path, why));
    }
    Ok(config)
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
        "patience",
        "target_accuracy",
        "sweep_windows",
        "final_sweep",
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
