//! Files that hold either the old contents or the new, never half of them, whatever stops the
//! process.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::FileError;

/// What every unfinished file and folder of this crate starts with, so that leftovers are
/// recognised.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// Writes a file by way of a temporary one beside it: write, fsync, rename, fsync the folder.
///
/// The folder must exist. On an error the temporary file is removed and what was there before is
/// untouched.
///
/// # Errors
/// [`FileError::Write`] with the bytes asked for, when `fill` or the disk fails; [`FileError::Io`]
/// otherwise.
pub fn atomic_write(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FileError> {
    let temporary = beside(path);
    let result = write_synced(&temporary, path, fill)
        .and_then(|_| fs::rename(&temporary, path).map_err(FileError::io("put in place", path)))
        .and_then(|()| sync_folder(parent(path)));
    if result.is_err() {
        // The first error is the one to tell; the leftover is removed at the next start if it
        // stays.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Writes and fsyncs `at`, returning its length. Errors speak of `named`, the name the file will
/// have in the end.
pub(crate) fn write_synced(
    at: &Path,
    named: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<u64, FileError> {
    let file = File::create(at).map_err(FileError::io("create", at))?;
    let mut counting = Counting {
        inner: BufWriter::new(file),
        wanted: 0,
    };
    let result = fill(&mut counting)
        .and_then(|()| counting.flush())
        .and_then(|()| counting.inner.get_ref().sync_all());
    let wanted = counting.wanted;
    if result.is_err() {
        // A BufWriter tries once more to write when dropped; what it holds is of no use.
        let (file, _) = counting.inner.into_parts();
        drop(file);
    }
    result.map(|()| wanted).map_err(|source| FileError::Write {
        path: named.into(),
        wanted,
        source,
    })
}

/// Makes a rename or a new entry of `folder` durable. Only Unix has the operation; elsewhere the
/// rename itself must do.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), FileError> {
    if cfg!(unix) {
        File::open(folder)
            .and_then(|handle| handle.sync_all())
            .map_err(FileError::io("sync", folder))?;
    }
    Ok(())
}

pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A fresh temporary name in the same folder: threads differ by the counter, processes by their id.
fn beside(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    parent(path).join(format!("{TEMPORARY}{name}-{}-{count}", std::process::id()))
}

struct Counting {
    inner: BufWriter<File>,
    wanted: u64,
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Counted before the write: the number says what did not fit, not what did.
        self.wanted += bytes.len() as u64;
        let written = self.inner.write(bytes)?;
        self.wanted -= (bytes.len() - written) as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn writes_and_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        for text in ["one", "two"] {
            atomic_write(&path, |out| out.write_all(text.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(names(folder.path()), ["a.json"]);
    }

    #[test]
    fn an_error_midway_keeps_the_old_file_and_leaves_no_litter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        fs::write(&path, "old").unwrap();
        let error = atomic_write(&path, |out| {
            out.write_all(&[0; 20_000])?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert!(
            matches!(&error, FileError::Write { wanted: 20_000, .. }),
            "{error}"
        );
        assert!(
            error.to_string().contains("20000 bytes asked for so far"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(folder.path()), ["a.json"]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = atomic_write(Path::new("no/such/folder/a"), |_| Ok(())).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot create no/such/folder/.tmp-a-"),
            "{error}"
        );
    }
}
