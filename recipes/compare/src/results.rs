//! `results.json`: everything a comparison found, and what it was made with.

mod cost;
mod lineage;
mod measure;
mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::SystemTime;

use kiln_run::hardware::{Commit, Hardware};
use kiln_run::{FileError, atomic_write, format};
use serde::{Deserialize, Serialize};

use crate::figures::read_json;
use crate::protocol::State;
use crate::study::{Arm, Study};
use crate::{CompareError, Figures, Layout, RunId};

pub use cost::{Bench, CostResult, CostRow, CrossoverResult};
pub use measure::Measure;
pub(crate) use task::chosen_runs;
pub use task::{ArmResult, ContextResult, PointResult, SeedResult, TaskResult};

/// Where [`Results::write`] writes them.
pub const RESULTS_FILE: &str = "results.json";

/// Layout version of `results.json`.
pub const RESULTS_VERSION: u32 = 3;

/// The results of a study.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(into = "Written", from = "Written")]
pub struct Results {
    /// The study's name.
    pub name: String,
    /// The study as read, defaults included.
    pub study: Study,
    /// When this was written, in UTC.
    pub written: String,
    /// The command line that wrote it.
    pub command: Vec<String>,
    /// Whether every arm is complete on every task.
    pub complete: bool,
    /// One entry a task, in the study's order; a study that states none has one without a name.
    pub tasks: Vec<TaskResult>,
    /// Every finished run.
    pub runs: Vec<Figures>,
    /// Titles of the runs that diverged.
    pub diverged: Vec<String>,
    /// Titles of the runs that failed otherwise in the process that wrote this.
    pub failed: Vec<String>,
    /// The machines that runs were made on, each once.
    pub machines: Vec<Hardware>,
    /// The commits that runs were made at, each once.
    pub commits: Vec<Commit>,
    /// Versions of what the runs were made with, by name; several are joined.
    pub versions: BTreeMap<String, String>,
}

/// The file. A study without tasks has its measure and arms at the top level, another one has them in `tasks`.
#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    name: String,
    study: Study,
    written: String,
    command: Vec<String>,
    complete: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    measure: Option<Measure>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    arms: Vec<ArmResult>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tasks: Vec<TaskResult>,
    runs: Vec<Figures>,
    diverged: Vec<String>,
    failed: Vec<String>,
    machines: Vec<Hardware>,
    commits: Vec<Commit>,
    versions: BTreeMap<String, String>,
}

impl From<Results> for Written {
    fn from(mut results: Results) -> Self {
        let alone = results.tasks.pop_if(|task| task.name.is_none());
        let (measure, arms) = match alone {
            Some(task) => (Some(task.measure), task.arms),
            None => (None, Vec::new()),
        };
        Self {
            version: RESULTS_VERSION,
            name: results.name,
            study: results.study,
            written: results.written,
            command: results.command,
            complete: results.complete,
            measure,
            arms,
            tasks: results.tasks,
            runs: results.runs,
            diverged: results.diverged,
            failed: results.failed,
            machines: results.machines,
            commits: results.commits,
            versions: results.versions,
        }
    }
}

impl From<Written> for Results {
    fn from(written: Written) -> Self {
        let alone = written.measure.map(|measure| TaskResult {
            name: None,
            measure,
            length: None,
            arms: written.arms,
        });
        Self {
            name: written.name,
            study: written.study,
            written: written.written,
            command: written.command,
            complete: written.complete,
            tasks: alone.into_iter().chain(written.tasks).collect(),
            runs: written.runs,
            diverged: written.diverged,
            failed: written.failed,
            machines: written.machines,
            commits: written.commits,
            versions: written.versions,
        }
    }
}

impl Results {
    /// Puts together what is finished. `command` is the command line to be shown.
    ///
    /// # Errors
    /// [`CompareError::NothingToReport`] if nothing is; a damaged `windows.json`.
    pub fn new(layout: &Layout, state: &State, command: Vec<String>) -> Result<Self, CompareError> {
        if state.finished.is_empty() {
            return Err(CompareError::NothingToReport {
                path: layout.out.clone(),
            });
        }
        let tasks = 0..layout.tasks.len();
        let tasks = tasks
            .map(|task| TaskResult::new(layout, state, task))
            .collect::<Result<Vec<_>, _>>()?;
        let titles = |runs: &BTreeSet<RunId>| runs.iter().map(|run| layout.title(*run)).collect();
        let mut results = Self {
            name: layout.name.clone(),
            study: layout.study.clone(),
            written: format::utc(SystemTime::now()),
            command,
            complete: tasks
                .iter()
                .all(|task| task.arms.iter().all(|arm| arm.complete)),
            tasks,
            runs: state.finished.values().cloned().collect(),
            diverged: titles(&state.diverged),
            failed: titles(&state.failed),
            machines: Vec::new(),
            commits: Vec::new(),
            versions: BTreeMap::new(),
        };
        for figures in state.finished.values() {
            results.note_provenance(figures);
        }
        Ok(results)
    }

    /// Reads a `results.json`.
    ///
    /// # Errors
    /// [`CompareError::OtherVersion`] for a file of another layout, [`CompareError::BadFile`] for one that is damaged.
    pub fn read(path: &Path) -> Result<Self, CompareError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let found = read_json::<Head>(path)?.version;
        match found == RESULTS_VERSION {
            true => read_json(path),
            false => Err(CompareError::OtherVersion {
                path: path.into(),
                found,
            }),
        }
    }

    fn note_provenance(&mut self, figures: &Figures) {
        let Some(made) = &figures.provenance else {
            return;
        };
        // Nothing is timed where nothing is trained, and no device computes there.
        let of_arm = |arm: &&Arm| arm.name == figures.arm;
        let mut arms = self.study.arm.iter();
        let trains = arms.find(of_arm).is_none_or(Arm::trains);
        if trains && !self.machines.contains(&made.hardware) {
            self.machines.push(made.hardware.clone());
        }
        if let Some(commit) = &made.commit
            && !self.commits.contains(commit)
        {
            self.commits.push(commit.clone());
        }
        let own = ("kiln".to_string(), made.kiln.clone());
        for (name, version) in made.versions.clone().into_iter().chain([own]) {
            let known = self.versions.entry(name).or_default();
            if known.is_empty() {
                *known = version;
            } else if !known.split(", ").any(|one| one == version) {
                *known += &format!(", {version}");
            }
        }
    }

    /// Writes `results.json` and `results.md` into `out`.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn write(&self, out: &Path) -> Result<(), CompareError> {
        std::fs::create_dir_all(out).map_err(FileError::io("create", out))?;
        atomic_write(&out.join(RESULTS_FILE), |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            file.write_all(b"\n")
        })?;
        let page = crate::page::markdown(self);
        atomic_write(&out.join("results.md"), |file| {
            file.write_all(page.as_bytes())
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
