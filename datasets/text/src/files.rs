//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::DataError;

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A path beside `target` for work in progress. Whatever is there is removed on drop, unless it was moved away.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A name no other process or thread uses, in the folder of `target` so that a rename stays on one file system.
    pub(crate) fn beside(target: &Path) -> Result<Self, DataError> {
        let parent = target.parent().unwrap_or(Path::new("."));
        create_dir(parent)?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        Ok(Self(parent.join(format!(
            ".{name}.{}-{count}.tmp",
            std::process::id()
        ))))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // After a successful rename neither exists, and a leftover is not worth failing for.
        if self.0.is_dir() {
            let _ = fs::remove_dir_all(&self.0);
        } else {
            let _ = fs::remove_file(&self.0);
        }
    }
}

/// Writes `target` through `fill`: temporary file, flush to the device, rename.
pub(crate) fn write_atomic<T>(
    target: &Path,
    fill: impl FnOnce(&mut File) -> Result<T, DataError>,
) -> Result<T, DataError> {
    let scratch = Scratch::beside(target)?;
    let mut file =
        File::create_new(scratch.path()).map_err(|e| DataError::io("create", scratch.path(), e))?;
    let value = fill(&mut file)?;
    file.sync_all()
        .map_err(|e| DataError::io("flush", scratch.path(), e))?;
    drop(file);
    fs::rename(scratch.path(), target).map_err(|e| DataError::io("write", target, e))?;
    Ok(value)
}

/// [`write_atomic`] for bytes in memory.
pub(crate) fn write_bytes(target: &Path, bytes: &[u8]) -> Result<(), DataError> {
    write_atomic(target, |file| {
        file.write_all(bytes)
            .map_err(|e| DataError::io("write", target, e))
    })
}

pub(crate) fn create_dir(path: &Path) -> Result<(), DataError> {
    fs::create_dir_all(path).map_err(|e| DataError::io("create the folder", path, e))
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, DataError> {
    fs::read(path).map_err(|e| DataError::io("read", path, e))
}

/// Reads a whole file that must be UTF-8 text without NUL bytes.
pub(crate) fn read_text(path: &Path) -> Result<String, DataError> {
    let not_text = |offset| DataError::NotText {
        path: path.to_owned(),
        offset,
    };
    let bytes = read(path)?;
    if let Some(offset) = bytes.iter().position(|&byte| byte == 0) {
        return Err(not_text(offset));
    }
    String::from_utf8(bytes).map_err(|e| not_text(e.utf8_error().valid_up_to()))
}

/// Every regular file below `root` as a sorted list of (path relative to `root` with `/`, size in bytes).
///
/// Entries whose name starts with a dot and symbolic links are left out: they differ between checkouts of the same text.
pub(crate) fn walk(root: &Path) -> Result<Vec<(String, u64)>, DataError> {
    let mut found = Vec::new();
    let mut pending = vec![(root.to_owned(), String::new())];
    while let Some((folder, prefix)) = pending.pop() {
        let list_error = |e| DataError::io("list", &folder, e);
        for entry in fs::read_dir(&folder).map_err(list_error)? {
            let entry = entry.map_err(list_error)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let relative = format!("{prefix}{name}");
            let kind = entry.file_type().map_err(list_error)?;
            if kind.is_dir() {
                pending.push((entry.path(), format!("{relative}/")));
            } else if kind.is_file() {
                found.push((relative, entry.metadata().map_err(list_error)?.len()));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let failed: Result<(), _> = write_atomic(&target, |file| {
            file.write_all(b"half").unwrap();
            Err(DataError::EmptyCorpus {
                name: "x".into(),
                split: None,
            })
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        write_bytes(&target, b"whole").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"whole");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn text_errors_name_the_offset() {
        let folder = tempfile::tempdir().unwrap();
        for (bytes, expected) in [(&b"ab\0c"[..], 2), (&b"abc\xff"[..], 3)] {
            let path = folder.path().join("f");
            fs::write(&path, bytes).unwrap();
            assert!(
                matches!(read_text(&path), Err(DataError::NotText { offset, .. }) if offset == expected)
            );
        }
    }

    #[test]
    fn walk_is_sorted_and_skips_hidden() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.txt", "a/z.txt", "a/b/c.txt", ".git/config"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let names: Vec<_> = walk(folder.path())
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["a/b/c.txt", "a/z.txt", "b.txt"]);
    }
}
