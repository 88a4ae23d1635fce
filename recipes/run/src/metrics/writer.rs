//! Appends records, and on resume takes back those of updates that will be made again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{MetricsError, Record, lines};
use crate::atomic::atomic_write;
use crate::error::FileError;

/// Appends to `metrics.jsonl`, a line a record, each handed to the system at once.
#[derive(Debug)]
pub struct MetricsWriter {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines, in bytes: where to cut when a line was written in part.
    length: u64,
}

impl MetricsWriter {
    /// Starts the file of a new run.
    ///
    /// # Errors
    /// It exists already (nothing is overwritten), or cannot be made.
    pub fn create(path: &Path) -> Result<Self, MetricsError> {
        let file = File::options()
            .append(true)
            .create_new(true)
            .open(path)
            .map_err(FileError::io("create", path))?;
        Ok(Self {
            path: path.into(),
            file,
            length: 0,
        })
    }

    /// Continues the file of a run that resumes after `step` updates: records of later steps and a
    /// torn last line are dropped, in one atomic rewrite. A file that is not there is started.
    ///
    /// # Errors
    /// The file cannot be read or rewritten, or a line before the last is no record.
    pub fn resume(path: &Path, step: u64) -> Result<Self, MetricsError> {
        let contents = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::create(path),
            other => other.map_err(FileError::io("read", path))?,
        };
        let mut kept = Vec::with_capacity(contents.len());
        for (record, line) in lines(path, &contents)? {
            if record.step <= step {
                kept.extend_from_slice(line);
                kept.push(b'\n');
            }
        }
        if kept != contents {
            atomic_write(path, |out| out.write_all(&kept))?;
        }
        let file = File::options()
            .append(true)
            .open(path)
            .map_err(FileError::io("append to", path))?;
        Ok(Self {
            path: path.into(),
            file,
            length: kept.len() as u64,
        })
    }

    /// Appends a record. It survives the end of this process at any later moment, though not a
    /// power cut.
    ///
    /// # Errors
    /// [`FileError::Write`] when the disk is full; the file then still ends with a whole line.
    pub fn append(&mut self, record: &Record) -> Result<(), MetricsError> {
        let wrap = |path: &Path, wanted, source| FileError::Write {
            path: path.into(),
            wanted,
            source,
        };
        let mut line =
            serde_json::to_vec(record).map_err(|error| wrap(&self.path, 0, error.into()))?;
        line.push(b'\n');
        let wanted = line.len() as u64;
        if let Err(source) = self.file.write_all(&line) {
            // Without the cut, the next record would be glued to half of this one. If it fails too,
            // the reader still copes.
            let _ = self.file.set_len(self.length);
            return Err(wrap(&self.path, wanted, source).into());
        }
        self.length += wanted;
        Ok(())
    }
}
