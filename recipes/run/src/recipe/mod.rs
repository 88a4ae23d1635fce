//! Recipe files: TOML, layered, strict.
//!
//! A recipe states only what differs from its base:
//!
//! ```toml
//! # Shakespeare by characters on a CPU: 3 minutes, 1.9 bits a byte.
//! extends = "_base"
//! [train]
//! steps = 2000
//! ```
//!
//! `extends` names another recipe of the same folder (or of the book), or a path relative to the
//! file. Tables merge key by key, deeply; scalars and arrays replace. `--set a.b=c` comes last.
//!
//! # Strictness
//! A key that the schema does not know is an error that names the nearest one. Derive the schema
//! with `#[serde(deny_unknown_fields)]`: the error then lists every valid key. `#[serde(flatten)]`
//! and internally tagged or untagged enums weaken that attribute and lose the path of an error, so
//! prefer plain structs and externally tagged enums. Where the attribute is missing or weakened, a
//! second check writes the value back and refuses every key that did not survive. A schema must
//! therefore write what it reads: no `#[serde(alias)]`, no `skip_serializing` (skipping a `None` is
//! fine).

mod error;
mod layers;
mod strict;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::RecipeError;

use crate::error::FileError;

/// A recipe after layering, overriding and checking.
#[derive(Clone, Debug)]
pub struct Recipe<T> {
    /// The file's name without `.toml`.
    pub name: String,
    /// The comment at the head of the file, without the comment signs; empty when there is none.
    pub header: String,
    /// The typed recipe.
    pub value: T,
    /// The merged table that `value` was read from: only what the layers state, without the
    /// schema's defaults.
    pub table: toml::Table,
    /// The recipe's own file, then the file it extends, and so on down to the base.
    pub files: Vec<PathBuf>,
    /// Who stated what, the strongest first.
    layers: Vec<layers::Layer>,
}

/// One line of the book's table of contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipeSummary {
    /// The file's name without `.toml`; what `load` takes.
    pub name: String,
    /// The comment at the head of the file, without the comment signs.
    pub header: String,
    /// The file's top-level `description`, else the first line of its header, else empty.
    pub description: String,
}

/// Loads a recipe by its name in the book, or by path when `name_or_path` ends in `.toml` or has a
/// folder in it.
///
/// `overrides` are the arguments of `--set`, `"a.b=c"` each, applied in order. The right side is
/// read as a TOML value, and taken as a bare string when it is none.
///
/// # Errors
/// An unknown recipe (naming the nearest), unreadable or malformed TOML, a cycle of `extends`, a
/// bad override, and every unknown key, missing key or wrong type with its dotted path and the file
/// that states it.
pub fn load<T>(
    book: &Path,
    name_or_path: &str,
    overrides: &[String],
) -> Result<Recipe<T>, RecipeError>
where
    T: DeserializeOwned + Serialize,
{
    let file = layers::find(book, name_or_path)?;
    let (mut stack, header) = layers::read_stack(book, &file)?;
    let files = stack
        .iter()
        .filter_map(layers::Layer::file)
        .map(Path::to_path_buf)
        .collect();
    let mut table = toml::Table::new();
    for layer in stack.iter().rev() {
        layers::merge(&mut table, &layer.table);
    }
    for text in overrides {
        let layer = layers::apply_override(&mut table, text)?;
        stack.insert(0, layer);
    }
    let value = strict::read(&table, &stack)?;
    Ok(Recipe {
        name: layers::stem(&file),
        header,
        value,
        table,
        files,
        layers: stack,
    })
}

/// Lists the recipes of a book by name: every `*.toml` but those whose name starts with `_`, which
/// are bases.
///
/// # Errors
/// The folder or one of its files cannot be read, or is not TOML.
pub fn list(book: &Path) -> Result<Vec<RecipeSummary>, RecipeError> {
    let mut all = Vec::new();
    for name in layers::names(book)?
        .into_iter()
        .filter(|name| !name.starts_with('_'))
    {
        let (table, header) = layers::read_file(&book.join(format!("{name}.toml")))?;
        let description = match table.get("description").and_then(toml::Value::as_str) {
            Some(text) => text.to_string(),
            None => header.lines().next().unwrap_or_default().to_string(),
        };
        all.push(RecipeSummary {
            name,
            header,
            description,
        });
    }
    Ok(all)
}

/// The resolved recipe as TOML: every value, defaults included. Loading it again gives the same
/// value.
///
/// # Errors
/// The value has no TOML form, such as an integer above `i64::MAX`.
pub fn to_toml<T: Serialize>(value: &T) -> Result<String, RecipeError> {
    toml::to_string_pretty(value).map_err(RecipeError::NotToml)
}

impl<T> Recipe<T> {
    /// Reads the recipe's table `key` laid over `base`: the keys it states replace those of `base`,
    /// all else stays. The names in `skip` belong to the recipe alone and are left out.
    ///
    /// # Errors
    /// An unknown key or a wrong type, as [`load`] names them; a `base` that has no TOML form.
    pub fn overlay<B>(&self, key: &str, base: &B, skip: &[&str]) -> Result<B, RecipeError>
    where
        B: Clone + DeserializeOwned + Serialize,
    {
        let Some(toml::Value::Table(stated)) = self.table.get(key) else {
            return Ok(base.clone());
        };
        let mut stated = stated.clone();
        stated.retain(|name, _| !skip.contains(&name));
        let mut merged = toml::Table::try_from(base).map_err(RecipeError::NotToml)?;
        layers::merge(&mut merged, &stated);
        let wrapped = toml::Table::from_iter([(key.to_string(), toml::Value::Table(merged))]);
        let mut read: BTreeMap<String, B> = strict::read(&wrapped, &self.layers)?;
        Ok(read.remove(key).unwrap_or_else(|| base.clone()))
    }
}

impl<T: Serialize> Recipe<T> {
    /// Writes the resolved recipe to a file, headed by the recipe's name and its header as
    /// comments.
    ///
    /// # Errors
    /// See [`to_toml`] and [`crate::atomic_write`].
    pub fn write(&self, path: &Path) -> Result<(), RecipeError> {
        let body = to_toml(&self.value)?;
        let mut text = format!("# {}, resolved: every value this run used.\n", self.name);
        for line in self.header.lines() {
            text.push_str(format!("# {line}").trim_end());
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&body);
        crate::atomic_write(path, |out| out.write_all(text.as_bytes())).map_err(RecipeError::File)
    }
}

fn read_text(path: &Path) -> Result<String, FileError> {
    std::fs::read_to_string(path).map_err(FileError::io("read", path))
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
