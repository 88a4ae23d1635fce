//! Token ids in a file: a fixed header, then the ids. All numbers are little-endian.
//!
//! | bytes     | field |
//! |-----------|-------|
//! | 0..8      | magic `KILNTOK\0` |
//! | 8..12     | format version |
//! | 12..16    | bytes per token: 2 up to 65,536 tokens in the vocabulary, otherwise 4 |
//! | 16..20    | vocabulary size |
//! | 20..24    | zero |
//! | 24..32    | number of tokens |
//! | 32..40    | bytes of source text |
//! | 40..72    | SHA-256 of the tokenizer |
//! | 72..104   | SHA-256 of the corpus |
//! | 104..136  | SHA-256 of the ids |
//! | 136..168  | SHA-256 of bytes 0..136 |
//! | 168..192  | zero |

mod writer;

use std::path::Path;

pub use writer::{ShardWriter, write};

use crate::error::DataError;
use crate::hash::Hash;

/// First bytes of every shard.
pub const MAGIC: [u8; 8] = *b"KILNTOK\0";
/// Version of the format that this crate writes, and the only one it reads.
pub const VERSION: u32 = 1;
/// Bytes before the first token.
pub const HEADER_BYTES: usize = 192;
const SIGNED_BYTES: usize = 136;

/// What a shard was made from. A shard is only opened by a caller that expects the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardIdentity {
    /// Tokens in the vocabulary; every id is below.
    pub vocab_size: u32,
    /// [`crate::Tokenizer::hash`].
    pub tokenizer: Hash,
    /// [`crate::Corpus::hash`].
    pub corpus: Hash,
}

impl ShardIdentity {
    fn token_bytes(&self) -> u32 {
        if self.vocab_size <= 1 << 16 { 2 } else { 4 }
    }
}

/// The header of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the shard was made from.
    pub identity: ShardIdentity,
    /// Bytes per token, 2 or 4.
    pub token_bytes: u32,
    /// Number of tokens.
    pub tokens: u64,
    /// Bytes of source text that the tokens stand for.
    pub source_bytes: u64,
    /// SHA-256 of the ids as stored.
    pub payload: Hash,
}

impl Header {
    /// The header as stored.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        for number in [VERSION, self.token_bytes, self.identity.vocab_size, 0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.tokens, self.source_bytes] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for hash in [self.identity.tokenizer, self.identity.corpus, self.payload] {
            bytes.extend_from_slice(&hash.0);
        }
        let signature = Hash::of(&bytes);
        bytes.extend_from_slice(&signature.0);
        let mut header = [0; HEADER_BYTES];
        header[..bytes.len()].copy_from_slice(&bytes);
        header
    }

    /// Reads the header at the start of `file`, the whole content of the shard at `path`.
    ///
    /// # Errors
    /// Anything but an intact header of this version whose token count fits the file. Never panics.
    pub fn parse(path: &Path, file: &[u8]) -> Result<Self, DataError> {
        let path = || path.to_owned();
        let length = |expected| DataError::ShardLength {
            path: path(),
            found: file.len() as u64,
            expected,
        };
        let mismatch = |what, found: String, expected: String| DataError::ShardMismatch {
            path: path(),
            what,
            found,
            expected,
        };
        let magic = &file[..file.len().min(MAGIC.len())];
        if magic != &MAGIC[..magic.len()] {
            return Err(DataError::NotAShard {
                path: path(),
                found: magic.to_vec(),
                expected: MAGIC.to_vec(),
            });
        }
        let Some(header) = file.first_chunk::<HEADER_BYTES>() else {
            return Err(length(HEADER_BYTES as u64));
        };
        let version = u32_at(header, 8);
        if version != VERSION {
            return Err(DataError::ShardVersion {
                path: path(),
                found: version,
                expected: VERSION,
            });
        }
        let signature = Hash::of(&header[..SIGNED_BYTES]);
        if hash_at(header, SIGNED_BYTES) != signature {
            let found = hash_at(header, SIGNED_BYTES);
            return Err(mismatch(
                "header sha256",
                found.to_string(),
                signature.to_string(),
            ));
        }
        let identity = ShardIdentity {
            vocab_size: u32_at(header, 16),
            tokenizer: hash_at(header, 40),
            corpus: hash_at(header, 72),
        };
        let token_bytes = u32_at(header, 12);
        if token_bytes != identity.token_bytes() {
            let expected = identity.token_bytes().to_string();
            return Err(mismatch(
                "bytes per token",
                token_bytes.to_string(),
                expected,
            ));
        }
        let tokens = u64_at(header, 24);
        let expected = tokens
            .saturating_mul(u64::from(token_bytes))
            .saturating_add(HEADER_BYTES as u64);
        if file.len() as u64 != expected {
            return Err(length(expected));
        }
        let (source_bytes, payload) = (u64_at(header, 32), hash_at(header, 104));
        Ok(Self {
            identity,
            token_bytes,
            tokens,
            source_bytes,
            payload,
        })
    }

    /// Checks that the shard was made from what the caller expects.
    pub(crate) fn expect(&self, path: &Path, expected: &ShardIdentity) -> Result<(), DataError> {
        let found = &self.identity;
        let fields = [
            (
                "tokenizer sha256",
                found.tokenizer.to_string(),
                expected.tokenizer.to_string(),
            ),
            (
                "vocabulary size",
                found.vocab_size.to_string(),
                expected.vocab_size.to_string(),
            ),
            (
                "corpus sha256",
                found.corpus.to_string(),
                expected.corpus.to_string(),
            ),
        ];
        match fields
            .into_iter()
            .find(|(_, found, expected)| found != expected)
        {
            None => Ok(()),
            Some((what, found, expected)) => Err(DataError::ShardMismatch {
                path: path.to_owned(),
                what,
                found,
                expected,
            }),
        }
    }
}

fn array_at<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|i| header[at + i])
}

fn u32_at(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(array_at(header, at))
}

fn u64_at(header: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(array_at(header, at))
}

fn hash_at(header: &[u8; HEADER_BYTES], at: usize) -> Hash {
    Hash(array_at(header, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), depth in 0..3) {
            // Deeper and deeper past the checks: magic, version, signature.
            if depth > 0 && bytes.len() >= 12 {
                bytes[..8].copy_from_slice(&MAGIC);
                bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
            }
            if depth > 1 && bytes.len() >= HEADER_BYTES {
                let signature = Hash::of(&bytes[..SIGNED_BYTES]);
                bytes[SIGNED_BYTES..SIGNED_BYTES + 32].copy_from_slice(&signature.0);
            }
            prop_assert!(Header::parse(Path::new("x"), &bytes).is_err());
        }

        #[test]
        fn headers_round_trip(tokens in 0u64..100, source_bytes: u64, vocab_size: u32, seed: [u8; 32]) {
            let identity = ShardIdentity { vocab_size, tokenizer: Hash(seed), corpus: Hash::of(&seed) };
            let token_bytes = identity.token_bytes();
            let header = Header { identity, token_bytes, tokens, source_bytes, payload: Hash([7; 32]) };
            let mut file = header.to_bytes().to_vec();
            file.resize(HEADER_BYTES + (tokens * u64::from(token_bytes)) as usize, 0);
            prop_assert_eq!(Header::parse(Path::new("x"), &file).unwrap(), header);
        }
    }
}
