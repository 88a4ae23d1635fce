//! Where things are: the workspace, the recipe book, the data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kiln_text::DataEnv;

use crate::args::Folders;

/// The workspace: named by `cargo xtask` in `KILN_WORKSPACE`, else where this binary was built.
pub fn workspace() -> PathBuf {
    std::env::var_os("KILN_WORKSPACE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."),
        PathBuf::from,
    )
}

/// The folder of recipes.
pub fn book() -> PathBuf {
    workspace().join("recipes/book")
}

/// The folder of studies.
pub fn studies() -> PathBuf {
    book().join("studies")
}

/// The folder of compression recipes.
pub fn compressions() -> PathBuf {
    book().join("compress")
}

/// Data folders from the environment and the command line, which wins.
pub fn data(folders: &Folders) -> DataEnv {
    let mut env = DataEnv::from_environment();
    env.workspace_manifest = workspace().join("Cargo.toml");
    if let Some(dir) = &folders.data_dir {
        env.data_dir = Some(dir.clone());
    }
    env
}

/// What this binary was built with.
pub fn versions() -> BTreeMap<String, String> {
    [("burn", "0.22.1"), ("rustc", env!("KILN_RUSTC"))]
        .map(|(name, version)| (name.to_string(), version.to_string()))
        .into()
}
