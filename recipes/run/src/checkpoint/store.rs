//! The checkpoints of a run: which there are, which is the best, which can be trusted, which may
//! go.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::CheckpointError;
use super::manifest::{Checkpoint, MANIFEST};
use crate::atomic::{TEMPORARY, atomic_write, sync_folder};
use crate::error::FileError;

const BEST: &str = "best.json";
const DAMAGED: &str = "damaged-";
const REPLACED: &str = ".old-";

/// The checkpoints folder of a run. Reading takes no lock; only the process that holds the run
/// folder's lock may write.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    path: PathBuf,
}

/// Which checkpoint is the best so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Its step.
    pub step: u64,
    /// The measure that made it the best, in the unit of whoever set it (a validation loss in nats,
    /// say).
    pub value: f64,
}

/// The newest checkpoint that can be trusted, and the newer ones that cannot.
#[derive(Debug)]
pub struct Recovered {
    /// `None` when there is none to trust.
    pub checkpoint: Option<Checkpoint>,
    /// Why each newer one was passed over, newest first.
    pub damaged: Vec<(u64, CheckpointError)>,
}

impl CheckpointStore {
    /// The store in this folder, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The steps of all complete checkpoints, in order. Complete is not yet verified: see
    /// [`load`](Self::load).
    ///
    /// # Errors
    /// The folder cannot be read. One that does not exist has no checkpoints.
    pub fn list(&self) -> Result<Vec<u64>, CheckpointError> {
        let names = self.names()?;
        let steps = names.iter().filter_map(|name| step_of(name));
        let mut steps: Vec<u64> = steps
            .filter(|step| self.folder(*step).join(MANIFEST).is_file())
            .collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Loads a checkpoint after verifying the length and hash of each of its files.
    ///
    /// # Errors
    /// It is not there, or not what was written: the error names the file and both lengths or
    /// hashes.
    pub fn load(&self, step: u64) -> Result<Checkpoint, CheckpointError> {
        let path = self.folder(step);
        match path.is_dir() {
            true => Checkpoint::verify(step, path),
            false => Err(CheckpointError::Missing {
                step,
                folder: self.path.clone(),
                known: self.list()?,
            }),
        }
    }

    /// The newest checkpoint that verifies, and why each newer one did not. Changes nothing.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn latest_valid(&self) -> Result<Recovered, CheckpointError> {
        let mut damaged = Vec::new();
        for step in self.list()?.into_iter().rev() {
            match self.load(step) {
                Ok(checkpoint) => {
                    return Ok(Recovered {
                        checkpoint: Some(checkpoint),
                        damaged,
                    });
                }
                Err(error) => damaged.push((step, error)),
            }
        }
        Ok(Recovered {
            checkpoint: None,
            damaged,
        })
    }

    /// [`latest_valid`](Self::latest_valid), then renames the damaged ones to `damaged-step-*` and
    /// forgets a best that is gone: what resume uses. Left in place, a damaged newest checkpoint
    /// would make [`prune`](Self::prune) spare it in place of the one that works.
    ///
    /// # Errors
    /// The folder cannot be read or changed.
    pub fn recover(&self) -> Result<Recovered, CheckpointError> {
        let recovered = self.latest_valid()?;
        for (step, _) in &recovered.damaged {
            let aside = self.path.join(format!("{DAMAGED}{}", folder_name(*step)));
            remove(&aside)?;
            let from = self.folder(*step);
            fs::rename(&from, &aside).map_err(FileError::io("set aside", &from))?;
        }
        // A best that is gone would win every later comparison and have nothing to show for it.
        if self.best().map_or(true, |best| {
            best.is_some_and(|best| !self.folder(best.step).is_dir())
        }) {
            remove(&self.path.join(BEST))?;
        }
        Ok(recovered)
    }

    /// Removes checkpoints but the newest `keep_last`, those of the steps in `keep`, the best, and
    /// always the newest. Returns the steps removed.
    ///
    /// # Errors
    /// `best.json` is damaged (nothing is removed then), or a folder cannot be removed.
    pub fn prune(&self, keep_last: usize, keep: &[u64]) -> Result<Vec<u64>, CheckpointError> {
        let best = self.best()?.map(|best| best.step);
        let mut steps = self.list()?;
        steps.truncate(steps.len().saturating_sub(keep_last.max(1)));
        steps.retain(|step| Some(*step) != best && !keep.contains(step));
        for step in &steps {
            let from = self.folder(*step);
            // Renamed first: killed halfway through the removal, no half of a checkpoint is left
            // under its name.
            let going = self
                .path
                .join(format!("{TEMPORARY}prune-{}", folder_name(*step)));
            remove(&going)?;
            fs::rename(&from, &going).map_err(FileError::io("remove", &from))?;
            remove(&going)?;
        }
        Ok(steps)
    }

    /// Names the best checkpoint, in `best.json`. It is never pruned while it is the best.
    ///
    /// # Errors
    /// There is no such checkpoint, `value` is not finite, or the file cannot be written.
    pub fn set_best(&self, step: u64, value: f64) -> Result<(), CheckpointError> {
        if !value.is_finite() {
            return Err(CheckpointError::BadBest { step, value });
        }
        let known = self.list()?;
        if !known.contains(&step) {
            return Err(CheckpointError::Missing {
                step,
                folder: self.path.clone(),
                known,
            });
        }
        atomic_write(&self.path.join(BEST), |out| {
            serde_json::to_writer(&mut *out, &Best { step, value })?;
            out.write_all(b"\n")
        })?;
        Ok(())
    }

    /// The best checkpoint, if one was named. Load it with [`load`](Self::load).
    ///
    /// # Errors
    /// `best.json` cannot be read or is damaged.
    pub fn best(&self) -> Result<Option<Best>, CheckpointError> {
        let path = self.path.join(BEST);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
                CheckpointError::BadManifest {
                    path,
                    reason: error.to_string(),
                }
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileError::io("read", &path)(error).into()),
        }
    }

    /// Removes what a killed process left unfinished, and puts back a checkpoint it was about to
    /// replace. Call it only while holding the run folder's lock, as
    /// [`RunFolder::create`](crate::RunFolder::create) and `resume` do.
    ///
    /// # Errors
    /// The folder cannot be read or changed.
    pub fn clean(&self) -> Result<(), CheckpointError> {
        for name in self.names()? {
            let path = self.path.join(&name);
            match name.strip_prefix(REPLACED).and_then(step_of) {
                Some(step) if !self.folder(step).exists() => {
                    fs::rename(&path, self.folder(step))
                        .map_err(FileError::io("put back", &path))?;
                    sync_folder(&self.path)?;
                }
                Some(_) => remove(&path)?,
                None if name.starts_with(TEMPORARY) => remove(&path)?,
                None => {}
            }
        }
        Ok(())
    }

    /// The folder of a step, whether or not it is there.
    pub fn folder(&self, step: u64) -> PathBuf {
        self.path.join(folder_name(step))
    }

    fn names(&self) -> Result<Vec<String>, CheckpointError> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(FileError::io("list", &self.path))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(FileError::io("list", &self.path))?;
            names.extend(entry.file_name().into_string());
        }
        Ok(names)
    }
}

pub(super) fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// Where a checkpoint waits while another of the same step takes its place.
pub(super) fn replaced_name(step: u64) -> String {
    format!("{REPLACED}{}", folder_name(step))
}

fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    // "step-7" would be listed and then not found under its own name.
    (folder_name(step) == name).then_some(step)
}

fn remove(path: &Path) -> Result<(), FileError> {
    let result = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FileError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
