//! Filling a cache.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use kiln_run::{FileError, atomic_write};
use sha2::{Digest, Sha256};

use super::{CacheError, CacheLayout, CacheReader, Rows, shard_path};

/// A cache that is being filled. One process at a time does; the folder is locked until this is dropped.
#[derive(Debug)]
pub struct CacheWriter {
    folder: PathBuf,
    layout: CacheLayout,
    /// Held, not read: the system releases the lock when the file is closed.
    _lock: File,
}

impl CacheWriter {
    /// Opens or makes the folder, whose name must follow from everything that the answers depend on. `waiting` is called if
    /// another process is filling it, and then this waits.
    ///
    /// # Errors
    /// A folder that cannot be made or locked.
    pub fn open(
        folder: &Path,
        layout: CacheLayout,
        waiting: &mut dyn FnMut(),
    ) -> Result<Self, CacheError> {
        fs::create_dir_all(folder).map_err(FileError::io("create", folder))?;
        let path = folder.join("lock");
        let lock = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(FileError::io("create", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting();
                lock.lock().map_err(FileError::io("lock", &path))?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(FileError::io("lock", &path)(error).into());
            }
        }
        Ok(Self {
            folder: folder.into(),
            layout,
            _lock: lock,
        })
    }

    /// Shards that are not there yet.
    pub fn missing(&self) -> Vec<u64> {
        let shards = 0..self.layout.shards();
        shards
            .filter(|shard| !shard_path(&self.folder, *shard).is_file())
            .collect()
    }

    /// Writes a shard: the answers at every position of its windows. The file is there whole or not at all.
    ///
    /// # Errors
    /// Another number of rows than the shard has positions; a full disk.
    pub fn write(&self, shard: u64, rows: &Rows) -> Result<(), CacheError> {
        let layout = &self.layout;
        let windows = layout.windows_of(shard);
        let needed = (windows.end - windows.start) as usize * layout.seq;
        let given = rows.log_probs.len() / (layout.top_k + 1);
        if given != needed || rows.kept.len() != needed * layout.top_k {
            return Err(CacheError::Rows { given, needed });
        }
        let mut bytes = Vec::with_capacity(layout.shard_bytes(shard));
        bytes.extend(layout.header(shard));
        let kept = rows.kept.chunks(layout.top_k);
        for (kept, log_probs) in kept.zip(rows.log_probs.chunks(layout.top_k + 1)) {
            kept.iter().for_each(|id| bytes.extend(id.to_le_bytes()));
            log_probs.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
        }
        let hash = Sha256::digest(&bytes);
        bytes.extend(hash);
        Ok(atomic_write(&shard_path(&self.folder, shard), |out| {
            out.write_all(&bytes)
        })?)
    }

    /// The filled cache, every shard of it verified.
    ///
    /// # Errors
    /// Those of [`CacheReader::open`].
    pub fn finish(self) -> Result<CacheReader, CacheError> {
        CacheReader::open(&self.folder, self.layout)
    }
}
