//! Asking the machine: what is installed, how much memory and disk there is.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Whether a program answers `--version`.
pub fn is_installed(program: &str) -> bool {
    first_line(program, &["--version"]).is_some()
}

/// The first line a program prints, if it runs and succeeds.
pub fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .next()
        .filter(|_| output.status.success())
        .map(str::to_owned)
}

/// A shared library of exactly this name, in the folders that the loader of this machine looks through first.
pub fn library(name: &str) -> Option<PathBuf> {
    library_under(Path::new("/"), env::var_os("LD_LIBRARY_PATH"), name)
}

pub fn library_under(system: &Path, library_path: Option<OsString>, name: &str) -> Option<PathBuf> {
    let multiarch = format!("usr/lib/{}-linux-gnu", env::consts::ARCH);
    let standard = [multiarch.as_str(), "usr/lib64", "usr/lib", "usr/local/lib"];
    let from_user = library_path.unwrap_or_default();
    env::split_paths(&from_user)
        .chain(standard.iter().map(|folder| system.join(folder)))
        .map(|folder| folder.join(name))
        .find(|file| file.exists())
}

/// The version in a line such as `rustc 1.95.0 (...)`.
pub fn version_of(line: &str) -> Vec<u64> {
    numbers(line.split_whitespace().nth(1).unwrap_or_default())
}

/// The numbers of a version, so that versions compare as they should.
pub fn numbers(version: &str) -> Vec<u64> {
    let release = version.split(['-', '+']).next().unwrap_or_default();
    release
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect()
}

/// This machine's memory, where the system says it in `/proc`.
pub fn memory_gib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 = text
        .strip_prefix("MemTotal:")?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    Some(kib >> 20)
}

/// The space left where `folder` is.
pub fn free_disk_gib(folder: &Path) -> Option<u64> {
    let output = Command::new("df").arg("-Pk").arg(folder).output().ok()?;
    available_gib(&String::from_utf8_lossy(&output.stdout))
}

/// The `Available` column of `df -Pk`, which counts KiB.
fn available_gib(df: &str) -> Option<u64> {
    let kib: u64 = df.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    Some(kib >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(version_of("rustc 1.95.0 (abc 2026-04-14)") >= numbers("1.95"));
        assert!(version_of("rustc 1.100.0-nightly (abc)") >= numbers("1.95"));
        assert!(version_of("rustc 1.94.1 (abc)") < numbers("1.95"));
    }

    #[test]
    fn free_disk_is_read_from_df() {
        let df = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/a 99 1 52428800 1% /\n";
        assert_eq!(available_gib(df), Some(50));
        assert_eq!(available_gib("nothing"), None);
    }
}
