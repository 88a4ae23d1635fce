//! `tiny-shakespeare`: the file that char-rnn published and nanoGPT reports its first loss on.
//!
//! The split is nanoGPT's: the first 1,003,854 characters train, the last 111,540 validate. There is no test split;
//! taking one out of either part would make losses incomparable with every published one.

use std::path::{Path, PathBuf};

use super::Document;
use crate::download::{self, Download};
use crate::env::DataEnv;
use crate::error::DataError;
use crate::files;
use crate::hash::Hash;
use crate::progress::Progress;

pub(super) const NAME: &str = "tiny-shakespeare";
pub(super) const URL: &str =
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt";
pub(super) const BYTES: u64 = 1_115_394;
/// The text is ASCII, so this counts characters and bytes.
const TRAIN_BYTES: usize = 1_003_854;
const FILE: &str = "input.txt";

/// SHA-256 of the file.
pub(super) const SHA256: Hash = Hash([
    0x86, 0xc4, 0xe6, 0xaa, 0x9d, 0xb7, 0xc0, 0x42, 0xec, 0x79, 0xf3, 0x39, 0xdc, 0xb9, 0x6d, 0x42,
    0xb0, 0x07, 0x5e, 0x16, 0xb8, 0xfc, 0x2e, 0x86, 0xbf, 0x0c, 0xa5, 0x7e, 0x2d, 0xc5, 0x65, 0xed,
]);

/// Where a download or an import puts the file.
pub(super) fn cached(env: &DataEnv) -> PathBuf {
    env.cache_dir.join("raw").join(NAME).join(FILE)
}

/// The file, if it is already here: in the data folder, else in the cache.
pub(super) fn find(env: &DataEnv) -> Option<PathBuf> {
    let given = env
        .data_dir
        .iter()
        .flat_map(|dir| [dir.join(NAME).join(FILE), dir.join(FILE)]);
    given.chain([cached(env)]).find(|path| path.is_file())
}

pub(super) fn load(
    env: &DataEnv,
    progress: &mut dyn FnMut(Progress),
) -> Result<[Vec<Document>; 3], DataError> {
    let path = match find(env) {
        Some(path) => path,
        None => {
            let path = cached(env);
            let report = &mut |done, total| {
                progress(Progress::Downloading {
                    url: URL.to_owned(),
                    done,
                    total,
                });
            };
            download::fetch(&Download::new(URL, SHA256, &path), report)?;
            path
        }
    };
    let text = verified(&path)?;
    let document = |part: &str, text: &str| {
        vec![Document {
            name: part.into(),
            text: text.into(),
        }]
    };
    let (train, validation) = text.split_at(TRAIN_BYTES);
    Ok([
        document("input.txt#train", train),
        document("input.txt#validation", validation),
        Vec::new(),
    ])
}

/// The text of a copy of the file, checked against [`SHA256`].
pub(super) fn verified(path: &Path) -> Result<String, DataError> {
    let bytes = files::read(path)?;
    let found = Hash::of(&bytes);
    if found != SHA256 {
        let what = path.display().to_string();
        return Err(DataError::ChecksumMismatch {
            what,
            found,
            expected: SHA256,
        });
    }
    String::from_utf8(bytes).map_err(|e| DataError::NotText {
        path: path.to_owned(),
        offset: e.utf8_error().valid_up_to(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::Corpus;
    use kiln_loader::Split;

    fn env(root: &Path) -> DataEnv {
        DataEnv {
            cache_dir: root.join("cache"),
            data_dir: Some(root.join("data")),
            workspace_manifest: root.join("Cargo.toml"),
        }
    }

    #[test]
    fn the_data_folder_is_looked_into_before_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let env = env(folder.path());
        assert_eq!(find(&env), None);
        files::write_bytes(&cached(&env), b"c").unwrap();
        assert_eq!(find(&env), Some(cached(&env)));
        let given = folder.path().join("data/input.txt");
        files::write_bytes(&given, b"d").unwrap();
        assert_eq!(find(&env), Some(given));
    }

    #[test]
    fn another_text_is_refused_naming_both_digests() {
        let folder = tempfile::tempdir().unwrap();
        let env = env(folder.path());
        files::write_bytes(&cached(&env), b"not it").unwrap();
        let message = load(&env, &mut |_| {}).unwrap_err().to_string();
        assert!(
            message.contains(&SHA256.to_string())
                && message.contains(&Hash::of(b"not it").to_string())
        );
    }

    #[test]
    fn the_real_file_splits_like_nanogpt() {
        let mut env = env(Path::new("nowhere"));
        env.data_dir = DataEnv::from_environment().data_dir;
        if find(&env).is_none() {
            return; // Only where KILN_DATA points at a copy: tests do not download.
        }
        let corpus = Corpus::new(NAME.into(), load(&env, &mut |_| {}).unwrap()).unwrap();
        assert_eq!(
            Split::ALL.map(|split| corpus.bytes(split)),
            [1_003_854, 111_540, 0]
        );
    }
}
