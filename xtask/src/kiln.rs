//! Building the `kiln` binary for a backend and running it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use crate::Error;
use crate::backend::Backend;
use crate::workspace::{Workspace, forget_cargo_run};

/// Builds the binary and runs it with `args` unchanged, in the caller's folder; returns its exit status.
pub fn run(workspace: &Workspace, backend: Backend, args: &[OsString]) -> Result<u8, Error> {
    build(workspace, backend)?;
    let mut command = command(workspace, backend);
    command.args(args);
    replace_process(command)
}

/// Builds the binary; cargo shows its own progress.
pub fn build(workspace: &Workspace, backend: Backend) -> Result<(), Error> {
    let name = backend.name();
    eprintln!("building kiln ({name})...");
    match workspace.cargo(backend).args(build_args(backend)).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(Error::Failed(format!(
            "kiln did not build with the {name} backend; `cargo xtask doctor` shows what it needs"
        ))),
        Err(error) => Err(Error::Failed(format!("cargo could not start: {error}"))),
    }
}

fn build_args(backend: Backend) -> Vec<String> {
    let mut args: Vec<String> = ["build", "--release", "--package", "kiln"]
        .map(Into::into)
        .into();
    args.extend(backend.feature_args());
    args
}

/// Where cargo puts the backend's binary.
pub fn binary(workspace: &Workspace, backend: Backend) -> PathBuf {
    let name = format!("kiln{}", std::env::consts::EXE_SUFFIX);
    workspace.target(backend).join("release").join(name)
}

/// A command that runs the built binary, which finds the recipe book through `KILN_WORKSPACE`.
pub fn command(workspace: &Workspace, backend: Backend) -> Command {
    let mut command = Command::new(binary(workspace, backend));
    command.env("KILN_WORKSPACE", &workspace.root);
    forget_cargo_run(&mut command);
    command
}

/// Becomes the command, so that Ctrl-C and other signals reach it and nothing waits in between.
#[cfg(unix)]
fn replace_process(mut command: Command) -> Result<u8, Error> {
    use std::os::unix::process::CommandExt;
    Err(cannot_start(&command.exec()))
}

#[cfg(not(unix))]
fn replace_process(mut command: Command) -> Result<u8, Error> {
    let status = command.status().map_err(|error| cannot_start(&error))?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1))
}

fn cannot_start(error: &std::io::Error) -> Error {
    Error::Failed(format!("kiln was built but could not start: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flex_is_the_plain_default_build() {
        assert_eq!(
            build_args(Backend::Flex).join(" "),
            "build --release --package kiln"
        );
    }

    #[test]
    fn other_backends_add_their_feature() {
        let line = build_args(Backend::Cuda).join(" ");
        assert_eq!(line, "build --release --package kiln --features cuda");
    }
}
