//! What belongs to a checkpoint, and whether it is still there byte for byte.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::CheckpointError;
use crate::error::FileError;

pub(super) const MANIFEST: &str = "manifest.json";

/// Of the manifest's form. Raised when a reader of the old form would misread the new.
pub(super) const VERSION: u32 = 1;

/// The list of a checkpoint's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this form, now 1.
    pub version: u32,
    /// Updates made before the checkpoint was taken.
    pub step: u64,
    /// Every file but the manifest, by name.
    pub files: BTreeMap<String, FileRecord>,
}

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Length in bytes.
    pub bytes: u64,
    /// Hash of the contents, in lower-case hexadecimal.
    pub sha256: String,
}

/// A checkpoint whose every byte was verified when it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Updates made before it was taken.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
    /// Its files.
    pub manifest: Manifest,
}

impl Checkpoint {
    /// The path of one of its files.
    ///
    /// # Errors
    /// The checkpoint has no file of this name.
    pub fn file(&self, name: &str) -> Result<PathBuf, CheckpointError> {
        match self.manifest.files.contains_key(name) {
            true => Ok(self.path.join(name)),
            false => Err(CheckpointError::NoSuchFile {
                step: self.step,
                name: name.into(),
                known: self.manifest.files.keys().cloned().collect(),
            }),
        }
    }

    /// Length of all its files together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.manifest.files.values().map(|file| file.bytes).sum()
    }

    /// Reads the manifest at `path` and verifies every file against it.
    pub(super) fn verify(step: u64, path: PathBuf) -> Result<Self, CheckpointError> {
        let manifest = Manifest::read(&path.join(MANIFEST), step)?;
        for (name, expected) in &manifest.files {
            expected.check(&path.join(name))?;
        }
        Ok(Self {
            step,
            path,
            manifest,
        })
    }
}

impl Manifest {
    fn read(path: &Path, step: u64) -> Result<Self, CheckpointError> {
        let bad = |reason| CheckpointError::BadManifest {
            path: path.into(),
            reason,
        };
        let text = fs::read(path).map_err(FileError::io("read", path))?;
        let manifest: Self =
            serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        if manifest.version != VERSION {
            return Err(bad(format!(
                "it has version {}, this program reads {VERSION}",
                manifest.version
            )));
        }
        if manifest.step != step {
            return Err(bad(format!(
                "it says step {}, its folder says {step}",
                manifest.step
            )));
        }
        match manifest
            .files
            .keys()
            .find_map(|name| check_name(name).err())
        {
            Some(error) => Err(bad(error.to_string())),
            None => Ok(manifest),
        }
    }
}

impl FileRecord {
    /// Reads a file once for its length and hash.
    pub(super) fn of(path: &Path) -> Result<Self, FileError> {
        let (bytes, sha256) = File::open(path)
            .and_then(hash)
            .map_err(FileError::io("read", path))?;
        Ok(Self { bytes, sha256 })
    }

    fn check(&self, path: &Path) -> Result<(), CheckpointError> {
        let found = match fs::metadata(path) {
            Ok(meta) => meta.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CheckpointError::MissingFile { path: path.into() });
            }
            Err(error) => return Err(FileError::io("read", path)(error).into()),
        };
        // The length first: it costs nothing and tells a torn file from a changed one.
        if found != self.bytes {
            return Err(CheckpointError::WrongSize {
                path: path.into(),
                expected: self.bytes,
                found,
            });
        }
        let found = Self::of(path)?.sha256;
        match found == self.sha256 {
            true => Ok(()),
            false => Err(CheckpointError::WrongHash {
                path: path.into(),
                expected: self.sha256.clone(),
                found,
            }),
        }
    }
}

fn hash(mut file: File) -> io::Result<(u64, String)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        bytes += count as u64;
    }
    Ok((
        bytes,
        hasher
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
    ))
}

/// A plain, visible file name that is not the manifest's.
pub(super) fn check_name(name: &str) -> Result<(), CheckpointError> {
    let bad = |reason| {
        Err(CheckpointError::BadName {
            name: name.into(),
            reason,
        })
    };
    match name {
        "" => bad("it is empty"),
        MANIFEST => bad("that is the manifest's own name"),
        _ if name.starts_with('.') => bad("it starts with a dot"),
        _ if name.contains(['/', '\\', ':', '\0']) => bad("it is not a plain file name"),
        _ => Ok(()),
    }
}
