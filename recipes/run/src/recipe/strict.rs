//! From a merged table to a typed value, with errors that name the key, who stated it and what was
//! meant.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};
use toml::{Table, Value};

use super::error::{RecipeError, nearest};
use super::layers::Layer;

/// Reads the merged `table`; `stack` is who stated what, the strongest layer first.
pub(super) fn read<T: DeserializeOwned + Serialize>(
    table: &Table,
    stack: &[Layer],
) -> Result<T, RecipeError> {
    let value: T = serde_path_to_error::deserialize(Value::Table(table.clone()))
        .map_err(|error| explain(&dotted(error.path()), error.inner().message(), stack))?;
    let back = Table::try_from(&value).map_err(RecipeError::NotToml)?;
    match first_lost(table, &back, &mut Vec::new()) {
        None => Ok(value),
        Some((path, valid)) => Err(unknown_key(path, valid, stack)),
    }
}

/// `["train", "layers", "2", "kind"]` for `train.layers[2].kind`.
fn dotted(path: &Path) -> Vec<String> {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { variant } => Some(variant.clone()),
            Segment::Unknown => None,
        })
        .collect()
}

/// Turns serde's message into ours. serde gives no structure, only the text pinned by its own
/// tests: "unknown field `x`, expected one of `a`, `b`", "unknown variant `x`, expected ...",
/// "missing field `x`".
fn explain(path: &[String], message: &str, stack: &[Layer]) -> RecipeError {
    let mut quoted = message.split('`').skip(1).step_by(2).map(str::to_string);
    if message.starts_with("unknown field") {
        let field = quoted.next().unwrap_or_default();
        let mut path = path.to_vec();
        // A flattened struct or tagged enum loses the last part of the path.
        if path.last() != Some(&field) {
            path.push(field);
        }
        return unknown_key(path, quoted.collect(), stack);
    }
    if message.starts_with("missing field") {
        let mut key = path.to_vec();
        key.extend(quoted.next());
        let origin = stack
            .iter()
            .find_map(Layer::file)
            .map(file_name)
            .unwrap_or_default();
        return RecipeError::MissingKey {
            key: key.join("."),
            origin,
        };
    }
    let nearest = match message.starts_with("unknown variant") {
        true => nearest(
            &quoted.next().unwrap_or_default(),
            &quoted.collect::<Vec<_>>(),
        ),
        false => Vec::new(),
    };
    RecipeError::BadValue {
        key: path.join("."),
        origin: origin(path, stack),
        reason: message.into(),
        nearest,
    }
}

fn unknown_key(path: Vec<String>, valid: Vec<String>, stack: &[Layer]) -> RecipeError {
    let last = path.last().map_or("", String::as_str);
    let nearest = nearest(last, &valid);
    RecipeError::UnknownKey {
        origin: origin(&path, stack),
        key: path.join("."),
        nearest,
        valid,
    }
}

/// The strongest layer that states the longest known part of `path`.
fn origin(path: &[String], stack: &[Layer]) -> String {
    let depth = |layer: &Layer| {
        let mut depth = 0;
        let mut here = layer.table.get(path.first().map_or("", String::as_str));
        while let Some(value) = here {
            depth += 1;
            let Some(part) = path.get(depth) else { break };
            here = child(value, part);
        }
        depth
    };
    let mut best: Option<(usize, &Layer)> = None;
    for layer in stack {
        let depth = depth(layer);
        if best.is_none_or(|(most, _)| depth > most) {
            best = Some((depth, layer));
        }
    }
    best.map(|(_, layer)| layer.name()).unwrap_or_default()
}

fn child<'a>(value: &'a Value, part: &str) -> Option<&'a Value> {
    match value {
        Value::Table(table) => table.get(part),
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        _ => None,
    }
}

/// The first key that was stated and did not survive being read, with the keys that did survive
/// beside it.
fn first_lost(
    stated: &Table,
    back: &Table,
    path: &mut Vec<String>,
) -> Option<(Vec<String>, Vec<String>)> {
    for (key, value) in stated {
        path.push(key.clone());
        let Some(survivor) = back.get(key) else {
            return Some((path.clone(), back.keys().cloned().collect()));
        };
        let lost = lost_within(value, survivor, path);
        if lost.is_some() {
            return lost;
        }
        path.pop();
    }
    None
}

/// Compares only like with like: a schema may read a table and keep something else of it.
fn lost_within(
    stated: &Value,
    back: &Value,
    path: &mut Vec<String>,
) -> Option<(Vec<String>, Vec<String>)> {
    match (stated, back) {
        (Value::Table(stated), Value::Table(back)) => first_lost(stated, back, path),
        (Value::Array(stated), Value::Array(back)) if stated.len() == back.len() => {
            for (index, (stated, back)) in stated.iter().zip(back).enumerate() {
                path.push(index.to_string());
                let lost = lost_within(stated, back, path);
                if lost.is_some() {
                    return lost;
                }
                path.pop();
            }
            None
        }
        _ => None,
    }
}

fn file_name(path: &std::path::Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
