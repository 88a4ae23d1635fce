//! `rust-deps`: a corpus out of the Rust sources that building this workspace put on disk anyway.
//!
//! - A *family* is a crate name up to its first `-` or `_`. `serde` and `serde_derive` share code, so a family is in one
//!   split as a whole: SHA-256 of its name modulo 100 below 90 is train, below 95 validation, the rest test. A crate
//!   therefore never changes split when the lock file does.
//! - The byte budget is divided 90/5/5. Within a split the crate with the fewest bytes so far gives its next file, so
//!   small crates are taken whole and the largest ones share what is left: no crate dominates.
//! - Files over 256 KiB (tables, bindings) or a sixteenth of their split's budget, files that are not text, and content that was already taken are skipped.
//!   Identical content can therefore not be in two splits; code that was copied and then edited can.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::path::PathBuf;

use super::discover::Package;
use kiln_loader::Split;

use super::Document;
use crate::error::DataError;
use crate::files;
use crate::hash::Hash;
use crate::progress::Progress;

/// Larger files are generated ones, with little to learn from and much weight.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// A file is at most one part in this many of its split: a loss over a split is not to be that of one file.
const MIN_FILES: u64 = 16;
/// Files up to this size are taken however small the split.
const SMALL_FILE_BYTES: u64 = 4096;

struct Candidate {
    name: String,
    path: PathBuf,
    size: u64,
}

/// Chooses and reads documents from `packages`, at most about `max_bytes` in all; train, validation, test.
///
/// The result depends on the packages' names, versions and contents only, not on where they lie.
///
/// # Errors
/// A file or folder that cannot be read.
pub(super) fn select(
    packages: &[Package],
    max_bytes: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<[Vec<Document>; 3], DataError> {
    let mut crates: [BTreeMap<&str, Vec<Candidate>>; 3] = Default::default();
    for package in packages {
        let files = candidates(package)?;
        crates[split_of(&package.name) as usize]
            .entry(&package.name)
            .or_default()
            .extend(files);
    }
    let eval_bytes = max_bytes / 20;
    let mut reader = Reader {
        seen: HashSet::new(),
        documents: 0,
        bytes: 0,
        progress,
    };
    let [train, validation, test] = crates;
    // Evaluation text first: where content is duplicated across splits, it is the train copy that is dropped.
    let test = reader.fill(test, eval_bytes)?;
    let validation = reader.fill(validation, eval_bytes)?;
    let train = reader.fill(train, max_bytes - 2 * eval_bytes)?;
    Ok([train, validation, test])
}

fn split_of(name: &str) -> Split {
    let family = name.split(['-', '_']).next().unwrap_or(name);
    match Hash::of(family.as_bytes()).leading_u64() % 100 {
        0..90 => Split::Train,
        90..95 => Split::Validation,
        _ => Split::Test,
    }
}

/// The package's source files in an order that does not favour any folder: by hash of their relative path.
fn candidates(package: &Package) -> Result<Vec<Candidate>, DataError> {
    if !package.src_dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut files: Vec<_> = files::walk(&package.src_dir)?
        .into_iter()
        .filter(|(name, size)| name.ends_with(".rs") && *size <= MAX_FILE_BYTES)
        .collect();
    files.sort_by_cached_key(|(name, _)| Hash::of(name.as_bytes()));
    let document = |(name, size): (String, u64)| Candidate {
        path: package.src_dir.join(&name),
        name: format!("{}-{}/src/{name}", package.name, package.version),
        size,
    };
    Ok(files.into_iter().map(document).collect())
}

struct Reader<'a> {
    seen: HashSet<Hash>,
    documents: u64,
    bytes: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl Reader<'_> {
    /// Takes files until `budget` bytes are used or none is left; documents sorted by name.
    fn fill(
        &mut self,
        crates: BTreeMap<&str, Vec<Candidate>>,
        budget: u64,
    ) -> Result<Vec<Document>, DataError> {
        let mut crates: Vec<_> = crates.into_values().map(Vec::into_iter).collect();
        // Smallest share first, ties in order of crate name.
        let mut queue: BinaryHeap<_> = (0..crates.len())
            .map(|index| Reverse((0u64, index)))
            .collect();
        let file_limit = (budget / MIN_FILES).max(SMALL_FILE_BYTES);
        let (mut documents, mut used) = (Vec::new(), 0);
        while let Some(Reverse((share, index))) = queue.pop() {
            let Some(file) = crates[index].next() else {
                continue;
            };
            let mut taken = 0;
            // One more byte for the line feed that may be appended when documents are joined.
            if file.size <= file_limit
                && used + file.size < budget
                && let Some(text) = self.read(&file)?
            {
                taken = text.len() as u64 + 1;
                documents.push(Document {
                    name: file.name,
                    text,
                });
            }
            used += taken;
            queue.push(Reverse((share + taken, index)));
        }
        documents.sort_by(|a: &Document, b| a.name.cmp(&b.name));
        Ok(documents)
    }

    /// The file's text, or none where it is not text or was already taken.
    fn read(&mut self, file: &Candidate) -> Result<Option<String>, DataError> {
        let text = match files::read_text(&file.path) {
            Ok(text) if self.seen.insert(Hash::of(text.as_bytes())) => text,
            Ok(_) | Err(DataError::NotText { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        self.documents += 1;
        self.bytes += text.len() as u64;
        if self.documents.is_multiple_of(256) {
            (self.progress)(Progress::Reading {
                documents: self.documents,
                bytes: self.bytes,
            });
        }
        Ok(Some(text))
    }
}

#[cfg(test)]
mod tests;
