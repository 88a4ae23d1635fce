//! Writes one checkpoint under a temporary name and puts it in place at the end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::manifest::{Checkpoint, FileRecord, MANIFEST, Manifest, VERSION, check_name};
use super::store::{folder_name, replaced_name};
use super::{CheckpointError, CheckpointStore};
use crate::atomic::{TEMPORARY, sync_folder, write_synced};
use crate::error::FileError;

/// A checkpoint being written. Dropped before [`finish`](Self::finish), it leaves nothing behind.
#[derive(Debug)]
pub struct CheckpointWriter {
    store: PathBuf,
    temporary: PathBuf,
    step: u64,
    files: BTreeMap<String, FileRecord>,
    finished: bool,
}

impl CheckpointStore {
    /// Starts a checkpoint of `step`.
    ///
    /// # Errors
    /// The temporary folder cannot be made.
    pub fn begin(&self, step: u64) -> Result<CheckpointWriter, CheckpointError> {
        let store = self.path().to_path_buf();
        let temporary = store.join(format!(
            "{TEMPORARY}{}-{}",
            folder_name(step),
            std::process::id()
        ));
        if temporary.exists() {
            // Of a process with the same id, long gone: the run folder's lock lets no other live
            // one in.
            fs::remove_dir_all(&temporary).map_err(FileError::io("remove", &temporary))?;
        }
        fs::create_dir_all(&temporary).map_err(FileError::io("create", &temporary))?;
        Ok(CheckpointWriter {
            store,
            temporary,
            step,
            files: BTreeMap::new(),
            finished: false,
        })
    }
}

impl CheckpointWriter {
    /// Adds a file by writing its contents.
    ///
    /// # Errors
    /// [`FileError::Write`] with the bytes asked for when the disk is full or `fill` fails; a name
    /// that is not a plain one or that was used before.
    pub fn write(
        &mut self,
        name: &str,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), CheckpointError> {
        let at = self.place(name)?;
        write_synced(
            &at,
            &self.store.join(folder_name(self.step)).join(name),
            fill,
        )?;
        self.record(name, &at)
    }

    /// Adds a file that `fill` creates at the path it is given, for libraries that write files
    /// themselves.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_at(
        &mut self,
        name: &str,
        fill: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), CheckpointError> {
        let at = self.place(name)?;
        let result = fill(&at).and_then(|()| File::options().write(true).open(&at)?.sync_all());
        if let Err(source) = result {
            let wanted = fs::metadata(&at).map_or(0, |meta| meta.len());
            let path = self.store.join(folder_name(self.step)).join(name);
            return Err(FileError::Write {
                path,
                wanted,
                source,
            }
            .into());
        }
        self.record(name, &at)
    }

    /// Writes the manifest and puts the checkpoint in place of any earlier one of the same step.
    ///
    /// # Errors
    /// The disk is full, or the folder cannot be renamed. Earlier checkpoints are untouched.
    pub fn finish(mut self) -> Result<Checkpoint, CheckpointError> {
        let manifest = Manifest {
            version: VERSION,
            step: self.step,
            files: std::mem::take(&mut self.files),
        };
        let path = self.store.join(folder_name(self.step));
        write_synced(
            &self.temporary.join(MANIFEST),
            &path.join(MANIFEST),
            |out| {
                serde_json::to_writer_pretty(&mut *out, &manifest)?;
                out.write_all(b"\n")
            },
        )?;
        sync_folder(&self.temporary)?;
        let replaced = self.store.join(replaced_name(self.step));
        if path.exists() {
            // A folder cannot be renamed over another. Killed between the two renames, `clean` puts
            // the old one back.
            fs::rename(&path, &replaced).map_err(FileError::io("set aside", &path))?;
        }
        fs::rename(&self.temporary, &path).map_err(FileError::io("put in place", &path))?;
        self.finished = true;
        sync_folder(&self.store)?;
        if replaced.exists() {
            fs::remove_dir_all(&replaced).map_err(FileError::io("remove", &replaced))?;
        }
        Ok(Checkpoint {
            step: self.step,
            path,
            manifest,
        })
    }

    fn place(&self, name: &str) -> Result<PathBuf, CheckpointError> {
        check_name(name)?;
        match self.files.contains_key(name) {
            true => Err(CheckpointError::BadName {
                name: name.into(),
                reason: "it was written already",
            }),
            false => Ok(self.temporary.join(name)),
        }
    }

    /// Hashes what the disk gives back, not what was handed to it.
    fn record(&mut self, name: &str, at: &Path) -> Result<(), CheckpointError> {
        self.files.insert(name.into(), FileRecord::of(at)?);
        Ok(())
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: what stays is removed at the next start.
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}
