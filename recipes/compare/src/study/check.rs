//! What is refused of every table of a study alike.

use std::collections::{BTreeMap, BTreeSet};

use super::{Grid, Settings, folder_name};
use crate::CompareError;

/// Refuses two keys of one source of which one is, or is a part of, the other: which of them wins could not be told.
fn check_overlap<T>(place: &str, source: &BTreeMap<String, T>) -> Result<(), CompareError> {
    let parts = |key: &str| -> Vec<String> { key.split('.').map(|p| p.trim().into()).collect() };
    for outer in source.keys() {
        for inner in source.keys().filter(|key| *key != outer) {
            if parts(inner).starts_with(&parts(outer)) {
                return Err(CompareError::setting(
                    format!("{place}.{inner}"),
                    "set twice",
                    format!("`{outer}` of the same table has it too; write one of them"),
                ));
            }
        }
    }
    Ok(())
}

/// Refuses what is no name of a folder.
pub(super) fn check_name(key: &str, name: &str) -> Result<(), CompareError> {
    let clean = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(clean) {
        let why =
            "a name has letters, digits, `-`, `_` and `.` only, and does not start with a dot";
        return Err(CompareError::setting(key, format!("`{name}`"), why));
    }
    Ok(())
}

pub(super) fn check_share(key: &str, share: f64) -> Result<(), CompareError> {
    let why = "it must be a share of at least 0, such as 0.02";
    match share >= 0.0 && share.is_finite() {
        true => Ok(()),
        false => Err(CompareError::setting(key, share, why)),
    }
}

pub(super) fn repeated<T: Ord>(values: &[T]) -> Option<&T> {
    let mut seen = BTreeSet::new();
    values.iter().find(|value| !seen.insert(*value))
}

pub(super) fn check_settings(place: &str, settings: &Settings) -> Result<(), CompareError> {
    check_overlap(place, settings)?;
    match settings.get("seed") {
        Some(seed) => Err(CompareError::setting(
            format!("{place}.seed"),
            seed,
            "seeds are the study's: write them into `seeds`",
        )),
        None => Ok(()),
    }
}

pub(super) fn check_grid(place: &str, grid: &Grid) -> Result<(), CompareError> {
    check_overlap(place, grid)?;
    for (key, values) in grid {
        let name = format!("{place}.{key}");
        if key == "seed" {
            let why = "seeds are the study's: write them into `seeds`";
            return Err(CompareError::setting(name, "a grid of seeds", why));
        }
        if values.is_empty() {
            return Err(CompareError::setting(name, "[]", "there is nothing to try"));
        }
        let shown: Vec<_> = values
            .iter()
            .map(|value| folder_name(&value.to_string()))
            .collect();
        if let Some(value) = repeated(&shown) {
            return Err(CompareError::setting(name, value, "it is there twice"));
        }
    }
    Ok(())
}
