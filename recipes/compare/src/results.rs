//! `results.json`: everything a comparison found, and what it was made with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::SystemTime;

use kiln_run::hardware::{Commit, Hardware};
use kiln_run::{FileError, atomic_write, format};
use serde::Serialize;

use crate::layout::LaidPoint;
use crate::protocol::State;
use crate::statistics::{Comparison, Summary, compare, median};
use crate::study::{Difference, Settings, Study};
use crate::{CompareError, Figures, Layout, RunId};

/// Layout version of `results.json`.
pub const RESULTS_VERSION: u32 = 2;

/// The results of a study.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// [`RESULTS_VERSION`].
    pub version: u32,
    /// The study's name.
    pub name: String,
    /// The study as read, defaults included.
    pub study: Study,
    /// When this was written, in UTC.
    pub written: String,
    /// The command line that wrote it.
    pub command: Vec<String>,
    /// Whether every arm is complete.
    pub complete: bool,
    /// What arms are compared by.
    pub measure: Measure,
    /// One entry an arm, in the study's order.
    pub arms: Vec<ArmResult>,
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

/// The loss that arms are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Measure {
    /// Validation loss in nats a token, which needs equal tokens.
    #[serde(rename = "validation nats/token")]
    NatsPerToken,
    /// Validation loss in bits per byte, for arms whose tokenizers may differ.
    #[serde(rename = "validation bits/byte")]
    BitsPerByte,
}

impl Measure {
    /// The one that the study's arms share.
    pub fn shared(study: &Study) -> Self {
        match study.allows(Difference::Data) {
            true => Self::BitsPerByte,
            false => Self::NatsPerToken,
        }
    }

    /// A run's.
    pub fn of(self, figures: &Figures) -> f64 {
        match self {
            Self::NatsPerToken => figures.validation_loss,
            Self::BitsPerByte => figures.validation_bits_per_byte,
        }
    }

    /// Its unit.
    pub fn unit(self) -> &'static str {
        match self {
            Self::NatsPerToken => "nats/token",
            Self::BitsPerByte => "bits/byte",
        }
    }
}

/// One point of an arm's grid.
#[derive(Clone, Debug, Serialize)]
pub struct PointResult {
    /// Its name.
    pub name: String,
    /// What it sets.
    pub settings: Settings,
    /// The measure at the first seed; none if that run is not finished.
    pub first_seed: Option<f64>,
    /// Whether that run diverged.
    pub diverged: bool,
    /// Whether that run failed otherwise in the process that wrote this.
    pub failed: bool,
}

/// One seed of an arm's chosen point.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SeedResult {
    /// The seed.
    pub seed: u64,
    /// The measure.
    pub value: f64,
}

/// One arm.
#[derive(Clone, Debug, Serialize)]
pub struct ArmResult {
    /// Its name.
    pub name: String,
    /// Its recipe, as the study names it.
    pub recipe: String,
    /// Its grid.
    pub points: Vec<PointResult>,
    /// Name of the point with the best validation loss at the first seed, among those finished.
    pub chosen: Option<String>,
    /// Keys whose chosen value is the least or greatest of their grid, once it is decided: the best one may lie beyond it.
    pub at_edge: Vec<String>,
    /// Whether the grid is decided and the chosen point has a finite loss for every seed. Means below are given only then.
    pub complete: bool,
    /// The finished seeds of the chosen point.
    pub seeds: Vec<SeedResult>,
    /// Validation loss over seeds at that point, nats a token.
    pub validation_loss: Option<Summary>,
    /// The same in bits per byte.
    pub validation_bits_per_byte: Option<Summary>,
    /// Test loss over seeds, if every run has one.
    pub test_loss: Option<Summary>,
    /// The same in bits per byte.
    pub test_bits_per_byte: Option<Summary>,
    /// Parameters, frozen ones included.
    pub parameters: Option<u64>,
    /// Training tokens of one run.
    pub tokens: Option<u64>,
    /// Median over seeds of the median time of an update, seconds.
    pub step_seconds: Option<f64>,
    /// Median over seeds of the median training tokens a second.
    pub tokens_per_second: Option<f64>,
    /// Mean seconds of a finished run.
    pub seconds: Option<f64>,
    /// Mean over seeds of the mean cosine between the recipe's gradient and the exact one, where it was probed.
    pub gradient_cosine: Option<f64>,
    /// The same over the weights of the potentials alone.
    pub gradient_cosine_potential: Option<f64>,
    /// Against the first arm, by [`Results::measure`]; none for the first arm itself.
    pub against_first: Option<Comparison>,
}

impl Results {
    /// Puts together what is finished. `command` is the command line to be shown.
    ///
    /// # Errors
    /// [`CompareError::NothingToReport`] if nothing is.
    pub fn new(layout: &Layout, state: &State, command: Vec<String>) -> Result<Self, CompareError> {
        if state.finished.is_empty() {
            return Err(CompareError::NothingToReport {
                path: layout.out.clone(),
            });
        }
        let measure = Measure::shared(&layout.study);
        let mut arms: Vec<ArmResult> = Vec::with_capacity(layout.arms.len());
        for arm in 0..layout.arms.len() {
            let mut result = arm_result(layout, state, measure, arm);
            if let Some(first) = arms.first() {
                let means = (result.measured(measure), first.measured(measure));
                result.against_first = Some(match means {
                    (Some(own), Some(first)) => compare(own, first),
                    _ => Comparison::INCOMPLETE,
                });
            }
            arms.push(result);
        }
        let titles = |runs: &BTreeSet<RunId>| runs.iter().map(|run| layout.title(*run)).collect();
        let mut results = Self {
            version: RESULTS_VERSION,
            name: layout.name.clone(),
            study: layout.study.clone(),
            written: format::utc(SystemTime::now()),
            command,
            complete: arms.iter().all(|arm| arm.complete),
            measure,
            arms,
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

    fn note_provenance(&mut self, figures: &Figures) {
        let made = &figures.provenance;
        if !self.machines.contains(&made.hardware) {
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
        atomic_write(&out.join("results.json"), |file| {
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

impl ArmResult {
    /// The arm's validation loss in the unit that arms are compared by; none for an incomplete arm.
    pub fn measured(&self, measure: Measure) -> Option<&Summary> {
        match measure {
            Measure::NatsPerToken => self.validation_loss.as_ref(),
            Measure::BitsPerByte => self.validation_bits_per_byte.as_ref(),
        }
    }
}

fn arm_result(layout: &Layout, state: &State, measure: Measure, arm: usize) -> ArmResult {
    let laid = &layout.arms[arm];
    let seeds = &layout.study.seeds;
    let chosen = state.best_point(layout, arm);
    let complete = state.is_complete(layout, arm);
    let runs: Vec<&Figures> = chosen
        .into_iter()
        .flat_map(|point| seeds.iter().map(move |&seed| RunId { arm, point, seed }))
        .filter_map(|run| state.finished.get(&run))
        .collect();
    let every = |value: fn(&Figures) -> Option<f64>| -> Option<Vec<f64>> {
        runs.iter().map(|figures| value(figures)).collect()
    };
    // Means over the seeds that happened to survive would be too good.
    let summary = |value| {
        let values = every(value).filter(|_| complete);
        values.and_then(|values| Summary::of(&values))
    };
    let middle = |value| every(value).and_then(|values| median(&values));
    let mean = |value| summary(value).map(|summary| summary.mean);
    let point = |(number, point): (usize, &LaidPoint)| {
        let run = seeds.first().map(|&seed| RunId {
            arm,
            point: number,
            seed,
        });
        let figures = run.and_then(|run| state.finished.get(&run));
        PointResult {
            name: point.name.clone(),
            settings: point.settings.clone(),
            first_seed: figures.map(|figures| measure.of(figures)),
            diverged: run.is_some_and(|run| state.diverged.contains(&run)),
            failed: run.is_some_and(|run| state.failed.contains(&run)),
        }
    };
    ArmResult {
        name: laid.name.clone(),
        recipe: layout.study.arm[arm].recipe.clone(),
        points: laid.points.iter().enumerate().map(point).collect(),
        chosen: chosen.map(|point| laid.points[point].name.clone()),
        at_edge: chosen
            .filter(|_| state.is_decided(layout, arm))
            .map_or(Vec::new(), |point| at_edge(&laid.points, point)),
        complete,
        seeds: runs
            .iter()
            .map(|figures| SeedResult {
                seed: figures.seed,
                value: measure.of(figures),
            })
            .collect(),
        validation_loss: summary(|figures| Some(figures.validation_loss)),
        validation_bits_per_byte: summary(|figures| Some(figures.validation_bits_per_byte)),
        test_loss: summary(|figures| figures.test_loss),
        test_bits_per_byte: summary(|figures| figures.test_bits_per_byte),
        parameters: runs.first().map(|figures| figures.parameters),
        tokens: runs.first().map(|figures| figures.tokens),
        step_seconds: middle(|figures| figures.step_seconds),
        tokens_per_second: middle(|figures| figures.tokens_per_second),
        seconds: every(|figures| Some(figures.seconds))
            .and_then(|values| Summary::of(&values))
            .map(|summary| summary.mean),
        gradient_cosine: mean(|figures| figures.gradient_cosine),
        gradient_cosine_potential: mean(|figures| figures.gradient_cosine_potential),
        against_first: None,
    }
}

/// Keys of several numbers whose value at `chosen` is the least or the greatest of them.
fn at_edge(points: &[LaidPoint], chosen: usize) -> Vec<String> {
    let number = |point: &LaidPoint, key: &str| match point.settings.get(key)? {
        toml::Value::Float(value) => Some(*value),
        toml::Value::Integer(value) => Some(*value as f64),
        _ => None,
    };
    let is_edge = |key: &&String| {
        let Some(own) = number(&points[chosen], key) else {
            return false;
        };
        let others: Vec<f64> = points
            .iter()
            .filter_map(|point| number(point, key))
            .collect();
        let (less, more) = (
            others.iter().any(|x| *x < own),
            others.iter().any(|x| *x > own),
        );
        less != more
    };
    points[chosen]
        .settings
        .keys()
        .filter(is_edge)
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests;
