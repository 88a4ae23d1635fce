//! Layers of a recipe: finding files, following `extends`, merging tables, applying `--set`.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::error::{RecipeError, nearest};
use crate::error::FileError;

/// One source of keys, kept so that an error can name who stated the key.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub origin: Origin,
    pub table: Table,
}

#[derive(Clone, Debug)]
pub(super) enum Origin {
    File(PathBuf),
    Set(String),
}

impl Layer {
    pub fn file(&self) -> Option<&Path> {
        match &self.origin {
            Origin::File(path) => Some(path),
            Origin::Set(_) => None,
        }
    }

    /// "shakespeare.toml" or "--set train.lr=1".
    pub fn name(&self) -> String {
        match &self.origin {
            Origin::File(path) => path
                .file_name()
                .unwrap_or(path.as_os_str())
                .to_string_lossy()
                .into_owned(),
            Origin::Set(text) => format!("--set {text}"),
        }
    }
}

pub(super) fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Names of all files of a book, bases included, sorted.
pub(super) fn names(book: &Path) -> Result<Vec<String>, FileError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(book).map_err(FileError::io("list the recipes of", book))? {
        let path = entry
            .map_err(FileError::io("list the recipes of", book))?
            .path();
        if path.extension().is_some_and(|ext| ext == "toml") {
            names.push(stem(&path));
        }
    }
    names.sort();
    Ok(names)
}

fn is_path(name: &str) -> bool {
    name.ends_with(".toml") || name.contains('/') || name.contains('\\')
}

/// The file of a recipe given by name or by path.
pub(super) fn find(book: &Path, name: &str) -> Result<PathBuf, RecipeError> {
    if is_path(name) {
        return Ok(PathBuf::from(name));
    }
    let file = book.join(format!("{name}.toml"));
    if file.is_file() {
        return Ok(file);
    }
    let known: Vec<String> = names(book)?
        .into_iter()
        .filter(|name| !name.starts_with('_'))
        .collect();
    Err(RecipeError::UnknownRecipe {
        name: name.into(),
        book: book.into(),
        nearest: nearest(name, &known),
        known,
    })
}

/// Reads one file: its table, and the comment at its head.
pub(super) fn read_file(path: &Path) -> Result<(Table, String), RecipeError> {
    let text = super::read_text(path)?;
    let table = text
        .parse::<Table>()
        .map_err(|source| RecipeError::Syntax {
            path: path.into(),
            source,
        })?;
    Ok((table, header(&text)))
}

/// The first block of comment lines, without its signs.
fn header(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .skip_while(|line| line.is_empty())
        .map_while(|line| line.strip_prefix('#'))
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end())
        .collect();
    lines.join("\n").trim().to_string()
}

/// The file, then what it extends, and so on; and the header of the file.
pub(super) fn read_stack(book: &Path, file: &Path) -> Result<(Vec<Layer>, String), RecipeError> {
    let mut stack: Vec<Layer> = Vec::new();
    let mut seen: Vec<(PathBuf, String)> = Vec::new();
    let mut first_header = None;
    let mut next = Some(file.to_path_buf());
    while let Some(path) = next {
        let real = path.canonicalize().map_err(FileError::io("read", &path))?;
        if let Some(start) = seen.iter().position(|(known, _)| *known == real) {
            let mut chain: Vec<String> =
                seen[start..].iter().map(|(_, name)| name.clone()).collect();
            chain.push(stem(&path));
            return Err(RecipeError::Cycle { chain });
        }
        seen.push((real, stem(&path)));
        let (mut table, header) = read_file(&path)?;
        first_header.get_or_insert(header);
        next = match table.remove("extends") {
            None => None,
            Some(Value::String(name)) => Some(find_base(book, &path, &name)?),
            Some(_) => return Err(RecipeError::BadExtends { path }),
        };
        stack.push(Layer {
            origin: Origin::File(path),
            table,
        });
    }
    Ok((stack, first_header.unwrap_or_default()))
}

/// A base beside the file that extends it; else in the book, so that a recipe outside of the book
/// can extend one inside.
fn find_base(book: &Path, from: &Path, name: &str) -> Result<PathBuf, RecipeError> {
    let folder = from.parent().unwrap_or(Path::new(""));
    let file_name = if name.ends_with(".toml") {
        name.to_string()
    } else {
        format!("{name}.toml")
    };
    let beside = folder.join(&file_name);
    if beside.is_file() {
        return Ok(beside);
    }
    let in_book = book.join(&file_name);
    if !is_path(name) && in_book.is_file() {
        return Ok(in_book);
    }
    // The folder was readable a moment ago; if it no longer is, the message only loses its guess.
    let known = names(if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    })
    .unwrap_or_default();
    Err(RecipeError::UnknownBase {
        path: from.into(),
        name: name.into(),
        nearest: nearest(name, &known),
    })
}

/// Lays `top` over `base`: tables merge deeply, everything else replaces.
pub(super) fn merge(base: &mut Table, top: &Table) {
    for (key, value) in top {
        match (base.get_mut(key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Applies one `a.b=c` and returns it as a layer of its own.
pub(super) fn apply_override(table: &mut Table, text: &str) -> Result<Layer, RecipeError> {
    let bad = |reason| RecipeError::BadOverride {
        text: text.into(),
        reason,
    };
    let (key, value) = text.split_once('=').ok_or_else(|| bad("there is no `=`"))?;
    let path: Vec<&str> = key.split('.').map(str::trim).collect();
    if path.iter().any(|part| part.is_empty()) {
        return Err(bad("a part of the key is empty"));
    }
    let whole = Value::Table(table.clone());
    let layer = nested(Some(&whole), &path, 0, parse_value(value.trim())).map_err(|problem| {
        let path = path[..problem.depth].join(".");
        match problem.kind {
            Some(kind) => RecipeError::NotATable {
                text: text.into(),
                path,
                kind: article(kind),
            },
            None => bad("below a list, a key is the number of one of its elements, counted from 0"),
        }
    })?;
    let Value::Table(layer) = layer else {
        return Err(bad("there is no key"));
    };
    merge(table, &layer);
    Ok(Layer {
        origin: Origin::Set(text.into()),
        table: layer,
    })
}

/// A key that leads nowhere: below a plain value of a kind, or beyond the end of a list.
struct Problem {
    depth: usize,
    kind: Option<&'static str>,
}

/// `value` at `path[depth..]` below `here`, without what else is there. The elements of a list go by their number; of a list, the
/// others stay.
fn nested(
    here: Option<&Value>,
    path: &[&str],
    depth: usize,
    value: Value,
) -> Result<Value, Problem> {
    let Some(part) = path.get(depth) else {
        return Ok(value);
    };
    match here {
        None => {
            let inner = nested(None, path, depth + 1, value)?;
            Ok(Value::Table(Table::from_iter([(part.to_string(), inner)])))
        }
        Some(Value::Table(table)) => {
            let inner = nested(table.get(*part), path, depth + 1, value)?;
            Ok(Value::Table(Table::from_iter([(part.to_string(), inner)])))
        }
        Some(Value::Array(items)) => {
            let beyond = Problem { depth, kind: None };
            let index = part
                .parse::<usize>()
                .ok()
                .filter(|index| *index < items.len());
            let index = index.ok_or(beyond)?;
            let inner = nested(Some(&items[index]), path, depth + 1, value)?;
            let mut items = items.clone();
            match (&mut items[index], inner) {
                (Value::Table(below), Value::Table(above)) => merge(below, &above),
                (below, above) => *below = above,
            }
            Ok(Value::Array(items))
        }
        Some(other) => Err(Problem {
            depth,
            kind: Some(other.type_str()),
        }),
    }
}

/// A TOML value, or a bare string when it is none: `--set data.name=text:/x` needs no quotes.
fn parse_value(text: &str) -> Value {
    match format!("v = {text}").parse::<Table>() {
        // More than one key means that the text broke out of its line, so it was meant as text.
        Ok(mut table) if table.len() == 1 => table
            .remove("v")
            .unwrap_or_else(|| Value::String(text.into())),
        _ => Value::String(text.into()),
    }
}

fn article(kind: &'static str) -> &'static str {
    match kind {
        "integer" => "an integer",
        "array" => "an array",
        "string" => "a string",
        "float" => "a number",
        "boolean" => "a boolean",
        _ => "a plain value",
    }
}
