//! `cargo xtask doctor`: what is installed, what is missing, and how to get it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;

use crate::backend::Backend;
use crate::probe::{
    first_line, free_disk_gib, is_installed, library, memory_gib, numbers, version_of,
};
use crate::vulkan::{self, Driver};
use crate::workspace::{Workspace, list, read_toml};
use crate::{Error, kiln};

/// A release build of the default path takes about this much memory and disk.
const NEEDED_MEMORY_GIB: u64 = 4;
const NEEDED_DISK_GIB: u64 = 10;

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Ok,
    /// Absent, and only some features need it.
    Optional,
    /// Absent, and the default path needs it.
    Missing,
}

/// One line of the answer.
struct Finding {
    state: State,
    what: &'static str,
    detail: String,
    /// What to do about it; shown unless the state is `Ok`.
    action: &'static str,
}

impl Finding {
    /// Something the default path needs.
    fn required(
        what: &'static str,
        found: Result<String, String>,
        action: &'static str,
    ) -> Finding {
        Finding::new(State::Missing, what, found, action)
    }

    fn optional(
        what: &'static str,
        found: Result<String, String>,
        action: &'static str,
    ) -> Finding {
        Finding::new(State::Optional, what, found, action)
    }

    fn new(
        absent: State,
        what: &'static str,
        found: Result<String, String>,
        action: &'static str,
    ) -> Finding {
        let state = if found.is_ok() { State::Ok } else { absent };
        Finding {
            state,
            what,
            detail: found.unwrap_or_else(|problem| problem),
            action,
        }
    }

    fn render(&self) -> String {
        let state = match self.state {
            State::Ok => "ok",
            State::Optional => "optional",
            State::Missing => "missing",
        };
        let mut text = format!("  {state:<9} {:<16} {}\n", self.what, self.detail);
        if self.state != State::Ok && !self.action.is_empty() {
            text.push_str(&format!("  {:<9} {:<16} -> {}\n", "", "", self.action));
        }
        text
    }
}

pub fn run(workspace: &Workspace) -> Result<(), Error> {
    let sections = [
        ("Toolchain", toolchain(workspace)?),
        ("Machine", machine(workspace)),
        ("Vulkan (backends wgpu and vulkan)", vulkan_findings()),
        ("CUDA (backend cuda)", cuda()),
        ("Data", data()),
    ];
    for (title, findings) in &sections {
        println!("{title}");
        for finding in findings {
            print!("{}", finding.render());
        }
    }
    binaries(workspace);
    let missing = sections.iter().flat_map(|(_, findings)| findings);
    match missing
        .filter(|finding| finding.state == State::Missing)
        .count()
    {
        0 => Ok(()),
        count => Err(Error::Failed(format!(
            "{count} requirement(s) of the default path missing"
        ))),
    }
}

fn toolchain(workspace: &Workspace) -> Result<Vec<Finding>, Error> {
    let manifest = read_toml(&workspace.root.join("Cargo.toml"))?;
    let package = manifest
        .get("workspace")
        .and_then(|table| table.get("package"));
    let wanted = package
        .and_then(|table| table.get("rust-version")?.as_str())
        .unwrap_or("0");
    let rustc = match first_line("rustc", &["--version"]) {
        Some(line) if version_of(&line) >= numbers(wanted) => Ok(format!("{line}, needs {wanted}")),
        Some(line) => Err(format!("{line}, needs {wanted}")),
        None => Err(format!("not found, needs {wanted}")),
    };
    let answer = |program, args: &[&str]| first_line(program, args).ok_or_else(not_found);
    let linker = ["cc", "gcc", "clang"]
        .into_iter()
        .find(|name| is_installed(name));
    let linker = linker.map(str::to_owned).ok_or_else(not_found);
    Ok(vec![
        Finding::required("rustc", rustc, "rustup update stable (https://rustup.rs)"),
        Finding::required(
            "cargo",
            answer("cargo", &["--version"]),
            "https://rustup.rs",
        ),
        Finding::required("C compiler", linker, "apt-get install gcc libc6-dev"),
        Finding::optional(
            "rustfmt",
            answer("cargo", &["fmt", "--version"]),
            "for ci: rustup component add rustfmt",
        ),
        Finding::optional(
            "clippy",
            answer("cargo", &["clippy", "--version"]),
            "for ci: rustup component add clippy",
        ),
        Finding::optional(
            "mdbook",
            answer("mdbook", &["--version"]),
            "to build the book: cargo install mdbook",
        ),
        Finding::optional(
            "cargo-nextest",
            answer("cargo-nextest", &["--version"]),
            "another test runner, not needed: cargo install cargo-nextest",
        ),
    ])
}

fn machine(workspace: &Workspace) -> Vec<Finding> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let memory = at_least(memory_gib(), NEEDED_MEMORY_GIB);
    let disk = at_least(free_disk_gib(&workspace.root), NEEDED_DISK_GIB);
    vec![
        Finding::required("cores", Ok(cores.to_string()), ""),
        Finding::optional(
            "memory",
            memory,
            "a build may run out of memory: cargo build --jobs 1, or add swap",
        ),
        Finding::optional(
            "free disk",
            disk,
            "each backend's build takes several GiB: CARGO_TARGET_DIR moves them",
        ),
    ]
}

/// The amount in words; an error if it is known and too little.
fn at_least(gib: Option<u64>, needed: u64) -> Result<String, String> {
    match gib {
        None => Ok("unknown".into()),
        Some(gib) if gib >= needed => Ok(format!("{gib} GiB")),
        Some(gib) => Err(format!("{gib} GiB, better {needed}")),
    }
}

fn vulkan_findings() -> Vec<Finding> {
    if !cfg!(target_os = "linux") {
        return vec![Finding::optional(
            "loader",
            Ok("looked for on Linux only".into()),
            "",
        )];
    }
    let loader = vulkan::loader()
        .map(|file| file.display().to_string())
        .ok_or_else(not_found);
    let driver = Driver::find();
    let found = driver.as_ref().map(Driver::describe).ok_or_else(not_found);
    let mut findings = vec![
        Finding::optional("loader", loader, "apt-get install libvulkan1"),
        Finding::optional("driver", found, vulkan::ADVICE),
    ];
    if let Some(Driver::Software(file)) = driver {
        let setting = Err(format!(
            "`test` sets it; to train on it, VK_DRIVER_FILES={}",
            file.display()
        ));
        findings.push(Finding::optional("no GPU driver", setting, ""));
    }
    findings
}

fn cuda() -> Vec<Finding> {
    let driver = fs::read_to_string("/proc/driver/nvidia/version").ok();
    let driver = driver.and_then(|text| Some(text.lines().next()?.trim().to_owned()));
    let query = [
        "--query-gpu=name,memory.total,driver_version",
        "--format=csv,noheader",
    ];
    let gpu = first_line("nvidia-smi", &query);
    let toolkit = env::var_os("CUDA_PATH").unwrap_or_else(|| "/usr/local/cuda".into());
    let toolkit = Path::new(&toolkit);
    let toolkit = toolkit
        .is_dir()
        .then(|| toolkit.display().to_string())
        .ok_or_else(not_found);
    vec![
        Finding::optional(
            "driver",
            driver.ok_or_else(not_found),
            "NVIDIA's driver, from the distribution or nvidia.com",
        ),
        Finding::optional(
            "GPU",
            gpu.ok_or_else(|| "nvidia-smi does not answer".into()),
            "shows once the driver works",
        ),
        Finding::optional(
            "toolkit",
            toolkit,
            "headers and libraries, at CUDA_PATH or /usr/local/cuda",
        ),
        Finding::optional(
            "NCCL",
            nccl(),
            "to train on several GPUs: apt-get install libnccl-dev, or a link libnccl.so to a libnccl.so.2 in a folder of LD_LIBRARY_PATH",
        ),
        Finding::optional(
            "LLVM",
            llvm(),
            "nothing to do where github.com is reachable: the first build with `cuda` downloads it",
        ),
    ]
}

/// It is loaded by its name without a version, which comes with the package for developers.
fn nccl() -> Result<String, String> {
    match (library("libnccl.so"), library("libnccl.so.2")) {
        (Some(file), _) => Ok(file.display().to_string()),
        (None, Some(file)) => Err(format!(
            "{} is there, and libnccl.so is not",
            file.display()
        )),
        (None, None) => Err("libnccl.so not found".into()),
    }
}

/// cubecl-cuda links LLVM statically, from a bundle that its build script keeps in the user's data folder.
fn llvm() -> Result<String, String> {
    let folder = env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| in_home(".local/share"));
    let folder = folder.unwrap_or_default().join("tracel");
    let bundle = list(&folder)
        .into_iter()
        .find(|name| folder.join(name).join(".tracel-llvm-installed").exists());
    match bundle {
        Some(name) => Ok(folder.join(name).display().to_string()),
        None => Err("not there yet; cubecl-cuda links it statically".into()),
    }
}

fn data() -> Vec<Finding> {
    let data = match folder("KILN_DATA") {
        Some(path) if path.is_dir() => Ok(path.display().to_string()),
        Some(path) => Err(format!("KILN_DATA={}, which is no folder", path.display())),
        None => Err("KILN_DATA is not set".into()),
    };
    let cache = folder("KILN_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|dir| dir.join("kiln")))
        .or_else(|| in_home(".cache/kiln"));
    let cache = cache
        .map(|dir| dir.display().to_string())
        .ok_or_else(not_found);
    let home = folder("CARGO_HOME")
        .or_else(|| in_home(".cargo"))
        .unwrap_or_default();
    let sources = home.join("registry/src");
    let count: usize = list(&sources)
        .iter()
        .map(|index| list(&sources.join(index)).len())
        .sum();
    let sources = match count {
        0 => Err(format!("no sources in {}", sources.display())),
        _ => Ok(format!("{count} crate sources in {}", sources.display())),
    };
    vec![
        Finding::optional(
            "data folder",
            data,
            "only for corpora that you downloaded yourself: KILN_DATA=FOLDER",
        ),
        Finding::optional("cache folder", cache, "KILN_CACHE=FOLDER"),
        Finding::optional("rust-deps corpus", sources, "cargo fetch"),
    ]
}

/// A folder named by an environment variable.
fn folder(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value: &OsString| !value.is_empty())
        .map(PathBuf::from)
}

fn in_home(path: &str) -> Option<PathBuf> {
    folder("HOME").map(|home| home.join(path))
}

/// Which binaries are built, and what each says about its devices.
fn binaries(workspace: &Workspace) {
    println!("Binaries");
    let is_built = |backend: &Backend| kiln::binary(workspace, *backend).is_file();
    let (built, others): (Vec<_>, Vec<_>) = Backend::ALL.into_iter().partition(is_built);
    for backend in &built {
        println!(
            "  ok        {:<16} {}",
            backend.name(),
            kiln::binary(workspace, *backend).display()
        );
    }
    if !others.is_empty() {
        let names: Vec<_> = others.into_iter().map(Backend::name).collect();
        println!("  not built {}", names.join(", "));
        println!(
            "  {:<26} -> the first `cargo xtask train RECIPE --backend B` builds B",
            ""
        );
    }
    for backend in built {
        println!("\nkiln doctor ({})", backend.name());
        let mut command = kiln::command(workspace, backend);
        if backend != Backend::Flex
            && let Some(driver) = Driver::find()
        {
            command.envs(driver.env());
        }
        match command.arg("doctor").status() {
            Ok(status) if status.success() => {}
            Ok(status) => println!("  ended with {status}; an old build? any command rebuilds it"),
            Err(error) => println!("  could not start: {error}"),
        }
    }
}

fn not_found() -> String {
    "not found".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_is_said_and_unknown_is_no_problem() {
        assert_eq!(at_least(Some(16), 4), Ok("16 GiB".into()));
        assert_eq!(at_least(Some(2), 4), Err("2 GiB, better 4".into()));
        assert_eq!(at_least(None, 4), Ok("unknown".into()));
    }

    #[test]
    fn only_absent_things_show_an_action() {
        let found = Finding::required("rustc", Ok("1.95".into()), "update");
        assert_eq!(found.render(), "  ok        rustc            1.95\n");
        let absent = Finding::optional("mdbook", Err(not_found()), "install");
        assert_eq!(absent.state, State::Optional);
        assert!(
            absent.render().ends_with("-> install\n"),
            "{}",
            absent.render()
        );
    }
}
