//! Which corpora there are, and bringing one in by hand.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{CorpusSource, shakespeare};
use crate::env::DataEnv;
use crate::error::DataError;
use crate::files;

/// Whether a corpus can be used right now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorpusState {
    /// Its file is here.
    Present(PathBuf),
    /// It will be downloaded on first use.
    ToDownload {
        /// From where.
        url: &'static str,
        /// Bytes to transfer.
        bytes: u64,
    },
    /// It is read from files that exist for another reason.
    Derived {
        /// What it is derived from.
        from: PathBuf,
    },
    /// It is wherever the user says.
    UserPath,
}

impl fmt::Display for CorpusState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present(path) => write!(out, "here: {}", path.display()),
            Self::ToDownload { url, bytes } => write!(out, "{bytes} bytes to download from {url}"),
            Self::Derived { from } => write!(out, "made from {}", from.display()),
            Self::UserPath => write!(out, "read from the path you name"),
        }
    }
}

/// One line of the list of corpora.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorpusInfo {
    /// The name to ask for it by.
    pub name: &'static str,
    /// What it is and how it is split.
    pub description: &'static str,
    /// Whether it is here.
    pub state: CorpusState,
}

/// The known corpora with their state. Reads no file contents.
pub fn list(env: &DataEnv) -> Vec<CorpusInfo> {
    let shakespeare_state = match shakespeare::find(env) {
        Some(path) => CorpusState::Present(path),
        None => CorpusState::ToDownload {
            url: shakespeare::URL,
            bytes: shakespeare::BYTES,
        },
    };
    vec![
        CorpusInfo {
            name: "rust-deps",
            description: "Rust sources of the workspace's locked dependencies, split 90/5/5 by crate family",
            state: CorpusState::Derived {
                from: env.workspace_manifest.clone(),
            },
        },
        CorpusInfo {
            name: shakespeare::NAME,
            description: "1.1 MB of Shakespeare as in char-rnn and nanoGPT, split 90/10, no test split",
            state: shakespeare_state,
        },
        CorpusInfo {
            name: "text:PATH",
            description: "a UTF-8 file or folder of your own, split 90/5/5",
            state: CorpusState::UserPath,
        },
    ]
}

/// Copies a local file (or a folder that holds `input.txt`) of the corpus `name` into the cache; returns where it went.
///
/// # Errors
/// A corpus that is not a downloaded file, an unreadable path, or content other than the published one.
pub fn import(name: &str, path: &Path, env: &DataEnv) -> Result<PathBuf, DataError> {
    if name.parse::<CorpusSource>()? != CorpusSource::TinyShakespeare {
        return Err(DataError::NotImportable {
            name: name.to_owned(),
        });
    }
    let file = if path.is_dir() {
        path.join("input.txt")
    } else {
        path.to_owned()
    };
    let text = shakespeare::verified(&file)?;
    let target = shakespeare::cached(env);
    files::write_bytes(&target, text.as_bytes())?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(root: &Path) -> DataEnv {
        DataEnv {
            cache_dir: root.join("cache"),
            data_dir: None,
            workspace_manifest: root.join("Cargo.toml"),
        }
    }

    #[test]
    fn every_listed_name_parses() {
        let folder = tempfile::tempdir().unwrap();
        let infos = list(&env(folder.path()));
        assert!(
            infos
                .iter()
                .all(|info| info.name.parse::<CorpusSource>().is_ok())
        );
        assert!(matches!(
            infos[1].state,
            CorpusState::ToDownload {
                bytes: 1_115_394,
                ..
            }
        ));
    }

    #[test]
    fn import_refuses_other_content_and_other_corpora() {
        let folder = tempfile::tempdir().unwrap();
        let env = env(folder.path());
        files::write_bytes(&folder.path().join("input.txt"), b"not it").unwrap();
        let wrong = import("tiny-shakespeare", folder.path(), &env);
        assert!(matches!(wrong, Err(DataError::ChecksumMismatch { .. })));
        assert!(!shakespeare::cached(&env).exists());
        assert!(matches!(
            import("rust-deps", folder.path(), &env),
            Err(DataError::NotImportable { .. })
        ));
        assert!(matches!(
            import("nope", folder.path(), &env),
            Err(DataError::UnknownCorpus { .. })
        ));
    }

    #[test]
    fn import_makes_the_real_file_present() {
        let source = DataEnv {
            cache_dir: "nowhere".into(),
            ..DataEnv::from_environment()
        };
        let Some(path) = shakespeare::find(&source) else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let env = env(folder.path());
        let target = import("tiny-shakespeare", &path, &env).unwrap();
        assert_eq!(list(&env)[1].state, CorpusState::Present(target));
    }
}
