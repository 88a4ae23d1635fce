//! One run as a child process, with its log.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use kiln_run::{FileError, Kind, Record};

use crate::events::Running;
use crate::study::CostPlan;
use crate::{Launch, Layout, RunId};

/// Lines of a failed run's log that are shown.
const TAIL_LINES: usize = 12;
/// Bytes of a file's end that are looked at.
const TAIL_BYTES: u64 = 8192;

/// Runs in progress. Dropped while some still run, all of them are asked to stop before the first is waited for, so that they
/// write their checkpoints side by side.
#[derive(Default)]
pub(crate) struct Jobs(pub Vec<Job>);

impl Jobs {
    /// Asks every run to write a checkpoint and end.
    pub fn ask_to_stop(&mut self) {
        self.0.iter_mut().for_each(Job::ask_to_stop);
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.ask_to_stop();
    }
}

/// A run in progress. Dropped while it still runs, it is asked to stop and waited for.
pub(crate) struct Job {
    pub run: RunId,
    pub device: usize,
    pub started: Instant,
    pub log: PathBuf,
    child: Child,
    asked: bool,
    ended: bool,
}

impl Job {
    /// Starts a run, or resumes it where its folder has a recipe already.
    pub fn start(
        layout: &Layout,
        run: RunId,
        launch: &Launch,
        device: usize,
    ) -> Result<Self, FileError> {
        let log = layout.log(run);
        Self::spawn(run, device, log, command(layout, run, launch, device))
    }

    /// Starts to measure what a finished run's model costs. It has all threads: nothing else runs meanwhile.
    pub fn measure(
        layout: &Layout,
        run: RunId,
        plan: &CostPlan,
        launch: &Launch,
    ) -> Result<Self, FileError> {
        let device = launch.devices.first().copied().unwrap_or(0);
        let log = layout.log(run).with_extension("cost.log");
        let command = cost_command(layout, run, plan, launch, device);
        Self::spawn(run, device, log, command)
    }

    fn spawn(
        run: RunId,
        device: usize,
        log: PathBuf,
        mut command: Command,
    ) -> Result<Self, FileError> {
        let above = log.parent().unwrap_or(Path::new(""));
        fs::create_dir_all(above).map_err(FileError::io("create", above))?;
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(FileError::io("open", &log))?;
        writeln!(file, "$ {}", line(&command)).map_err(FileError::io("write", &log))?;
        let copy = file.try_clone().map_err(FileError::io("open", &log))?;
        command.stdin(Stdio::null()).stdout(copy).stderr(file);
        // A terminal's Ctrl-C goes to its whole process group. Children have their own, so that each gets one signal, from
        // here: a second one would make it leave without a checkpoint.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command
            .spawn()
            .map_err(FileError::io("start", command.get_program().as_ref()))?;
        Ok(Self {
            run,
            device,
            started: Instant::now(),
            log,
            child,
            asked: false,
            ended: false,
        })
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, FileError> {
        let status = self
            .child
            .try_wait()
            .map_err(FileError::io("wait for the run of", &self.log))?;
        self.ended = status.is_some();
        Ok(status)
    }

    /// Asks it to write a checkpoint and end, once: a second signal would make it leave without one. On Windows the console has
    /// told it already.
    fn ask_to_stop(&mut self) {
        if self.ended || std::mem::replace(&mut self.asked, true) {
            return;
        }
        #[cfg(unix)]
        if let Ok(id) = i32::try_from(self.child.id()) {
            use nix::sys::signal::{Signal, kill};
            // A process that ended meanwhile needs no signal; it is not waited for yet, so its number is still its own.
            let _ = kill(nix::unistd::Pid::from_raw(id), Signal::SIGINT);
        }
    }

    /// How far it is, by the newest record of its metrics. A file that cannot be read says nothing yet.
    pub fn progress(&self, layout: &Layout) -> Running {
        let train = &layout.recipe(self.run).value.train;
        let newest = newest_record(&layout.folder(self.run).join("metrics.jsonl"));
        let value = |name: &str| newest.as_ref()?.values.get(name).copied();
        Running {
            title: layout.title(self.run),
            step: newest.as_ref().map_or(0, |record| record.step),
            // Of a run that its time ends nobody knows the steps.
            total: if train.max_seconds > 0.0 {
                0
            } else {
                train.steps
            },
            loss: value("loss"),
            tokens_per_second: value("tokens_per_s"),
        }
    }

    /// Time since it was started.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.ended {
            self.ask_to_stop();
            let _ = self.child.wait();
        }
    }
}

/// `kiln train RECIPE --device N --set ... --out FOLDER`, with a share of the processor's threads; `kiln count RECIPE --order N ...`
/// for a run that counts, `kiln score RUN RECIPE ...` for one that was made before.
fn command(layout: &Layout, run: RunId, launch: &Launch, device: usize) -> Command {
    let folder = layout.folder(run);
    let mut command = Command::new(&launch.program);
    let recipe = &layout.cells[run.cell].recipe;
    let trains = layout.trains(run.cell);
    if let Some(order) = layout.ngram(run) {
        command.args(["count", recipe, "--order", &order.to_string()]);
    } else {
        match layout.loaded(run) {
            Some(made) => command.arg("score").arg(made).arg(recipe),
            None => command.args(["train", recipe]),
        };
        command
            .args(&launch.arguments)
            .args(["--device", &device.to_string()]);
    }
    command.args(&launch.data);
    let seed = format!("seed={}", run.seed);
    for text in layout.point(run).overrides.iter().chain([&seed]) {
        command.args(["--set", text]);
    }
    command.arg("--plain").arg("--out").arg(&folder);
    if folder.join("recipe.toml").is_file() && trains {
        command.arg("--resume");
    }
    command.env(THREADS, launch.threads().to_string());
    command
}

/// `kiln cost RUN --device N --lengths ... --out FOLDER`, with all of the processor's threads.
fn cost_command(
    layout: &Layout,
    run: RunId,
    plan: &CostPlan,
    launch: &Launch,
    device: usize,
) -> Command {
    let list = |values: &[usize]| {
        let words: Vec<_> = values.iter().map(usize::to_string).collect();
        words.join(",")
    };
    let folder = layout.folder(run);
    let mut command = Command::new(&launch.program);
    command
        .arg("cost")
        .arg(layout.loaded(run).unwrap_or(&folder))
        .args(&launch.arguments)
        .args(["--device", &device.to_string()])
        .args(["--lengths", &list(&plan.lengths)])
        .args(["--batches", &list(&plan.batches)])
        .args(["--seconds", &plan.seconds.to_string()])
        .arg("--out")
        .arg(&folder)
        .arg("--json")
        .arg(folder.join("cost.json"))
        .env(THREADS, launch.cores.max(1).to_string());
    command
}

/// The variable that bounds the threads of rayon's pool, which does Flex's arithmetic.
const THREADS: &str = "RAYON_NUM_THREADS";

/// The command as one would type it.
fn line(command: &Command) -> String {
    let threads = command
        .get_envs()
        .find(|(name, _)| *name == OsStr::new(THREADS));
    let threads = threads.and_then(|(_, value)| value).unwrap_or_default();
    let words = [command.get_program()]
        .into_iter()
        .chain(command.get_args());
    let words: Vec<_> = words.map(|word| quoted(&word.to_string_lossy())).collect();
    format!(
        "{THREADS}={} {}",
        threads.to_string_lossy(),
        words.join(" ")
    )
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// The last whole line of metrics that is about training.
fn newest_record(metrics: &Path) -> Option<Record> {
    let text = end_of(metrics).ok()?;
    let records = text
        .lines()
        .rev()
        .filter_map(|line| serde_json::from_str(line).ok());
    records
        .into_iter()
        .find(|record: &Record| record.kind == Kind::Train && record.values.contains_key("loss"))
}

/// The last lines of a log; empty where it cannot be read, as the failure itself is what has to be told.
pub(crate) fn tail(log: &Path) -> String {
    let text = end_of(log).unwrap_or_default();
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// The last bytes of a file as text.
fn end_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
