//! The error of every file operation of this crate: what was tried, on which path, and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// A file operation that the operating system refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Anything but writing a file's contents.
    #[error("cannot {action} {path}: {source}{hint}", path = path.display(), hint = hint(source))]
    Io {
        /// What was tried, as a verb: "read", "rename".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file could not be written in full. What was there before under this name is untouched.
    #[error(
        "cannot write {path}: {source}, with {wanted} bytes asked for so far; \
         what was there before is untouched{hint}",
        path = path.display(), hint = hint(source)
    )]
    Write {
        /// The file that was to be written.
        path: PathBuf,
        /// Bytes asked for up to and including the write that failed.
        wanted: u64,
        /// The system's reason.
        source: io::Error,
    },
}

impl FileError {
    /// The file or folder the operation was about.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. } | Self::Write { path, .. } => path,
        }
    }

    /// Makes a closure for `map_err`, so that a call reads as one line.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ". Free some space there, or choose another folder with --out"
        }
        io::ErrorKind::PermissionDenied => {
            ". Check who owns it, or choose another folder with --out"
        }
        io::ErrorKind::ReadOnlyFilesystem => ". Choose another folder with --out",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_what_to_do() {
        let error = FileError::Write {
            path: "runs/a/model.safetensors".into(),
            wanted: 4096,
            source: io::ErrorKind::StorageFull.into(),
        };
        assert_eq!(
            error.to_string(),
            "cannot write runs/a/model.safetensors: no storage space, with 4096 bytes asked for so far; what was there \
             before is untouched. Free some space there, or choose another folder with --out"
        );
    }
}
