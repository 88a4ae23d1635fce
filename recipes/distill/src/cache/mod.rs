//! A teacher's answers on disk: for every window of a text, the likeliest tokens of each position with their probabilities.
//!
//! A cache is a folder of shards. A shard is written whole or not at all, and carries the SHA-256 of its contents, so a build
//! that was stopped goes on with the shards that are missing, and a flipped bit is found before a student learns from it.
//! All numbers are little-endian.
//!
//! | bytes of a shard | field |
//! |---|---|
//! | 0..8 | magic `KILNTCH\0` |
//! | 8..12 | format version |
//! | 12..32 | number of the shard, its windows, positions of a window, kept tokens, zero |
//! | then, for each window and position | kept ids (u32 each), their log-probabilities and that of all others (f32 each) |
//! | last 32 | SHA-256 of everything before |

mod error;
mod index;
mod reader;
mod writer;

use std::path::{Path, PathBuf};

pub use error::CacheError;
pub use index::WindowIndex;
pub use reader::CacheReader;
pub use writer::CacheWriter;

const MAGIC: [u8; 8] = *b"KILNTCH\0";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
const HASH_BYTES: usize = 32;
/// About as large as shards become: small enough that little is lost when a build is stopped.
const SHARD_BYTES: u64 = 8 << 20;

/// The size of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLayout {
    /// Windows of the text.
    pub windows: u64,
    /// Positions of a window.
    pub seq: usize,
    /// Tokens kept a position.
    pub top_k: usize,
}

impl CacheLayout {
    /// Bytes of a position: k ids, k + 1 log-probabilities.
    fn position_bytes(&self) -> usize {
        4 * (2 * self.top_k + 1)
    }

    fn window_bytes(&self) -> usize {
        self.seq * self.position_bytes()
    }

    /// Windows of every shard but the last.
    pub fn shard_windows(&self) -> u64 {
        (SHARD_BYTES / self.window_bytes().max(1) as u64).max(1)
    }

    /// Number of shards.
    pub fn shards(&self) -> u64 {
        self.windows.div_ceil(self.shard_windows())
    }

    /// Windows of one shard: the first, and the one after the last.
    pub fn windows_of(&self, shard: u64) -> std::ops::Range<u64> {
        let first = shard * self.shard_windows();
        first..self.windows.min(first + self.shard_windows())
    }

    /// Bytes of the whole cache.
    pub fn bytes(&self) -> u64 {
        let around = self.shards() * (HEADER_BYTES + HASH_BYTES) as u64;
        self.windows * self.window_bytes() as u64 + around
    }

    fn shard_bytes(&self, shard: u64) -> usize {
        let windows = self.windows_of(shard);
        HEADER_BYTES + (windows.end - windows.start) as usize * self.window_bytes() + HASH_BYTES
    }

    fn header(&self, shard: u64) -> [u8; HEADER_BYTES] {
        let windows = self.windows_of(shard);
        let numbers = [
            VERSION,
            shard as u32,
            (windows.end - windows.start) as u32,
            self.seq as u32,
            self.top_k as u32,
            0,
        ];
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        for (at, number) in numbers.iter().enumerate() {
            header[8 + 4 * at..12 + 4 * at].copy_from_slice(&number.to_le_bytes());
        }
        header
    }
}

/// Answers at some positions, row after row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Kept ids, `[rows, k]`.
    pub kept: Vec<i32>,
    /// Their log-probabilities and that of all others, `[rows, k + 1]`.
    pub log_probs: Vec<f32>,
}

fn shard_path(folder: &Path, shard: u64) -> PathBuf {
    folder.join(format!("shard-{shard:06}.bin"))
}

#[cfg(test)]
mod tests;
