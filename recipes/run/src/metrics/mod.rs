//! The metrics of a run: one JSON object a line, appended while the run goes on.
//!
//! A record is one `write` call, so a reader sees whole lines and a killed process leaves at most
//! one torn line, at the end. JSON has no NaN: `NaN`, `inf` and `-inf` are written as strings and
//! read back as numbers.

mod float;
mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use writer::MetricsWriter;

use crate::error::FileError;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Measured on training batches.
    Train,
    /// Measured on held-out data.
    Eval,
    /// Something that happened: a resume, a checkpoint, a warning.
    Event,
    /// The result of the run.
    Final,
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Updates made so far.
    pub step: u64,
    /// Training tokens seen so far.
    pub tokens: u64,
    /// Seconds of training so far, over all resumes.
    #[serde(with = "float")]
    pub time_s: f64,
    /// What it is about.
    pub kind: Kind,
    /// Measures by name, each in the unit its name tells.
    #[serde(
        default,
        with = "float::map",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub values: BTreeMap<String, f64>,
    /// A remark, for events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Metrics that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The operating system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A line that is no record.
    #[error(
        "{path}, line {line}: {reason}; remove the line, or restore the file",
        path = path.display()
    )]
    BadLine {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads all records of a file, which may still be written to: an unfinished last line is left out.
///
/// # Errors
/// The file cannot be read, or a line before the last is no record.
pub fn read(path: &Path) -> Result<Vec<Record>, MetricsError> {
    let contents = fs::read(path).map_err(FileError::io("read", path))?;
    Ok(lines(path, &contents)?
        .into_iter()
        .map(|(record, _)| record)
        .collect())
}

/// The records with the bytes of their lines, which may hold keys that this version does not know.
fn lines<'a>(path: &Path, contents: &'a [u8]) -> Result<Vec<(Record, &'a [u8])>, MetricsError> {
    let raw: Vec<&[u8]> = contents.split(|byte| *byte == b'\n').collect();
    // After a power cut the last line may even have its newline and still be made of zeros.
    let last = raw.iter().rposition(|line| !line.is_empty()).unwrap_or(0);
    let mut records = Vec::with_capacity(raw.len());
    for (index, line) in raw
        .into_iter()
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
    {
        match serde_json::from_slice(line) {
            Ok(record) => records.push((record, line)),
            Err(_) if index == last => {}
            Err(error) => {
                return Err(MetricsError::BadLine {
                    path: path.into(),
                    line: index + 1,
                    reason: error.to_string(),
                });
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests;
