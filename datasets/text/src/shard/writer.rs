//! Writing a shard without holding it in memory.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use super::{HEADER_BYTES, Header, ShardIdentity};
use crate::error::DataError;
use crate::files;
use crate::hash::{Hash, Hasher};

/// Writes a shard piece by piece. The file appears at its path when [`write()`] returns, whole or not at all.
pub struct ShardWriter<'a> {
    out: BufWriter<&'a mut File>,
    path: &'a Path,
    header: Header,
    hasher: Hasher,
    buffer: Vec<u8>,
}

impl ShardWriter<'_> {
    /// Appends `tokens`, which stand for `source_bytes` bytes of text.
    ///
    /// # Errors
    /// A token outside the vocabulary, or a full disk.
    pub fn push(&mut self, tokens: &[u32], source_bytes: u64) -> Result<(), DataError> {
        let identity = &self.header.identity;
        if let Some(&id) = tokens.iter().find(|id| **id >= identity.vocab_size) {
            return Err(DataError::UnknownToken {
                id,
                vocab_size: identity.vocab_size,
            });
        }
        self.buffer.clear();
        match identity.token_bytes() {
            2 => self
                .buffer
                .extend(tokens.iter().flat_map(|id| (*id as u16).to_le_bytes())),
            _ => self
                .buffer
                .extend(tokens.iter().flat_map(|id| id.to_le_bytes())),
        }
        self.hasher.update(&self.buffer);
        self.header.tokens += tokens.len() as u64;
        self.header.source_bytes += source_bytes;
        self.out
            .write_all(&self.buffer)
            .map_err(|e| DataError::io("write", self.path, e))
    }

    fn finish(mut self) -> Result<Header, DataError> {
        self.header.payload = self.hasher.finish();
        let failed = |e| DataError::io("write", self.path, e);
        self.out.seek(SeekFrom::Start(0)).map_err(failed)?;
        self.out
            .write_all(&self.header.to_bytes())
            .map_err(failed)?;
        self.out.flush().map_err(failed)?;
        Ok(self.header)
    }
}

/// Writes a shard at `path` through `fill`, which pushes its tokens; returns its header.
///
/// # Errors
/// What `fill` reports, or a file that cannot be written.
pub fn write(
    path: &Path,
    identity: ShardIdentity,
    fill: impl FnOnce(&mut ShardWriter<'_>) -> Result<(), DataError>,
) -> Result<Header, DataError> {
    files::write_atomic(path, |file| {
        let mut out = BufWriter::with_capacity(1 << 18, file);
        out.write_all(&[0; HEADER_BYTES])
            .map_err(|e| DataError::io("write", path, e))?;
        let (token_bytes, payload) = (identity.token_bytes(), Hash([0; 32]));
        let header = Header {
            identity,
            token_bytes,
            tokens: 0,
            source_bytes: 0,
            payload,
        };
        let mut writer = ShardWriter {
            out,
            path,
            header,
            hasher: Hasher::default(),
            buffer: Vec::new(),
        };
        fill(&mut writer)?;
        writer.finish()
    })
}
