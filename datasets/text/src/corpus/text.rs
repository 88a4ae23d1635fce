//! `text:PATH`: a file or a folder of the user's own.
//!
//! A folder of 20 or more files is split by whole file, 90/5/5 by rank of the hash of the relative path. Anything
//! smaller is split by position in the concatenation of all files, so that no split is left empty.

use std::path::Path;

use super::Document;
use crate::error::DataError;
use crate::files;
use crate::hash::Hash;

/// From this many files on, 5 % of them is at least one whole file.
const WHOLE_FILES_FROM: usize = 20;

pub(super) fn load(path: &Path, max_bytes: u64) -> Result<[Vec<Document>; 3], DataError> {
    let metadata = path
        .metadata()
        .map_err(|e| DataError::io("read", path, e))?;
    let named = if metadata.is_dir() {
        files::walk(path)?
            .into_iter()
            .map(|(name, size)| (path.join(&name), name, size))
            .collect()
    } else {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        vec![(path.to_owned(), name, metadata.len())]
    };
    // Refuse before reading: a corpus is held in memory.
    let bytes: u64 = named.iter().map(|(_, _, size)| size).sum();
    if bytes > max_bytes {
        return Err(DataError::CorpusTooLarge {
            name: format!("text:{}", path.display()),
            bytes,
            max_bytes,
        });
    }
    let mut documents = Vec::with_capacity(named.len());
    for (path, name, _) in named {
        documents.push(Document {
            text: files::read_text(&path)?,
            name,
        });
    }
    documents.retain(|document| !document.text.is_empty());
    match documents.len() {
        0..WHOLE_FILES_FROM => Ok(split_by_position(&documents)),
        _ => Ok(split_by_document(documents)),
    }
}

/// Whole documents; the order inside a split stays the order of names.
fn split_by_document(documents: Vec<Document>) -> [Vec<Document>; 3] {
    let held_out = documents.len() / WHOLE_FILES_FROM;
    let mut ranks: Vec<_> = documents
        .iter()
        .map(|d| Hash::of(d.name.as_bytes()))
        .collect();
    ranks.sort();
    let (test_from, validation_from) = (
        ranks[ranks.len() - held_out],
        ranks[ranks.len() - 2 * held_out],
    );
    let mut splits: [Vec<Document>; 3] = Default::default();
    for document in documents {
        let hash = Hash::of(document.name.as_bytes());
        let split = usize::from(hash >= validation_from) + usize::from(hash >= test_from);
        splits[split].push(document);
    }
    splits
}

/// The first 90 % of all bytes, the next 5 %, the last 5 %, each cut moved back to a character boundary.
fn split_by_position(documents: &[Document]) -> [Vec<Document>; 3] {
    let total: usize = documents.iter().map(|document| document.text.len()).sum();
    let bounds = [0, total * 9 / 10, total - total / 20, total];
    let mut splits: [Vec<Document>; 3] = Default::default();
    let mut start = 0;
    for Document { name, text } in documents {
        for (split, pair) in splits.iter_mut().zip(bounds.windows(2)) {
            let cut = |bound: usize| text.floor_char_boundary(bound.saturating_sub(start));
            let part = &text[cut(pair[0])..cut(pair[1])];
            if !part.is_empty() {
                split.push(Document {
                    name: name.clone(),
                    text: part.to_owned(),
                });
            }
        }
        start += text.len();
    }
    splits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::Corpus;
    use kiln_loader::Split;

    fn texts(splits: &[Vec<Document>; 3]) -> [String; 3] {
        splits
            .each_ref()
            .map(|split| split.iter().map(|d| d.text.as_str()).collect())
    }

    #[test]
    fn one_file_is_split_by_position_at_characters() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let text = "é".repeat(101);
        files::write_bytes(&path, text.as_bytes()).unwrap();
        let parts = texts(&load(&path, 1000).unwrap());
        assert_eq!(parts.concat(), text);
        assert_eq!(parts.each_ref().map(String::len), [180, 12, 10]);
    }

    #[test]
    fn few_files_are_split_by_position_over_all() {
        let folder = tempfile::tempdir().unwrap();
        for index in 0..10 {
            files::write_bytes(
                &folder.path().join(format!("{index}.txt")),
                &[b'0' + index; 20],
            )
            .unwrap();
        }
        let parts = texts(&load(folder.path(), 1000).unwrap());
        assert_eq!(parts.each_ref().map(String::len), [180, 10, 10]);
        assert_eq!(parts[2], "9".repeat(10));
    }

    #[test]
    fn many_files_are_split_whole_and_independent_of_the_folder() {
        let write = || {
            let folder = tempfile::tempdir().unwrap();
            for index in 0..40 {
                files::write_bytes(&folder.path().join(format!("d/{index}.txt")), b"text\n")
                    .unwrap();
            }
            let corpus = Corpus::new("text:x".into(), load(folder.path(), 1000).unwrap()).unwrap();
            (
                corpus.hash(),
                Split::ALL.map(|split| corpus.documents(split).len()),
            )
        };
        assert_eq!(write(), write());
        assert_eq!(write().1, [36, 2, 2]);
    }

    #[test]
    fn bad_input_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let bad = folder.path().join("bad.txt");
        assert!(matches!(load(&bad, 10), Err(DataError::Io { .. })));
        files::write_bytes(&bad, b"ok\xff").unwrap();
        let message = load(folder.path(), 10).unwrap_err().to_string();
        assert!(
            message.contains("bad.txt is not text: the byte at offset 2"),
            "{message}"
        );
        assert!(matches!(
            load(&bad, 2),
            Err(DataError::CorpusTooLarge {
                bytes: 3,
                max_bytes: 2,
                ..
            })
        ));
        files::write_bytes(&bad, b"").unwrap();
        let empty = Corpus::new("text:x".into(), load(&bad, 10).unwrap());
        assert!(matches!(
            empty,
            Err(DataError::EmptyCorpus { split: None, .. })
        ));
    }
}
