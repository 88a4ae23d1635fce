//! The study file: arms, tasks, seeds, grids, and the differences that are allowed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use kiln_run::recipe::{self, Recipe};
use kiln_run::{FileError, RecipeError};
use serde::{Deserialize, Serialize};
use toml::Value;

use crate::CompareError;

mod budget;
mod check;
mod cost;
mod loaded;
mod ngram;
mod task;

pub use budget::Budget;
pub(crate) use budget::has_own_length;
use check::{check_grid, check_name, check_settings, check_share, repeated};
pub use cost::CostPlan;
pub use task::{Quality, Task};

/// Dotted keys of a recipe with their values.
pub type Settings = BTreeMap<String, Value>;

/// Dotted keys of a recipe with the values to try; a grid is their Cartesian product.
pub type Grid = BTreeMap<String, Vec<Value>>;

/// A study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// One line about what is asked.
    #[serde(default)]
    pub description: String,
    /// Seeds; the grid runs with the first one.
    pub seeds: Vec<u64>,
    /// Keys of every arm.
    #[serde(default)]
    pub set: Settings,
    /// The grid of every arm that brings none of its own.
    #[serde(default)]
    pub grid: Grid,
    /// Differences between arms that are not refused.
    #[serde(default)]
    pub allow: Vec<Difference>,
    /// Largest difference in trainable parameters to the first arm, as a share of the first arm's.
    #[serde(default = "default_parameters_within")]
    pub parameters_within: f64,
    /// What every arm may spend; without it, recipes say how long they train.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// What is measured of every arm's chosen model; without it, nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostPlan>,
    /// The tasks that every arm runs; without any, the arms' recipes are the one task.
    #[serde(default)]
    pub task: Vec<Task>,
    /// The arms; all others are compared with the first.
    pub arm: Vec<Arm>,
}

fn default_parameters_within() -> f64 {
    0.02
}

/// One arm of a study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// Name in tables and folders: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// A recipe of the book, or a path relative to the study file.
    pub recipe: String,
    /// Keys of this arm; they win over those of the study.
    #[serde(default)]
    pub set: Settings,
    /// Replaces the grid of study and task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<Grid>,
    /// The tasks it runs; all of them unless stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<String>>,
    /// Another arm, whose chosen point took as long as this arm's runs may: the control of a method that makes steps dearer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_of: Option<String>,
    /// Orders of n-gram models to count in place of the recipe's model: the arm's grid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ngram: Option<Vec<u32>>,
    /// Folders of finished runs to score in place of training, one for each of the study's seeds: compressed models, say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<Vec<PathBuf>>,
}

impl Arm {
    /// Whether the arm trains models.
    pub fn trains(&self) -> bool {
        self.ngram.is_none() && self.runs.is_none()
    }

    /// Whether the arm runs a task.
    pub fn runs(&self, task: &Task) -> bool {
        let names = self.tasks.as_ref();
        names.is_none_or(|names| names.contains(&task.name))
    }
}

/// What arms may differ in, if the study says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// Corpus, its size limit, tokenizer.
    Data,
    /// Training tokens.
    Tokens,
    /// How held-out text is scored: length of the windows, sweep, objective.
    Scoring,
    /// Trainable parameters, beyond `parameters_within`.
    Parameters,
    /// How long arms train, where the study has a budget for that.
    Budget,
    /// Whether a student has a control: an arm that trains the same model without a teacher.
    Control,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Data => "data",
            Self::Tokens => "tokens",
            Self::Scoring => "scoring",
            Self::Parameters => "parameters",
            Self::Budget => "budget",
            Self::Control => "control",
        })
    }
}

/// The key of a point's settings that is the order of an n-gram model, and no key of a recipe.
pub(crate) const ORDER: &str = "ngram.order";

/// One point of a grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Name in tables and folders: `learning_rate=0.001,clip_norm=1.0`, or `default` for a grid of no key.
    pub name: String,
    /// What it sets.
    pub settings: Settings,
}

/// A study as read, with where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The file's name without `.toml`.
    pub name: String,
    /// The comment at its head.
    pub header: String,
    /// The study.
    pub study: Study,
    /// The folder that recipes given as paths are relative to.
    pub folder: PathBuf,
    /// The study's file and those it extends, as they stand on disk: name and text.
    pub files: Vec<(String, String)>,
}

/// Loads a study by its name in `folder`, or by path when `name_or_path` ends in `.toml` or has a folder in it.
///
/// # Errors
/// An unknown study, an unknown key (naming the nearest), a wrong type, and everything that [`Study::validate`] refuses.
pub fn load(folder: &Path, name_or_path: &str) -> Result<Loaded, CompareError> {
    let loaded: Recipe<Study> = recipe::load(folder, name_or_path, &[]).map_err(|error| {
        let RecipeError::UnknownRecipe { name, known, .. } = error else {
            return CompareError::Study(error);
        };
        CompareError::UnknownStudy {
            name,
            folder: folder.into(),
            known: known.join(", "),
        }
    })?;
    loaded.value.validate()?;
    let file = loaded.files.first().cloned().unwrap_or_default();
    // Of a bare file name the parent is empty, and nothing empty becomes absolute.
    let whole = std::path::absolute(&file).map_err(FileError::io("find", &file))?;
    let folder = whole.parent().unwrap_or(&whole).into();
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).map_err(FileError::io("read", path))?;
        let name = path.file_name().unwrap_or(path.as_os_str());
        Ok::<_, FileError>((name.to_string_lossy().into_owned(), text))
    };
    Ok(Loaded {
        files: loaded.files.iter().map(read).collect::<Result<_, _>>()?,
        name: loaded.name,
        header: loaded.header,
        study: loaded.value,
        folder,
    })
}

impl Study {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`CompareError::Setting`] naming the first key that cannot be used.
    pub fn validate(&self) -> Result<(), CompareError> {
        let bad =
            |key: &str, value: &dyn fmt::Display, why: &str| CompareError::setting(key, value, why);
        if self.seeds.is_empty() {
            return Err(bad("seeds", &"[]", "a study needs at least one seed"));
        }
        if let Some(seed) = repeated(&self.seeds) {
            return Err(bad("seeds", seed, "it is there twice"));
        }
        check_share("parameters_within", self.parameters_within)?;
        if self.arm.is_empty() {
            return Err(bad("arm", &"[]", "a study needs at least one [[arm]]"));
        }
        let names: Vec<_> = self.arm.iter().map(|arm| &arm.name).collect();
        if let Some(name) = repeated(&names) {
            return Err(bad("arm.name", name, "it is there twice"));
        }
        check_settings("set", &self.set)?;
        check_grid("grid", &self.grid)?;
        task::validate(self)?;
        budget::validate(self)?;
        cost::validate(self)?;
        for arm in &self.arm {
            check_name("arm.name", &arm.name)?;
            check_settings("arm.set", &arm.set)?;
            if let Some(grid) = &arm.grid {
                check_grid("arm.grid", grid)?;
            }
            ngram::validate(self, arm)?;
            loaded::validate(self, arm)?;
        }
        Ok(())
    }

    /// The points of an arm's grid on a task, the last key moving fastest. The arm's own grid goes before the task's, and that
    /// before the study's.
    pub fn points(&self, arm: &Arm, task: Option<&Task>) -> Vec<Point> {
        let of_task = || task.and_then(|task| task.grid.as_ref());
        let orders = arm.ngram.as_ref().map(|orders| {
            let orders = orders.iter().map(|order| Value::Integer((*order).into()));
            Grid::from([(ORDER.to_string(), orders.collect())])
        });
        // What is loaded was trained with settings of its own.
        let of_another = task.is_some_and(|task| task.of.is_some());
        let loaded = (of_another || arm.runs.is_some()).then(Grid::new);
        let own = orders.as_ref().or(loaded.as_ref()).or(arm.grid.as_ref());
        let grid = own.or_else(of_task).unwrap_or(&self.grid);
        let mut settings = vec![Settings::new()];
        for (key, values) in grid {
            let with = |point: &Settings| {
                let point = point.clone();
                values.iter().map(move |value| {
                    let mut point = point.clone();
                    point.insert(key.clone(), value.clone());
                    point
                })
            };
            settings = settings.iter().flat_map(with).collect();
        }
        let name = |settings: Settings| Point {
            name: point_name(&settings),
            settings,
        };
        settings.into_iter().map(name).collect()
    }
}

/// `--set` arguments of several sources of settings, those of later sources after those of earlier ones, so that they win also
/// where one key is a part of the other (`model.bk` and `model.bk.heads`). A key that a later source has as well is left out: its
/// value is replaced, not merged.
pub fn overrides(sources: &[&Settings]) -> Vec<String> {
    let is_last = |at: usize, key: &String| {
        let mut later = sources[at + 1..].iter();
        later.all(|source| !source.contains_key(key))
    };
    let of = |(at, source): (usize, &&Settings)| -> Vec<String> {
        let kept = source.iter().filter(|(key, _)| is_last(at, key));
        kept.map(|(key, value)| format!("{key}={value}")).collect()
    };
    sources.iter().enumerate().flat_map(of).collect()
}

/// The last part of each key with its value; the whole key where two end alike.
fn point_name(settings: &Settings) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or(key).to_string();
    let short = |key: &str| {
        let alike = settings
            .keys()
            .filter(|other| last(other) == last(key))
            .count();
        if alike > 1 {
            key.to_string()
        } else {
            last(key)
        }
    };
    let parts: Vec<_> = settings
        .iter()
        .map(|(key, value)| folder_name(&format!("{}={value}", short(key))))
        .collect();
    match parts.is_empty() {
        true => "default".into(),
        false => parts.join(","),
    }
}

/// Text that every file system takes as a name; what is left out are signs of TOML.
fn folder_name(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_whitespace() && !"\"'{}[]".contains(*c))
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_.=+".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
