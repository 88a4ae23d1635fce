//! The run folder: where everything about one run lies, and the lock that keeps a second process
//! out.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::checkpoint::{CheckpointError, CheckpointStore};
use crate::error::FileError;
use crate::format;

const LOCK: &str = "run.lock";

/// A run folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A new run would mix with what is there.
    #[error(
        "{path} already holds a run or other files; choose another --out, or continue it with --resume",
        path = path.display()
    )]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// There is no run to resume or to read.
    #[error(
        "{path} holds no run: it has no recipe.toml; check the path, or start one without --resume",
        path = path.display()
    )]
    NotARun {
        /// The folder.
        path: PathBuf,
    },
    /// Another process trains in this folder.
    #[error(
        "{path} is in use by another process{who}; wait for it, stop it, or choose another --out",
        path = path.display(), who = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The process, where the lock file tells.
        pid: Option<u32>,
    },
    /// The operating system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// Leftovers of a killed process could not be cleaned up.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// One run's folder. From [`create`](Self::create) or [`resume`](Self::resume) it holds the
/// folder's lock until dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Held, not read: the system releases the lock when the file is closed, even by `kill -9`.
    _lock: Option<File>,
}

impl RunFolder {
    /// Makes and locks the folder of a new run, with the folders above it.
    ///
    /// # Errors
    /// It exists and is not empty, is in use, or cannot be made.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, FolderError> {
        let path = path.into();
        fs::create_dir_all(&path).map_err(FileError::io("create", &path))?;
        if !is_empty(&path)? {
            return Err(FolderError::NotEmpty { path });
        }
        let lock = lock(&path)?;
        // Another process may have come and gone between the look and the lock.
        if !is_empty(&path)? {
            return Err(FolderError::NotEmpty { path });
        }
        Self::ready(path, lock)
    }

    /// Checks that [`create`](Self::create) would find the folder free, without making it.
    ///
    /// # Errors
    /// It exists and is not empty, or cannot be read.
    pub fn check_free(path: &Path) -> Result<(), FolderError> {
        match path.exists() && !is_empty(path)? {
            true => Err(FolderError::NotEmpty { path: path.into() }),
            false => Ok(()),
        }
    }

    /// Locks the folder of an earlier run to continue it, and cleans up what a killed process left
    /// unfinished.
    ///
    /// # Errors
    /// It holds no run, is in use, or cannot be changed.
    pub fn resume(path: impl Into<PathBuf>) -> Result<Self, FolderError> {
        let run = Self::open(path)?;
        let lock = lock(&run.path)?;
        Self::ready(run.path, lock)
    }

    /// Opens a run for reading, even while it is being trained. Takes no lock and changes nothing.
    ///
    /// # Errors
    /// It holds no run.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, FolderError> {
        let run = Self {
            path: path.into(),
            _lock: None,
        };
        match run.recipe().is_file() {
            true => Ok(run),
            false => Err(FolderError::NotARun { path: run.path }),
        }
    }

    /// `runs/<recipe>-<UTC time>`, for a run without `--out`.
    pub fn default_path(recipe: &str) -> PathBuf {
        let stamp = format::utc(std::time::SystemTime::now())
            .replace(['-', ':'], "")
            .replace('T', "-")
            .replace('Z', "");
        Path::new("runs").join(format!("{recipe}-{stamp}"))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `recipe.toml`: the resolved recipe.
    pub fn recipe(&self) -> PathBuf {
        self.path.join("recipe.toml")
    }

    /// `run.json`: versions, commit, hardware, command line, seed, start time. See
    /// [`crate::hardware::Provenance`].
    pub fn provenance(&self) -> PathBuf {
        self.path.join("run.json")
    }

    /// `metrics.jsonl`: one record a line. See [`crate::metrics`].
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// `checkpoints/`.
    pub fn checkpoints(&self) -> CheckpointStore {
        CheckpointStore::new(self.path.join("checkpoints"))
    }

    /// `model.safetensors`: the weights at the end.
    pub fn model(&self) -> PathBuf {
        self.path.join("model.safetensors")
    }

    /// `config.json`: the model's configuration.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.json")
    }

    /// `tokenizer.json`.
    pub fn tokenizer(&self) -> PathBuf {
        self.path.join("tokenizer.json")
    }

    /// `report.html`. See [`crate::report`].
    pub fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// `windows.json`: what every held-out window scored.
    pub fn windows(&self) -> PathBuf {
        self.path.join("windows.json")
    }

    /// `cost.json`: what the model costs on a device, once that is measured.
    pub fn cost(&self) -> PathBuf {
        self.path.join("cost.json")
    }

    /// `samples.txt`: text the model wrote.
    pub fn samples(&self) -> PathBuf {
        self.path.join("samples.txt")
    }

    fn ready(path: PathBuf, lock: File) -> Result<Self, FolderError> {
        let run = Self {
            path,
            _lock: Some(lock),
        };
        let entries = fs::read_dir(&run.path).map_err(FileError::io("list", &run.path))?;
        for entry in entries.flatten() {
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with(crate::atomic::TEMPORARY)
            {
                fs::remove_file(entry.path()).map_err(FileError::io("remove", &entry.path()))?;
            }
        }
        run.checkpoints().clean()?;
        Ok(run)
    }
}

fn is_empty(path: &Path) -> Result<bool, FileError> {
    for entry in fs::read_dir(path).map_err(FileError::io("list", path))? {
        if entry.map_err(FileError::io("list", path))?.file_name() != LOCK {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lock(folder: &Path) -> Result<File, FolderError> {
    let path = folder.join(LOCK);
    let mut file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(FileError::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = fs::read_to_string(&path)
                .ok()
                .and_then(|text| text.trim().parse().ok());
            return Err(FolderError::Locked {
                path: folder.into(),
                pid,
            });
        }
        Err(TryLockError::Error(error)) => return Err(FileError::io("lock", &path)(error).into()),
    }
    // Only now: before the lock was ours, the number in the file was another's.
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(FileError::io("write", &path))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_run_wants_an_empty_folder() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("runs/a");
        let run = RunFolder::create(&path).unwrap();
        fs::write(run.recipe(), "").unwrap();
        drop(run);
        let error = RunFolder::create(&path).unwrap_err().to_string();
        assert!(
            error.ends_with("choose another --out, or continue it with --resume"),
            "{error}"
        );
        RunFolder::resume(&path).unwrap();
    }

    #[test]
    fn a_run_that_died_before_its_recipe_can_start_again() {
        let root = tempfile::tempdir().unwrap();
        drop(RunFolder::create(root.path()).unwrap());
        RunFolder::create(root.path()).unwrap();
    }

    #[test]
    fn a_second_process_is_kept_out_and_a_reader_is_not() {
        let root = tempfile::tempdir().unwrap();
        let run = RunFolder::create(root.path()).unwrap();
        fs::write(run.recipe(), "").unwrap();
        let error = RunFolder::resume(root.path()).unwrap_err();
        assert!(
            matches!(error, FolderError::Locked { pid: Some(pid), .. } if pid == std::process::id())
        );
        assert!(
            error
                .to_string()
                .contains("is in use by another process (pid "),
            "{error}"
        );
        RunFolder::open(root.path()).unwrap();
        drop(run);
        RunFolder::resume(root.path()).unwrap();
    }

    #[test]
    fn resume_wants_a_run() {
        let root = tempfile::tempdir().unwrap();
        let error = RunFolder::resume(root.path().join("x"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("holds no run"), "{error}");
    }

    #[test]
    fn resume_cleans_up() {
        let root = tempfile::tempdir().unwrap();
        let run = RunFolder::create(root.path()).unwrap();
        fs::write(run.recipe(), "").unwrap();
        fs::write(root.path().join(".tmp-run.json-1-0"), "{").unwrap();
        fs::create_dir_all(run.checkpoints().path().join(".tmp-step-00000001-1")).unwrap();
        drop(run);
        let run = RunFolder::resume(root.path()).unwrap();
        assert!(!root.path().join(".tmp-run.json-1-0").exists());
        assert_eq!(fs::read_dir(run.checkpoints().path()).unwrap().count(), 0);
    }

    #[test]
    fn the_default_path_has_recipe_and_time() {
        let path = RunFolder::default_path("char-cpu");
        let name = path
            .to_str()
            .unwrap()
            .strip_prefix("runs/char-cpu-")
            .unwrap();
        assert_eq!((name.len(), &name[8..9]), (15, "-"));
    }
}
