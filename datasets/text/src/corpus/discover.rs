//! Finds the packages behind `rust-deps`: the registry dependencies that the workspace's `Cargo.lock` pins.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::error::DataError;
use crate::progress::Progress;

/// Dependencies are resolved for this platform everywhere, so that every host reads the same packages.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// One package and the folder that its sources lie in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    /// Crate name.
    pub(super) name: String,
    /// Version, as locked.
    pub(super) version: String,
    /// The package's `src` folder. It need not exist.
    pub(super) src_dir: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
}

#[derive(Deserialize)]
struct MetadataPackage {
    name: String,
    version: String,
    source: Option<String>,
    manifest_path: PathBuf,
}

/// Registry packages of the workspace, sorted by name and version.
pub(super) fn packages(
    manifest: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Package>, DataError> {
    progress(Progress::Discovering);
    // Offline first: after a build everything is on disk, and no network is touched.
    let json = metadata(manifest, true).or_else(|_| metadata(manifest, false))?;
    parse(&json).map_err(|reason| DataError::CargoMetadata {
        manifest: manifest.to_owned(),
        reason,
    })
}

fn metadata(manifest: &Path, offline: bool) -> Result<Vec<u8>, DataError> {
    let failed = |reason: String| DataError::CargoMetadata {
        manifest: manifest.to_owned(),
        reason,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(&cargo);
    command.args([
        "metadata",
        "--locked",
        "--format-version",
        "1",
        "--filter-platform",
        PLATFORM,
    ]);
    command.arg("--manifest-path").arg(manifest);
    if offline {
        command.arg("--offline");
    }
    let output = command
        .output()
        .map_err(|e| failed(format!("cannot run {}: {e}", cargo.display())))?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(failed(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
    }
}

fn parse(json: &[u8]) -> Result<Vec<Package>, String> {
    let metadata: Metadata = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let from_registry = |p: &MetadataPackage| {
        p.source
            .as_deref()
            .is_some_and(|s| s.starts_with("registry+"))
    };
    let mut packages: Vec<_> = metadata
        .packages
        .into_iter()
        .filter(from_registry)
        .map(|p| Package {
            src_dir: p.manifest_path.with_file_name("src"),
            name: p.name,
            version: p.version,
        })
        .collect();
    packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_registry_packages_sorted() {
        let json = br#"{"packages": [
            {"name": "zed", "version": "1.0.0", "source": "registry+https://x", "manifest_path": "/r/zed/Cargo.toml"},
            {"name": "mine", "version": "0.1.0", "source": null, "manifest_path": "/w/Cargo.toml"},
            {"name": "fork", "version": "0.1.0", "source": "git+https://x", "manifest_path": "/g/Cargo.toml"},
            {"name": "abc", "version": "2.0.0", "source": "registry+https://x", "manifest_path": "/r/abc/Cargo.toml"}]}"#;
        let packages = parse(json).unwrap();
        let names: Vec<_> = packages.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["abc", "zed"]);
        assert_eq!(packages[1].src_dir, Path::new("/r/zed/src"));
    }

    #[test]
    fn a_missing_manifest_is_a_clear_error() {
        let error = packages(Path::new("no/such/Cargo.toml"), &mut |_| {}).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot list the dependencies of no/such/Cargo.toml"),
            "{error}"
        );
    }
}
