//! What a run ran on and what it was built from, for `run.json` and the report. Reads the system,
//! measures nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::error::FileError;
use crate::format;

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// The processor's name, where the system tells.
    pub processor: Option<String>,
    /// Processor threads this process may use.
    pub cores: usize,
    /// Threads that arithmetic on the processor uses, where `RAYON_NUM_THREADS` bounds them.
    #[serde(default)]
    pub threads: Option<usize>,
    /// Main memory in bytes, where the system tells.
    pub memory_bytes: Option<u64>,
    /// The system and its kind: "linux", "macos", "windows".
    pub os: String,
    /// The instruction set: "x86_64", "aarch64".
    pub architecture: String,
    /// The device that computes and its backend, as the caller knows them: "cuda: NVIDIA H100".
    pub device: Option<String>,
}

/// The state of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The full hash of HEAD.
    pub hash: String,
    /// Whether tracked files differ from it.
    pub dirty: bool,
}

/// Memory of this process in bytes. Only Linux tells both; elsewhere they are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// In main memory now.
    pub resident: Option<u64>,
    /// The most there was in main memory at any time.
    pub peak: Option<u64>,
}

/// All that is needed to repeat a run, but the recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Kiln's version.
    pub kiln: String,
    /// Versions of what it was built with, by name: "burn", "rustc".
    pub versions: BTreeMap<String, String>,
    /// The source, where the run was started inside of a git checkout.
    pub commit: Option<Commit>,
    /// The machine.
    pub hardware: Hardware,
    /// The command line, program first.
    pub command: Vec<String>,
    /// The seed every random number comes from.
    pub seed: u64,
    /// When it started, in UTC as ISO 8601.
    pub started: String,
}

impl Hardware {
    /// Looks at this machine. `device` is what computes, as the caller knows it.
    pub fn detect(device: Option<String>) -> Self {
        Self {
            processor: processor(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            threads: std::env::var("RAYON_NUM_THREADS")
                .ok()
                .and_then(|threads| threads.parse().ok()),
            memory_bytes: memory_total(),
            os: std::env::consts::OS.into(),
            architecture: std::env::consts::ARCH.into(),
            device,
        }
    }
}

impl Provenance {
    /// Gathers everything for a run that starts now. `source` is a folder of the git checkout,
    /// `versions` those the caller was built with.
    pub fn gather(
        source: &Path,
        hardware: Hardware,
        versions: BTreeMap<String, String>,
        seed: u64,
    ) -> Self {
        Self {
            kiln: env!("CARGO_PKG_VERSION").into(),
            versions,
            commit: commit(source),
            hardware,
            command: std::env::args_os()
                .map(|arg| arg.to_string_lossy().into_owned())
                .collect(),
            seed,
            started: format::utc(SystemTime::now()),
        }
    }

    /// Writes it as JSON, atomically.
    ///
    /// # Errors
    /// See [`crate::atomic_write`].
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        crate::atomic_write(path, |out| {
            serde_json::to_writer_pretty(&mut *out, self)?;
            out.write_all(b"\n")
        })
    }
}

/// HEAD of the checkout that `folder` lies in. `None` without git, outside of a checkout, or before
/// the first commit.
pub fn commit(folder: &Path) -> Option<Commit> {
    let git = |args: &[&str]| output(Command::new("git").arg("-C").arg(folder).args(args));
    let hash = git(&["rev-parse", "HEAD"])?;
    let dirty = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(Commit { hash, dirty })
}

/// Memory of this process now.
pub fn memory() -> Memory {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    Memory {
        resident: kibibytes(&status, "VmRSS:"),
        peak: kibibytes(&status, "VmHWM:"),
    }
}

/// Makes [`Memory::peak`] start anew from what is resident now. Returns whether the system allows it: only then does the
/// peak that is read later belong to what came in between.
pub fn reset_memory_peak() -> bool {
    // See proc(5): 5 resets the peak resident set.
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Main memory that a process could have without swapping, in bytes, where the system tells.
pub fn memory_available() -> Option<u64> {
    kibibytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

fn processor() -> Option<String> {
    if cfg!(target_os = "macos") {
        return output(Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]));
    }
    if cfg!(windows) {
        return std::env::var("PROCESSOR_IDENTIFIER").ok();
    }
    processor_in(&fs::read_to_string("/proc/cpuinfo").ok()?)
}

/// "model name" on x86; Arm boards have "Model" or "Hardware", if anything.
fn processor_in(cpuinfo: &str) -> Option<String> {
    ["model name", "Model", "Hardware"]
        .into_iter()
        .find_map(|wanted| {
            cpuinfo
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim() == wanted)
                .map(|(_, name)| {
                    // Vendors pad the name with runs of blanks.
                    name.split_whitespace().collect::<Vec<_>>().join(" ")
                })
        })
}

fn memory_total() -> Option<u64> {
    if cfg!(target_os = "macos") {
        return output(Command::new("sysctl").args(["-n", "hw.memsize"]))?
            .parse()
            .ok();
    }
    kibibytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// The value of a line such as `VmRSS:     1234 kB`, in bytes.
fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    let count: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    count.checked_mul(1024)
}

fn output(command: &mut Command) -> Option<String> {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_tables() {
        let status = "Name:\tkiln\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(
            (kibibytes(status, "VmHWM:"), kibibytes(status, "VmRSS:")),
            (Some(2 << 20), Some(1 << 20))
        );
        assert_eq!(kibibytes(status, "VmSwap:"), None);
        assert_eq!(
            processor_in("processor\t: 0\nmodel name\t: A  CPU   @ 2GHz\n").as_deref(),
            Some("A CPU @ 2GHz")
        );
        assert_eq!(
            processor_in("processor\t: 0\nModel\t: Board\n").as_deref(),
            Some("Board")
        );
        assert_eq!(processor_in("processor\t: 0\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_memory() {
        let memory = memory();
        assert!(memory.resident.unwrap() > 0 && memory.peak.unwrap() >= memory.resident.unwrap());
        assert!(memory_total().unwrap() > memory.peak.unwrap());
        assert!(memory_total().unwrap() > memory_available().unwrap());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_peak_starts_anew() {
        const SIZE: usize = 256 << 20;
        // Every page is written, so that it is in main memory, and the block goes back to the system when dropped.
        drop(std::hint::black_box(vec![1u8; SIZE]));
        let before = memory().peak.unwrap();
        if reset_memory_peak() {
            assert!(memory().peak.unwrap() + SIZE as u64 / 2 < before);
        }
    }

    #[test]
    fn outside_of_a_checkout_there_is_no_commit() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(commit(folder.path()), None);
    }

    #[test]
    fn provenance_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        let versions = BTreeMap::from([("burn".to_string(), "0.22.1".to_string())]);
        let made = Provenance::gather(folder.path(), Hardware::detect(None), versions, 7);
        made.write(&path).unwrap();
        let back: Provenance = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(back, made);
        assert!(back.hardware.cores > 0 && !back.command.is_empty() && back.started.ends_with('Z'));
    }
}
