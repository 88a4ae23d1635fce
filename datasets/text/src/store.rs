//! The tokens of one split, read through a memory map or held in memory.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

use crate::error::DataError;
use crate::hash::Hash;
use crate::shard::{HEADER_BYTES, Header, ShardIdentity};

/// An immutable sequence of token ids.
#[derive(Debug)]
pub struct TokenStore {
    data: Data,
    tokens: u64,
    source_bytes: u64,
    vocab_size: u32,
}

#[derive(Debug)]
enum Data {
    Mapped { map: Mmap, token_bytes: u32 },
    Memory(Vec<u32>),
}

impl TokenStore {
    /// Opens a shard and verifies all of it.
    ///
    /// # Errors
    /// A file that is not a shard, is truncated, damaged, of another version, or made from another tokenizer or corpus
    /// than `expected`; each names what was found and what was expected.
    pub fn open(path: &Path, expected: &ShardIdentity) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|e| DataError::io("open", path, e))?;
        // SAFETY: shards are written under another name, renamed into place and never changed afterwards, so the
        // mapped bytes stay as they are while the map lives. Nothing is reinterpreted: ids are decoded byte by byte.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| DataError::io("map", path, e))?;
        let header = Header::parse(path, &map)?;
        header.expect(path, expected)?;
        let payload = Hash::of(&map[HEADER_BYTES..]);
        if payload != header.payload {
            return Err(DataError::ShardMismatch {
                path: path.to_owned(),
                what: "token sha256",
                found: payload.to_string(),
                expected: header.payload.to_string(),
            });
        }
        Ok(Self {
            data: Data::Mapped {
                map,
                token_bytes: header.token_bytes,
            },
            tokens: header.tokens,
            source_bytes: header.source_bytes,
            vocab_size: header.identity.vocab_size,
        })
    }

    /// A store of tokens in memory, for generated data and tests; `source_bytes` is the text they stand for.
    ///
    /// # Errors
    /// [`DataError::UnknownToken`] for an id that is not below `vocab_size`.
    pub fn from_tokens(
        tokens: Vec<u32>,
        source_bytes: u64,
        vocab_size: u32,
    ) -> Result<Self, DataError> {
        match tokens.iter().find(|id| **id >= vocab_size) {
            Some(&id) => Err(DataError::UnknownToken { id, vocab_size }),
            None => {
                let length = tokens.len() as u64;
                Ok(Self {
                    data: Data::Memory(tokens),
                    tokens: length,
                    source_bytes,
                    vocab_size,
                })
            }
        }
    }

    /// Number of tokens.
    pub fn len(&self) -> u64 {
        self.tokens
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Bytes of source text that the tokens stand for.
    pub fn bytes(&self) -> u64 {
        self.source_bytes
    }

    /// Tokens in the vocabulary; every id is below.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// A loss in nats per token of this split, as bits per byte of its text: comparable between tokenizers.
    pub fn bits_per_byte(&self, nats_per_token: f64) -> f64 {
        nats_per_token / std::f64::consts::LN_2 * self.tokens as f64 / self.source_bytes as f64
    }

    /// Replaces the content of `out` by the tokens in `range`.
    ///
    /// # Panics
    /// If `range` is not inside `0..len()`.
    pub fn read(&self, range: Range<u64>, out: &mut Vec<u32>) {
        assert!(
            range.start <= range.end && range.end <= self.tokens,
            "tokens {range:?} of a store of {}",
            self.tokens
        );
        out.clear();
        let (start, end) = (range.start as usize, range.end as usize);
        match &self.data {
            Data::Memory(tokens) => out.extend_from_slice(&tokens[start..end]),
            Data::Mapped {
                map,
                token_bytes: 2,
            } => {
                let (ids, _) =
                    map[HEADER_BYTES + start * 2..HEADER_BYTES + end * 2].as_chunks::<2>();
                out.extend(ids.iter().map(|id| u32::from(u16::from_le_bytes(*id))));
            }
            Data::Mapped { map, .. } => {
                let (ids, _) =
                    map[HEADER_BYTES + start * 4..HEADER_BYTES + end * 4].as_chunks::<4>();
                out.extend(ids.iter().map(|id| u32::from_le_bytes(*id)));
            }
        }
    }

    /// All tokens, in pieces of bounded size.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Vec<u32>> {
        const PIECE: u64 = 1 << 20;
        (0..self.tokens.div_ceil(PIECE)).map(|index| {
            let mut piece = Vec::new();
            self.read(
                index * PIECE..((index + 1) * PIECE).min(self.tokens),
                &mut piece,
            );
            piece
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard;
    use std::fs;

    fn identity(vocab_size: u32) -> ShardIdentity {
        ShardIdentity {
            vocab_size,
            tokenizer: Hash::of(b"t"),
            corpus: Hash::of(b"c"),
        }
    }

    fn shard(path: &Path, vocab_size: u32, tokens: &[u32]) {
        shard::write(path, identity(vocab_size), |writer| {
            tokens
                .chunks(3)
                .try_for_each(|chunk| writer.push(chunk, 2 * chunk.len() as u64))
        })
        .unwrap();
    }

    #[test]
    fn both_widths_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.tokens");
        for (vocab_size, tokens, width) in [
            (65_536, vec![0, 65_535, 7, 8], 2),
            (65_537, vec![65_536, 1, 2, 3], 4),
        ] {
            shard(&path, vocab_size, &tokens);
            assert_eq!(fs::metadata(&path).unwrap().len(), 192 + 4 * width);
            let store = TokenStore::open(&path, &identity(vocab_size)).unwrap();
            assert_eq!(
                (store.len(), store.bytes(), store.vocab_size()),
                (4, 8, vocab_size)
            );
            let mut out = vec![9];
            store.read(1..3, &mut out);
            assert_eq!(out, tokens[1..3]);
            assert_eq!(store.pieces().flatten().collect::<Vec<_>>(), tokens);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.tokens");
        shard(&path, 256, &[1, 2, 3, 4, 5]);
        let good = fs::read(&path).unwrap();
        let bad = |bytes: &[u8]| {
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
            TokenStore::open(&path, &identity(256))
        };
        for at in (0..168).chain(192..good.len()) {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            assert!(bad(&bytes).is_err(), "byte {at}");
        }
        for length in [0, 5, 100, 192, good.len() - 1] {
            let error = bad(&good[..length]).unwrap_err();
            assert!(
                matches!(error, DataError::ShardLength { .. } | DataError::Io { .. }),
                "{length}: {error}"
            );
        }
        assert!(bad(&good).is_ok());
    }

    #[test]
    fn errors_name_what_was_found_and_expected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.tokens");
        shard(&path, 256, &[1, 2]);
        let other = ShardIdentity {
            tokenizer: Hash::of(b"other"),
            ..identity(256)
        };
        let message = TokenStore::open(&path, &other).unwrap_err().to_string();
        assert!(
            message.contains("tokenizer sha256 is e3b98a4da31a127d"),
            "{message}"
        );
        assert!(
            message.contains(&Hash::of(b"other").to_string()),
            "{message}"
        );
        let other = ShardIdentity {
            corpus: Hash::of(b"other"),
            ..identity(256)
        };
        assert!(
            TokenStore::open(&path, &other)
                .unwrap_err()
                .to_string()
                .contains("corpus sha256")
        );
        let mut bytes = fs::read(&path).unwrap();
        bytes[8] = 9;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let message = TokenStore::open(&path, &identity(256))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("has shard format 9, this program reads 1"),
            "{message}"
        );
    }

    #[test]
    fn tokens_outside_the_vocabulary_are_refused() {
        assert!(matches!(
            TokenStore::from_tokens(vec![1, 5], 2, 5),
            Err(DataError::UnknownToken {
                id: 5,
                vocab_size: 5
            })
        ));
        let folder = tempfile::tempdir().unwrap();
        let written = shard::write(&folder.path().join("x"), identity(4), |writer| {
            writer.push(&[4], 1)
        });
        assert!(matches!(
            written,
            Err(DataError::UnknownToken { id: 4, .. })
        ));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn bits_per_byte_counts_bytes_not_tokens() {
        let store = TokenStore::from_tokens(vec![0; 10], 40, 1).unwrap();
        assert!((store.bits_per_byte(std::f64::consts::LN_2 * 8.0) - 2.0).abs() < 1e-12);
    }
}
