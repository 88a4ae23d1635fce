//! `cargo xtask test`: the workspace's tests on flex, or the operation and model tests on another backend.

use std::env;
use std::ffi::OsString;
use std::num::NonZero;
use std::thread;

use crate::Error;
use crate::backend::{self, Backend};
use crate::probe::memory_gib;
use crate::vulkan::{self, Driver};
use crate::workspace::{Crate, Workspace, crates, execute};

/// What linking one test binary with burn inside may need.
const GIB_PER_JOB: u64 = 2;

/// The arguments of `cargo xtask test`.
#[derive(Debug, PartialEq)]
pub struct TestArgs {
    pub backend: Backend,
    /// Tests whose name contains one of these run; all, if there is none.
    pub filters: Vec<String>,
    /// What follows `--`: for the test programs.
    pub for_tests: Vec<String>,
}

impl TestArgs {
    pub fn all(backend: Backend) -> TestArgs {
        TestArgs {
            backend,
            filters: vec![],
            for_tests: vec![],
        }
    }

    pub fn parse(args: &[OsString]) -> Result<TestArgs, Error> {
        let mut parsed = TestArgs::all(backend::find(args)?);
        let mut args = args.iter().map(|arg| arg.to_string_lossy().into_owned());
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--" => parsed.for_tests.extend(args.by_ref()),
                "--backend" => _ = args.next(),
                option if option.starts_with("--backend=") => {}
                option if option.starts_with('-') => {
                    return Err(Error::Usage(format!(
                        "`test` does not know `{option}`; options for the test programs go after `--`"
                    )));
                }
                _ => parsed.filters.push(arg),
            }
        }
        Ok(parsed)
    }
}

pub fn run(workspace: &Workspace, args: &TestArgs) -> Result<(), Error> {
    let name = args.backend.name();
    let crates = crates(&workspace.root)?;
    let packages = packages(&crates, args.backend);
    if args.backend != Backend::Flex && packages.is_empty() {
        let message = format!("no crate under backends/ has the feature `{name}`");
        return Err(Error::Failed(message));
    }
    let mut cargo = workspace.cargo(args.backend);
    cargo
        .args(cargo_args(args, &packages, jobs()))
        .env("KILN_TEST_BACKEND", name);
    if args.backend == Backend::Vulkan && cfg!(target_os = "linux") {
        for (name, value) in vulkan_driver()?.env() {
            if env::var_os(name).is_none() {
                eprintln!("{name}={}", value.display());
                cargo.env(name, value);
            }
        }
    }
    execute(&mut cargo)
}

/// The driver the Vulkan tests will run on; better to miss it now than after the build.
pub fn vulkan_driver() -> Result<Driver, Error> {
    let missing = |what: &str| Error::Failed(format!("{what}; install {}", vulkan::ADVICE));
    vulkan::loader().ok_or_else(|| missing("no Vulkan loader (libvulkan.so.1)"))?;
    Driver::find().ok_or_else(|| missing("no Vulkan driver"))
}

/// The crates with operations that have the backend's feature; none for flex, which tests the workspace. What is above
/// them has no code of its own for a backend.
fn packages(crates: &[Crate], backend: Backend) -> Vec<&str> {
    let tested = crates.iter().filter(|c| {
        backend != Backend::Flex && c.layer == "backends" && c.has_feature(backend.name())
    });
    tested.map(|c| c.name.as_str()).collect()
}

fn cargo_args(args: &TestArgs, packages: &[&str], jobs: Option<u64>) -> Vec<String> {
    // The release profile on purpose: tests share their build with the binary.
    let mut line = vec!["test".to_owned(), "--release".to_owned()];
    if packages.is_empty() {
        line.push("--workspace".into());
    }
    for package in packages {
        line.extend(["--package".into(), (*package).into()]);
    }
    line.extend(args.backend.feature_args());
    if let Some(jobs) = jobs {
        line.extend(["--jobs".into(), jobs.to_string()]);
    }
    if !args.filters.is_empty() || !args.for_tests.is_empty() {
        line.push("--".into());
        line.extend(args.filters.iter().chain(&args.for_tests).cloned());
    }
    line
}

/// A limit for cargo where memory is short of the cores; none where cargo's own choice, or the user's, is right.
fn jobs() -> Option<u64> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get) as u64;
    let chosen = env::var_os("CARGO_BUILD_JOBS").is_some();
    memory_gib()
        .filter(|_| !chosen)
        .and_then(|memory| jobs_for(cores, memory))
}

fn jobs_for(cores: u64, memory_gib: u64) -> Option<u64> {
    let affordable = (memory_gib / GIB_PER_JOB).max(1);
    (affordable < cores).then_some(affordable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn parse(line: &str) -> Result<TestArgs, Error> {
        TestArgs::parse(
            &line
                .split_whitespace()
                .map(OsString::from)
                .collect::<Vec<_>>(),
        )
    }

    fn line(args: &str, packages: &[&str], jobs: Option<u64>) -> String {
        cargo_args(&parse(args).unwrap(), packages, jobs).join(" ")
    }

    #[test]
    fn flex_tests_the_workspace() {
        assert_eq!(line("", &[], None), "test --release --workspace");
        assert_eq!(
            line("", &[], Some(2)),
            "test --release --workspace --jobs 2"
        );
    }

    #[test]
    fn filters_and_test_arguments_reach_the_test_programs() {
        let expected = "test --release --workspace -- scan causal --nocapture";
        assert_eq!(line("scan causal -- --nocapture", &[], None), expected);
    }

    #[test]
    fn another_backend_tests_the_crates_that_have_it() {
        let expected = "test --release --package kiln-bk --features vulkan -- scan";
        assert_eq!(line("--backend vulkan scan", &["kiln-bk"], None), expected);
        assert_eq!(line("scan --backend=vulkan", &["kiln-bk"], None), expected);
    }

    #[test]
    fn unknown_options_are_wrong_usage() {
        let Err(Error::Usage(message)) = parse("--nocapture") else {
            panic!("accepted")
        };
        assert!(
            message.contains("`--nocapture`") && message.contains("after `--`"),
            "{message}"
        );
        assert!(matches!(parse("--backend"), Err(Error::Usage(_))));
    }

    #[test]
    fn packages_are_chosen_by_layer_and_feature() {
        let krate = |name: &str, layer, features: &str| Crate {
            name: name.into(),
            layer,
            dir: PathBuf::new(),
            manifest: format!("[features]\n{features}").parse().unwrap(),
        };
        let crates = [
            krate("op", "backends", "vulkan = []"),
            krate("model", "models", "vulkan = []"),
            krate("kiln", "recipes", "vulkan = []"),
        ];
        assert_eq!(packages(&crates, Backend::Vulkan), ["op"]);
        assert!(packages(&crates, Backend::Cuda).is_empty());
        assert!(packages(&crates, Backend::Flex).is_empty());
    }

    #[test]
    fn memory_limits_the_jobs() {
        assert_eq!(jobs_for(2, 23), None);
        assert_eq!(jobs_for(16, 8), Some(4));
        assert_eq!(jobs_for(4, 1), Some(1));
    }
}
