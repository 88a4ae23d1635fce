//! Where the workspace is, which crates it holds, and how cargo is called in it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::backend::Backend;

/// The folders that hold crates, lowest layer first.
pub const LAYERS: [&str; 5] = ["backends", "models", "datasets", "recipes", "xtask"];

/// The checkout and the target folder in use.
pub struct Workspace {
    pub root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    pub fn locate() -> Result<Workspace, Error> {
        // Cargo sets the variable when it runs us; the compiled-in path serves a binary started by hand.
        let here = env::var_os("CARGO_MANIFEST_DIR")
            .filter(|dir| Path::new(dir).ends_with("xtask"))
            .unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&here)
            .parent()
            .map(Path::to_path_buf)
            .unwrap_or_default();
        if !root.join("Cargo.toml").is_file() {
            let message = format!(
                "no workspace at {}; run `cargo xtask` in it",
                root.display()
            );
            return Err(Error::Failed(message));
        }
        let cwd = env::current_dir().map_err(|error| Error::Failed(error.to_string()))?;
        let target = target_base(&root, &cwd, env::var_os("CARGO_TARGET_DIR"));
        Ok(Workspace { root, target })
    }

    /// The target folder of a backend's feature set.
    pub fn target(&self, backend: Backend) -> PathBuf {
        target_dir(&self.target, backend)
    }

    /// A `cargo` command in the workspace's root, building into the backend's target folder.
    pub fn cargo(&self, backend: Backend) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", self.target(backend));
        forget_cargo_run(&mut command);
        command
    }
}

/// The target folder without a backend: `CARGO_TARGET_DIR` seen from `cwd`, or `target` in the root.
fn target_base(root: &Path, cwd: &Path, cargo_target_dir: Option<OsString>) -> PathBuf {
    match cargo_target_dir {
        Some(dir) if !dir.is_empty() => cwd.join(dir),
        _ => root.join("target"),
    }
}

/// One folder per feature set: changing burn's features in place would rebuild most of the tree each time.
fn target_dir(base: &Path, backend: Backend) -> PathBuf {
    match backend {
        Backend::Flex => base.to_path_buf(),
        other => base.join(other.name()),
    }
}

/// Removes what `cargo run` set for xtask: build scripts that watch these variables would run again for nothing.
pub fn forget_cargo_run(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if set_by_cargo_run(&name) {
            command.env_remove(name);
        }
    }
}

fn set_by_cargo_run(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
        || [
            "CARGO_CRATE_NAME",
            "CARGO_BIN_NAME",
            "CARGO_PRIMARY_PACKAGE",
        ]
        .contains(&name.as_ref())
}

/// Shows the command line and runs it to its end; an exit status other than 0 is an error.
pub fn execute(command: &mut Command) -> Result<(), Error> {
    let line = command_line(command);
    eprintln!("$ {line}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::Failed(format!("`{line}` ended with {status}"))),
        Err(error) => Err(Error::Failed(format!("`{line}` could not start: {error}"))),
    }
}

/// The command as one would type it: the program's bare name and its arguments.
fn command_line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

/// A crate of the workspace, as its manifest describes it.
pub struct Crate {
    pub name: String,
    /// The top-level folder it lives in, one of [`LAYERS`].
    pub layer: &'static str,
    /// Its folder, relative to the root.
    pub dir: PathBuf,
    pub manifest: toml::Table,
}

impl Crate {
    pub fn has_feature(&self, name: &str) -> bool {
        self.manifest
            .get("features")
            .and_then(|features| features.get(name))
            .is_some()
    }
}

/// Every crate below the layer folders, lowest layer first, by name within a layer.
pub fn crates(root: &Path) -> Result<Vec<Crate>, Error> {
    let mut found = vec![];
    for layer in LAYERS {
        let mut dirs = vec![PathBuf::from(layer)];
        dirs.extend(
            list(&root.join(layer))
                .into_iter()
                .map(|name| Path::new(layer).join(name)),
        );
        for dir in dirs {
            let path = root.join(&dir).join("Cargo.toml");
            if path.is_file() {
                let manifest = read_toml(&path)?;
                let name = manifest
                    .get("package")
                    .and_then(|package| package.get("name")?.as_str())
                    .ok_or_else(|| Error::Failed(format!("{}: no package name", path.display())))?;
                found.push(Crate {
                    name: name.into(),
                    layer,
                    dir,
                    manifest,
                });
            }
        }
    }
    Ok(found)
}

pub fn read_toml(path: &Path) -> Result<toml::Table, Error> {
    let text = fs::read_to_string(path)
        .map_err(|error| Error::Failed(format!("{}: {error}", path.display())))?;
    text.parse()
        .map_err(|error| Error::Failed(format!("{}: {error}", path.display())))
}

/// The names in a folder, sorted; none if it cannot be read.
pub fn list(dir: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    names.sort();
    names
}

/// All files below `dir`, sorted, relative to `root`; folders named in `skip` are left out at any depth.
pub fn files(root: &Path, dir: &str, skip: &[&str]) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut pending = vec![PathBuf::from(dir)];
    while let Some(dir) = pending.pop() {
        for name in list(&root.join(&dir)) {
            let path = dir.join(&name);
            if root.join(&path).is_symlink() || skip.iter().any(|skip| name == *skip) {
                continue;
            } else if root.join(&path).is_dir() {
                pending.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_set_has_its_own_target_folder() {
        let base = target_base(Path::new("/repo"), Path::new("/repo/docs"), None);
        assert_eq!(target_dir(&base, Backend::Flex), Path::new("/repo/target"));
        assert_eq!(
            target_dir(&base, Backend::Vulkan),
            Path::new("/repo/target/vulkan")
        );
    }

    #[test]
    fn cargo_target_dir_is_honoured() {
        let at = |dir: &str| target_base(Path::new("/repo"), Path::new("/cwd"), Some(dir.into()));
        assert_eq!(
            target_dir(&at("/big/t"), Backend::Flex),
            Path::new("/big/t")
        );
        assert_eq!(
            target_dir(&at("/big/t"), Backend::Cuda),
            Path::new("/big/t/cuda")
        );
        assert_eq!(at("t"), Path::new("/cwd/t"));
        assert_eq!(at(""), Path::new("/repo/target"));
    }

    #[test]
    fn only_what_cargo_run_sets_is_removed() {
        for name in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "CARGO_BIN_NAME"] {
            assert!(set_by_cargo_run(OsStr::new(name)), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_JOBS",
            "CARGO",
            "PATH",
        ] {
            assert!(!set_by_cargo_run(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn command_lines_are_shown_without_the_programs_folder() {
        let mut command = Command::new("/somewhere/bin/cargo");
        command.args(["test", "--release"]);
        assert_eq!(command_line(&command), "cargo test --release");
    }

    #[test]
    fn crates_are_found_by_layer() {
        let root = tempfile::tempdir().unwrap();
        for (dir, name) in [
            ("models/a", "m-a"),
            ("backends/b", "b-b"),
            ("xtask", "xtask"),
        ] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
            let manifest = format!("[package]\nname = \"{name}\"\n[features]\nvulkan = []\n");
            fs::write(root.path().join(dir).join("Cargo.toml"), manifest).unwrap();
        }
        let found = crates(root.path()).unwrap();
        let names: Vec<_> = found.iter().map(|c| (c.name.as_str(), c.layer)).collect();
        assert_eq!(
            names,
            [("b-b", "backends"), ("m-a", "models"), ("xtask", "xtask")]
        );
        assert!(found[0].has_feature("vulkan") && !found[0].has_feature("cuda"));
    }
}
