//! Budgets made into recipes: steps of a number of operations, and the time that another arm took.

use std::path::PathBuf;

use kiln_run::{FileError, atomic_write};
use serde::{Deserialize, Serialize};

use crate::fairness::CellCost;
use crate::figures::read_json;
use crate::layout::{LaidPoint, Layout};
use crate::protocol::State;
use crate::study::{Arm, Budget, Difference, has_own_length};
use crate::{CompareError, RunId};

/// Steps of a run that its time ends: more than any run makes, and little enough that its tokens can be counted.
const UNBOUNDED_STEPS: u64 = 1_000_000_000;
/// Layout version of `budget.json`.
const BUDGET_VERSION: u32 = 1;

/// What says how long a cell's runs are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// Its recipe.
    Recipe,
    /// A number of target tokens.
    Tokens(u64),
    /// A number of operations.
    Flops(f64),
    /// A number of seconds.
    Seconds(f64),
    /// Nothing: an arm that counts reads its text once.
    Whole,
    /// Nothing: its runs were made before.
    Loaded,
    /// Nothing: another cell's chosen models are scored.
    ModelsOf(usize),
    /// The time that another cell's chosen point took with the first seed.
    TimeOf(usize),
}

impl Length {
    /// The length of an arm on a task, but for that of an arm that waits for another.
    pub(crate) fn of(arm: &Arm, budget: Option<&Budget>, allow: &[Difference]) -> Self {
        if arm.runs.is_some() {
            return Self::Loaded;
        }
        let Some(budget) = budget else {
            return Self::Recipe;
        };
        if has_own_length(arm) && allow.contains(&Difference::Budget) {
            return Self::Recipe;
        }
        let by_tokens = budget.tokens.map(Self::Tokens);
        // Neither operations nor time say how much text an arm that counts may read.
        if arm.ngram.is_some() && by_tokens.is_none() && budget.has_length() {
            return Self::Whole;
        }
        let by_flops = budget.flops.map(Self::Flops);
        let by_time = budget.seconds.map(Self::Seconds);
        by_tokens.or(by_flops).or(by_time).unwrap_or(Self::Recipe)
    }

    /// Whether nobody knows the runs' tokens before, because time or the text ends them, or it was made before.
    pub fn is_open(self) -> bool {
        let by_time = matches!(self, Self::Seconds(_) | Self::TimeOf(_));
        by_time || matches!(self, Self::Whole | Self::Loaded | Self::ModelsOf(_))
    }

    /// `--set` arguments of a budget that is known from the start.
    pub(crate) fn overrides(self) -> Vec<String> {
        match self {
            Self::Recipe | Self::Loaded | Self::ModelsOf(_) => Vec::new(),
            // As many steps as it pays for are counted later.
            Self::Flops(_) => vec![
                "train.steps=1".into(),
                "train.tokens=0".into(),
                "train.max_seconds=0.0".into(),
            ],
            Self::Tokens(tokens) => vec![
                "train.steps=0".into(),
                format!("train.tokens={tokens}"),
                "train.max_seconds=0.0".into(),
            ],
            Self::Seconds(seconds) => by_time(Some(seconds)),
            Self::TimeOf(_) | Self::Whole => by_time(None),
        }
    }
}

fn by_time(seconds: Option<f64>) -> Vec<String> {
    let steps = format!("train.steps={UNBOUNDED_STEPS}");
    let limit = seconds.map(|seconds| format!("train.max_seconds={seconds:?}"));
    [steps, "train.tokens=0".into()]
        .into_iter()
        .chain(limit)
        .collect()
}

/// `budget.json`: the steps of every point that has a number of operations, so that a report needs no model to tell the study's runs.
#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    points: Vec<WrittenPoint>,
}

#[derive(Serialize, Deserialize)]
struct WrittenPoint {
    cell: String,
    point: String,
    flops: f64,
    steps: u64,
}

impl LaidPoint {
    fn set_steps(&mut self, steps: u64) {
        self.recipe.value.train.steps = steps;
        self.overrides
            .retain(|set| !set.starts_with("train.steps="));
        self.overrides.push(format!("train.steps={steps}"));
    }
}

impl Layout {
    /// Gives every point with a budget of operations the steps that it pays for, and counts its costs anew.
    ///
    /// # Errors
    /// [`CompareError::OneStep`] naming an arm of which a single step is more than the budget.
    pub fn spend(&mut self, costs: &mut [CellCost]) -> Result<(), CompareError> {
        for (cell, cost) in self.cells.iter_mut().zip(costs) {
            let Length::Flops(budget) = cell.length else {
                continue;
            };
            for (point, (_, facts)) in cell.points.iter_mut().zip(&mut cost.points) {
                let steps = ((budget - facts.first_flops) / facts.step_flops) as u64;
                if steps == 0 {
                    return Err(CompareError::OneStep {
                        arm: cell.title.clone(),
                        flops: facts.first_flops + facts.step_flops,
                        budget,
                    });
                }
                point.set_steps(steps);
                facts.set_steps(steps);
            }
        }
        Ok(())
    }

    fn budget_file(&self) -> PathBuf {
        self.out.join("budget.json")
    }

    /// Writes down the steps that [`Layout::spend`] found; nothing where no budget is in operations.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn write_budget(&self) -> Result<(), CompareError> {
        let mut points = Vec::new();
        for cell in &self.cells {
            if let Length::Flops(flops) = cell.length {
                points.extend(cell.points.iter().map(|point| WrittenPoint {
                    cell: cell.title.clone(),
                    point: point.name.clone(),
                    flops,
                    steps: point.recipe.value.train.steps,
                }));
            }
        }
        if points.is_empty() {
            return Ok(());
        }
        std::fs::create_dir_all(&self.out).map_err(FileError::io("create", &self.out))?;
        let version = BUDGET_VERSION;
        atomic_write(&self.budget_file(), |file| {
            serde_json::to_writer_pretty(file, &Written { version, points }).map_err(Into::into)
        })?;
        Ok(())
    }

    /// Gives points with a budget of operations the steps that were written down when their runs were made.
    ///
    /// # Errors
    /// [`CompareError::BadFile`] if there is no such file, or none of this study as it is.
    pub fn read_budget(&mut self) -> Result<(), CompareError> {
        let has_flops = |length| matches!(length, Length::Flops(_));
        if !self.cells.iter().any(|cell| has_flops(cell.length)) {
            return Ok(());
        }
        let path = self.budget_file();
        let bad = |why: String| CompareError::BadFile {
            path: path.clone(),
            why,
        };
        let written: Written = read_json(&path)?;
        if written.version != BUDGET_VERSION {
            let found = written.version;
            return Err(bad(format!(
                "its layout version is {found}, and this Kiln reads {BUDGET_VERSION}"
            )));
        }
        for cell in &mut self.cells {
            let Length::Flops(flops) = cell.length else {
                continue;
            };
            for point in &mut cell.points {
                let known = written.points.iter().find(|known| {
                    (&known.cell, &known.point, known.flops) == (&cell.title, &point.name, flops)
                });
                let missing = || {
                    bad(format!(
                        "it has no steps of `{}`, {} for {flops:e} operations: the study was edited; run it without --report-only",
                        cell.title, point.name
                    ))
                };
                point.set_steps(known.ok_or_else(missing)?.steps);
            }
        }
        Ok(())
    }

    /// The same layout with what arms have from others, time or models, as far as it is known.
    pub fn timed(&self, state: &State) -> Self {
        let mut timed = self.clone();
        for cell in &mut timed.cells {
            if let Length::ModelsOf(of) = cell.length {
                cell.loaded = state.models_of(self, of);
                continue;
            }
            let Length::TimeOf(of) = cell.length else {
                continue;
            };
            let Some(seconds) = state.time_of(self, of) else {
                continue;
            };
            for point in &mut cell.points {
                point.recipe.value.train.max_seconds = seconds;
                point
                    .overrides
                    .push(format!("train.max_seconds={seconds:?}"));
            }
        }
        timed
    }
}

impl State {
    /// Seconds that a cell's chosen point took with the first seed, up to a millisecond; none before its grid is decided.
    pub fn time_of(&self, layout: &Layout, cell: usize) -> Option<f64> {
        let seed = *layout.study.seeds.first()?;
        let decided = self.is_decided(layout, cell);
        let point = self.best_point(layout, cell).filter(|_| decided)?;
        let seconds = self.finished.get(&RunId { cell, point, seed })?.seconds;
        Some((1e3 * seconds).ceil() / 1e3)
    }

    /// Folders of a cell's chosen runs by seed; none before all of them are finished.
    pub fn models_of(&self, layout: &Layout, cell: usize) -> Option<Vec<PathBuf>> {
        let point = self.best_point(layout, cell)?;
        let seeds = layout.study.seeds.iter();
        let folders = seeds.map(|&seed| layout.folder(RunId { cell, point, seed }));
        self.is_complete(layout, cell).then(|| folders.collect())
    }

    /// Whether a cell waits for the time or the models of another.
    pub fn is_waiting(&self, layout: &Layout, cell: usize) -> bool {
        match layout.cells[cell].length {
            Length::TimeOf(of) => self.time_of(layout, of).is_none(),
            Length::ModelsOf(of) => self.models_of(layout, of).is_none(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
