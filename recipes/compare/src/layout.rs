//! Every run a study may make: its recipe, its settings, its folder. Reads recipes, no data.
//!
//! An arm on a task is a *cell*: it has a grid, a chosen point and a mean of its own.

use std::path::{Path, PathBuf};

use kiln_run::recipe::{self, Recipe};
use kiln_train::{TrainError, TrainRecipe};

use crate::CompareError;
use crate::budget::Length;
use crate::results::Measure;
use crate::study::{
    Arm, Budget, Difference, Loaded, ORDER, Point, Settings, Study, Task, overrides,
};

/// One run, by its place in the study.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunId {
    /// Number of the cell.
    pub cell: usize,
    /// Number of the point in its grid.
    pub point: usize,
    /// Seed.
    pub seed: u64,
}

/// A point of a cell's grid with its recipe.
#[derive(Clone, Debug)]
pub struct LaidPoint {
    /// Name in tables and folders.
    pub name: String,
    /// What the grid sets.
    pub settings: Settings,
    /// All arguments of `--set` but the seed, in this order: the study's, the task's, the arm's, the grid's, the budget's.
    pub overrides: Vec<String>,
    /// Order of the n-gram model that is counted in place of the recipe's model.
    pub ngram: Option<u32>,
    /// The recipe with them, and with the recipe's own seed.
    pub recipe: Recipe<TrainRecipe>,
}

/// A task with what holds within it.
#[derive(Clone, Debug, PartialEq)]
pub struct LaidTask {
    /// Its name; none for the one task of a study that states none.
    pub name: Option<String>,
    /// What arms are chosen and compared by.
    pub measure: Measure,
    /// Differences between arms that are not refused.
    pub allow: Vec<Difference>,
    /// Largest difference in trainable parameters to the first arm, as a share of the first arm's.
    pub parameters_within: f64,
    /// What every arm may spend.
    pub budget: Option<Budget>,
    /// Name of its family and tokens of a sequence, where it is one of several lengths.
    pub length: Option<(String, u64)>,
}

impl LaidTask {
    fn new(study: &Study, task: Option<&Task>) -> Self {
        let mut allow = study.allow.clone();
        allow.extend(task.iter().flat_map(|task| &task.allow));
        let within = task.and_then(|task| task.parameters_within);
        let quality = task.map(|task| task.measure).unwrap_or_default();
        Self {
            name: task.map(|task| task.name.clone()),
            measure: Measure::shared(quality, &allow),
            allow,
            parameters_within: within.unwrap_or(study.parameters_within),
            budget: task
                .and_then(|task| task.budget.clone())
                .or(study.budget.clone()),
            length: task.and_then(|task| Some((task.family().to_string(), task.length?))),
        }
    }

    /// Whether arms may differ so.
    pub fn allows(&self, difference: Difference) -> bool {
        self.allow.contains(&difference)
    }
}

/// An arm on a task.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Number of the task.
    pub task: usize,
    /// Number of the arm in the study.
    pub arm: usize,
    /// The arm's name in tables and folders.
    pub name: String,
    /// `TASK/ARM`, or the arm's name where the study has no tasks.
    pub title: String,
    /// The recipe, as `kiln train` takes it.
    pub recipe: String,
    /// What says how long its runs are.
    pub length: Length,
    /// Finished runs that are scored in place of training, by seed.
    pub loaded: Option<Vec<PathBuf>>,
    /// Its grid.
    pub points: Vec<LaidPoint>,
}

/// A study with everything resolved that needs no data.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The study's name.
    pub name: String,
    /// The comment at the head of its file.
    pub header: String,
    /// The study's file and those it extends: name and text.
    pub files: Vec<(String, String)>,
    /// The study.
    pub study: Study,
    /// Its tasks; one without a name where it states none.
    pub tasks: Vec<LaidTask>,
    /// Every arm on every task it runs, task by task.
    pub cells: Vec<Cell>,
    /// The output folder.
    pub out: PathBuf,
}

impl Layout {
    /// Reads the recipe of every point of every cell from `book`.
    ///
    /// # Errors
    /// [`CompareError::Arm`] naming task, arm and point, for a recipe that is not there, a key it does not have, and a value out
    /// of its range.
    pub fn new(loaded: Loaded, book: &Path, out: &Path) -> Result<Self, CompareError> {
        let study = &loaded.study;
        let stated: Vec<Option<&Task>> = match study.task.is_empty() {
            true => vec![None],
            false => study.task.iter().map(Some).collect(),
        };
        let tasks = stated.iter().map(|task| LaidTask::new(study, *task));
        let tasks: Vec<_> = tasks.collect();
        let mut cells = Vec::new();
        for (number, task) in stated.iter().enumerate() {
            let first = cells.len();
            let runs = |arm: &Arm| task.is_none_or(|task| arm.runs(task));
            let of_task = || study.arm.iter().enumerate().filter(|(_, arm)| runs(arm));
            for (arm, stated) in of_task() {
                let of = task.and_then(|task| task.of.as_ref());
                let length = match (of, &stated.time_of) {
                    // A study is checked when it is read: arms and tasks are there.
                    (Some(name), _) => Length::ModelsOf(place_of(&loaded, name, arm)),
                    (None, None) => {
                        Length::of(stated, tasks[number].budget.as_ref(), &tasks[number].allow)
                    }
                    (None, Some(name)) => {
                        let place = of_task().position(|(_, other)| other.name == *name);
                        Length::TimeOf(first + place.unwrap_or(0))
                    }
                };
                cells.push(cell(&loaded, book, (number, *task), (arm, stated), length)?);
            }
        }
        Ok(Self {
            tasks,
            name: loaded.name,
            header: loaded.header,
            files: loaded.files,
            study: loaded.study,
            cells,
            out: out.into(),
        })
    }

    /// The point a run belongs to.
    pub fn point(&self, run: RunId) -> &LaidPoint {
        &self.cells[run.cell].points[run.point]
    }

    /// The task of a cell.
    pub fn task_of(&self, cell: usize) -> &LaidTask {
        &self.tasks[self.cells[cell].task]
    }

    /// What a cell is chosen and compared by.
    pub fn measure(&self, cell: usize) -> Measure {
        self.task_of(cell).measure
    }

    /// Numbers of a task's cells, in the order of the study's arms.
    pub fn cells_of(&self, task: usize) -> impl Iterator<Item = usize> {
        let cells = self.cells.iter().enumerate();
        cells.filter_map(move |(number, cell)| (cell.task == task).then_some(number))
    }

    /// The run's recipe, with its seed.
    pub fn recipe(&self, run: RunId) -> Recipe<TrainRecipe> {
        let mut recipe = self.point(run).recipe.clone();
        recipe.value.seed = run.seed;
        recipe
    }

    /// `arm/point/seed-N`, below the task's name where the study has tasks.
    pub fn place(&self, run: RunId) -> PathBuf {
        let task = self.task_of(run.cell).name.as_deref().unwrap_or_default();
        Path::new(task)
            .join(&self.cells[run.cell].name)
            .join(&self.point(run).name)
            .join(format!("seed-{}", run.seed))
    }

    /// The run's folder.
    pub fn folder(&self, run: RunId) -> PathBuf {
        self.out.join("runs").join(self.place(run))
    }

    /// What the run's process says.
    pub fn log(&self, run: RunId) -> PathBuf {
        self.out
            .join("logs")
            .join(self.place(run))
            .with_extension("log")
    }

    /// Task, arm, point and seed in words.
    pub fn title(&self, run: RunId) -> String {
        let cell = &self.cells[run.cell];
        let point = &cell.points[run.point];
        match cell.points.len() {
            1 => format!("{} seed {}", cell.title, run.seed),
            _ => format!("{} {} seed {}", cell.title, point.name, run.seed),
        }
    }

    /// The finished run that is scored in place of training one.
    pub fn loaded(&self, run: RunId) -> Option<&Path> {
        let runs = self.cells[run.cell].loaded.as_ref()?;
        let place = self.study.seeds.iter().position(|seed| *seed == run.seed)?;
        runs.get(place).map(PathBuf::as_path)
    }

    /// Whether a cell trains models.
    pub fn trains(&self, cell: usize) -> bool {
        let of_another = matches!(self.cells[cell].length, Length::ModelsOf(_));
        self.study.arm[self.cells[cell].arm].trains() && !of_another
    }

    /// The order of a run that counts.
    pub fn ngram(&self, run: RunId) -> Option<u32> {
        self.point(run).ngram
    }

    /// Every run that could be asked for: each point with each seed.
    pub fn all(&self) -> impl Iterator<Item = RunId> {
        self.cells.iter().enumerate().flat_map(move |(cell, laid)| {
            (0..laid.points.len()).flat_map(move |point| {
                let seeds = self.study.seeds.iter();
                seeds.map(move |&seed| RunId { cell, point, seed })
            })
        })
    }

    /// Runs of the whole protocol: every grid once, and the chosen points with the remaining seeds.
    pub fn total(&self) -> usize {
        let grid: usize = self.cells.iter().map(|cell| cell.points.len()).sum();
        grid + self.cells.len() * (self.study.seeds.len() - 1)
    }
}

/// The number of the cell of an arm on a task.
fn place_of(loaded: &Loaded, task: &str, arm: usize) -> usize {
    let study = &loaded.study;
    let cells = study.task.iter().flat_map(|task| {
        let arms = study.arm.iter().enumerate();
        arms.filter(|(_, arm)| arm.runs(task))
            .map(move |(arm, _)| (task.name.as_str(), arm))
    });
    cells
        .into_iter()
        .position(|cell| cell == (task, arm))
        .unwrap_or(0)
}

/// The order of a point that is counted.
fn order_of(settings: &Settings) -> Option<u32> {
    let order = settings.get(ORDER)?.as_integer()?;
    u32::try_from(order).ok()
}

/// Resolves the grid of an arm on a task; both come with their numbers.
fn cell(
    loaded: &Loaded,
    book: &Path,
    (task, stated): (usize, Option<&Task>),
    (arm, of_arm): (usize, &Arm),
    length: Length,
) -> Result<Cell, CompareError> {
    let recipe = match of_arm.recipe.ends_with(".toml") || of_arm.recipe.contains('/') {
        true => loaded.folder.join(&of_arm.recipe).display().to_string(),
        false => of_arm.recipe.clone(),
    };
    let title = match stated {
        Some(task) => format!("{}/{}", task.name, of_arm.name),
        None => of_arm.name.clone(),
    };
    let none = Settings::new();
    let of_task = stated.map_or(&none, |task| &task.set);
    let laid = |point: Point| {
        let ngram = order_of(&point.settings);
        let of_grid = if ngram.is_some() {
            &none
        } else {
            &point.settings
        };
        let mut overrides = overrides(&[&loaded.study.set, of_task, &of_arm.set, of_grid]);
        overrides.extend(length.overrides());
        let read = recipe::load::<TrainRecipe>(book, &recipe, &overrides)
            .map_err(TrainError::from)
            .and_then(|recipe| recipe.value.validate().map(|()| recipe));
        Ok(LaidPoint {
            recipe: read.map_err(|source| CompareError::Arm {
                arm: title.clone(),
                point: point.name.clone(),
                source: Box::new(source),
            })?,
            name: point.name,
            settings: point.settings,
            ngram,
            overrides,
        })
    };
    let points = loaded.study.points(of_arm, stated).into_iter().map(laid);
    Ok(Cell {
        task,
        arm,
        name: of_arm.name.clone(),
        length,
        loaded: of_arm.runs.clone(),
        points: points.collect::<Result<_, CompareError>>()?,
        title,
        recipe,
    })
}

#[cfg(test)]
mod tests;
