//! Where data is looked for and kept: the one place in the crate that reads environment variables.

use std::env;
use std::path::{Path, PathBuf};

/// Folders that data comes from and goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataEnv {
    /// Downloads, trained tokenizers and prepared shards are kept here. It can be deleted at any time.
    pub cache_dir: PathBuf,
    /// Read-only folder that is looked into before anything is downloaded.
    pub data_dir: Option<PathBuf>,
    /// `Cargo.toml` of the workspace whose dependencies are the `rust-deps` corpus.
    pub workspace_manifest: PathBuf,
}

impl DataEnv {
    /// Reads `KILN_DATA` (data folder) and `KILN_CACHE` (cache folder; otherwise `kiln` in the user's cache folder).
    ///
    /// The workspace is the nearest folder, from the current one upwards, that holds a `Cargo.lock`; callers that
    /// know better overwrite `workspace_manifest`. Nothing is created, and no folder has to exist yet.
    pub fn from_environment() -> Self {
        let here = env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        Self {
            cache_dir: cache_dir(|name| {
                env::var_os(name)
                    .filter(|v| !v.is_empty())
                    .map(PathBuf::from)
            }),
            data_dir: env::var_os("KILN_DATA")
                .filter(|v| !v.is_empty())
                .map(PathBuf::from),
            workspace_manifest: workspace_manifest(&here),
        }
    }
}

/// `KILN_CACHE`, else the platform's cache folder, else `.kiln-cache` here.
fn cache_dir(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    variable("KILN_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("kiln")))
        .or_else(|| variable("LOCALAPPDATA").map(|dir| dir.join("kiln")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".cache").join("kiln")))
        .unwrap_or_else(|| PathBuf::from(".kiln-cache"))
}

fn workspace_manifest(from: &Path) -> PathBuf {
    let root = from
        .ancestors()
        .find(|folder| folder.join("Cargo.lock").is_file());
    root.unwrap_or(from).join("Cargo.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kiln_cache_wins_over_the_platform_folder() {
        let home_only = cache_dir(|name| (name == "HOME").then(|| "/h".into()));
        assert_eq!(home_only, Path::new("/h/.cache/kiln"));
        assert_eq!(cache_dir(|_| Some("/x".into())), Path::new("/x"));
        assert_eq!(cache_dir(|_| None), Path::new(".kiln-cache"));
    }

    #[test]
    fn the_manifest_beside_the_nearest_lock_file_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let nested = folder.path().join("a/b");
        std::fs::create_dir_all(&nested).unwrap();
        std::fs::write(folder.path().join("a/Cargo.lock"), "").unwrap();
        assert_eq!(
            workspace_manifest(&nested),
            folder.path().join("a/Cargo.toml")
        );
    }
}
