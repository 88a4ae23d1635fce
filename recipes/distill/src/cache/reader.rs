//! Reading a cache.

use std::fs::File;
use std::path::Path;

use kiln_run::FileError;
use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::{CacheError, CacheLayout, HASH_BYTES, HEADER_BYTES, Rows, shard_path};

/// A whole cache, mapped into memory.
#[derive(Debug)]
pub struct CacheReader {
    layout: CacheLayout,
    shards: Vec<Mmap>,
}

impl CacheReader {
    /// Maps every shard and verifies its checksum.
    ///
    /// # Errors
    /// A shard that is missing, or [`CacheError::Damaged`].
    pub fn open(folder: &Path, layout: CacheLayout) -> Result<Self, CacheError> {
        let shards = (0..layout.shards()).map(|shard| map(folder, &layout, shard));
        Ok(Self {
            layout,
            shards: shards.collect::<Result<_, _>>()?,
        })
    }

    /// Appends the answers at some positions of a window.
    pub fn read(&self, window: u64, positions: impl Iterator<Item = usize>, rows: &mut Rows) {
        let layout = &self.layout;
        let shard = window / layout.shard_windows();
        let within = (window % layout.shard_windows()) as usize;
        let start = HEADER_BYTES + within * layout.window_bytes();
        let map = &self.shards[shard as usize];
        for position in positions {
            let at = start + position * layout.position_bytes();
            let (kept, log_probs) =
                map[at..at + layout.position_bytes()].split_at(4 * layout.top_k);
            let numbers = |bytes: &'_ [u8]| -> Vec<[u8; 4]> { bytes.as_chunks::<4>().0.to_vec() };
            rows.kept
                .extend(numbers(kept).into_iter().map(i32::from_le_bytes));
            rows.log_probs
                .extend(numbers(log_probs).into_iter().map(f32::from_le_bytes));
        }
    }
}

fn map(folder: &Path, layout: &CacheLayout, shard: u64) -> Result<Mmap, CacheError> {
    let path = shard_path(folder, shard);
    let file = File::open(&path).map_err(FileError::io("open", &path))?;
    // SAFETY: shards are renamed into place and not written after that. A process that truncates one meanwhile can end this one,
    // as with the shards of a corpus.
    let map = unsafe { Mmap::map(&file) }.map_err(FileError::io("map", &path))?;
    let damaged = |why: String| CacheError::Damaged {
        path: path.clone(),
        why,
    };
    let expected = layout.shard_bytes(shard);
    if map.len() != expected {
        let why = format!("it has {} bytes, and {expected} were written", map.len());
        return Err(damaged(why));
    }
    let (content, hash) = map.split_at(map.len() - HASH_BYTES);
    if Sha256::digest(content)[..] != *hash {
        return Err(damaged("its sha256 is another than it says".into()));
    }
    if content[..HEADER_BYTES] != layout.header(shard) {
        return Err(damaged("its header is that of another shard".into()));
    }
    Ok(map)
}
