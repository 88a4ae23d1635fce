//! Every run a study may make: its recipe, its settings, its folder. Reads recipes, no data.
//!
//! An arm on a task is a *cell*: it has a grid, a chosen point and a mean of its own.

use std::path::{Path, PathBuf};

use kiln_run::recipe::{self, Recipe};
use kiln_train::{TrainError, TrainRecipe};

use crate::CompareError;
use crate::results::Measure;
use crate::study::{Arm, Difference, Loaded, Point, Settings, Study, Task, overrides};

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
    /// All arguments of `--set` but the seed, in this order: the study's, the task's, the arm's, the grid's.
    pub overrides: Vec<String>,
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
        let mut cells = Vec::new();
        for (number, task) in stated.iter().enumerate() {
            for (arm, stated) in study.arm.iter().enumerate() {
                if task.is_none_or(|task| stated.runs(task)) {
                    cells.push(cell(&loaded, book, (number, *task), (arm, stated))?);
                }
            }
        }
        Ok(Self {
            tasks: stated
                .into_iter()
                .map(|task| LaidTask::new(study, task))
                .collect(),
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

/// Resolves the grid of an arm on a task; both come with their numbers.
fn cell(
    loaded: &Loaded,
    book: &Path,
    (task, stated): (usize, Option<&Task>),
    (arm, of_arm): (usize, &Arm),
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
        let overrides = overrides(&[&loaded.study.set, of_task, &of_arm.set, &point.settings]);
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
            overrides,
        })
    };
    let points = loaded.study.points(of_arm, stated).into_iter().map(laid);
    Ok(Cell {
        task,
        arm,
        name: of_arm.name.clone(),
        points: points.collect::<Result<_, CompareError>>()?,
        title,
        recipe,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fairness::testing::layout;

    #[test]
    fn runs_have_their_recipe_and_their_place() {
        let layout = layout(
            "seeds = [4, 5]\ngrid = { \"train.steps\" = [3, 6] }",
            &["a", "b"],
        );
        assert_eq!((layout.total(), layout.all().count()), (6, 8));
        let run = RunId {
            cell: 1,
            point: 1,
            seed: 5,
        };
        let recipe = layout.recipe(run);
        assert_eq!((recipe.value.train.steps, recipe.value.seed), (6, 5));
        assert_eq!(layout.folder(run), layout.out.join("runs/b/steps=6/seed-5"));
        assert_eq!(
            layout.log(run),
            layout.out.join("logs/b/steps=6/seed-5.log")
        );
        assert_eq!(layout.title(run), "b steps=6 seed 5");
    }

    /// Study < arm < grid, whichever key is a part of the other and whichever comes first in the alphabet.
    #[test]
    fn overlapping_keys_keep_their_precedence() {
        let overrides = |head: &str, arm: &str| {
            let layout = layout(&format!("seeds = [4]\n{head}"), &[&format!("a\n{arm}")]);
            layout.cells[0].points[0].clone()
        };
        let heads = |point: &LaidPoint| point.recipe.value.model.bk["heads"].as_integer();
        let inner = "set = { 'model.bk.heads' = 8 }";
        let outer = "set = { 'model.bk' = { heads = 4, h0 = 0.5 } }";
        let point = overrides(inner, outer);
        assert_eq!(heads(&point), Some(4));
        assert_eq!(
            point.overrides,
            ["model.bk.heads=8", "model.bk={ h0 = 0.5, heads = 4 }"]
        );
        assert_eq!(heads(&overrides(outer, inner)), Some(8));
        let grid = "grid = { 'model.bk' = [{ heads = 2 }] }";
        let point = overrides(outer, &format!("{inner}\n{grid}"));
        assert_eq!(heads(&point), Some(2));
        assert_eq!(
            point.overrides,
            ["model.bk.heads=8", "model.bk={ heads = 2 }"]
        );
        // The same key is replaced as a whole: no `h0` is left.
        let point = overrides(outer, "set = { 'model.bk' = { heads = 3 } }");
        assert_eq!(point.overrides, ["model.bk={ heads = 3 }"]);
        assert_eq!(
            (heads(&point), point.recipe.value.model.bk.len()),
            (Some(3), 1)
        );
    }

    #[test]
    fn tasks_have_settings_grids_and_folders_of_their_own() {
        let head = r#"
seeds = [4, 5]
set = { "train.steps" = 5, "train.batch" = 2 }
grid = { "optimizer.learning_rate" = [1e-3, 2e-3] }
allow = ["tokens"]
[[task]]
name = "short-t8"
set = { "train.steps" = 6, "train.batch" = 3 }
length = 8
[[task]]
name = "recall"
grid = { "optimizer.clip_norm" = [1.0, 2.0, 3.0] }
measure = "accuracy"
allow = ["parameters"]
parameters_within = 0.5
"#;
        let arms = [
            "a",
            "b\nset = { 'train.steps' = 7 }\ntasks = ['short-t8']",
            "c\ngrid = {}",
        ];
        let layout = layout(head, &arms);
        let titles: Vec<_> = layout
            .cells
            .iter()
            .map(|cell| cell.title.as_str())
            .collect();
        let expected = [
            "short-t8/a",
            "short-t8/b",
            "short-t8/c",
            "recall/a",
            "recall/c",
        ];
        assert_eq!(titles, expected);
        let points: Vec<_> = layout.cells.iter().map(|cell| cell.points.len()).collect();
        assert_eq!((points, layout.total()), (vec![2, 2, 1, 3, 1], 9 + 5));
        let run = |cell| RunId {
            cell,
            point: 0,
            seed: 5,
        };
        // Study < task < arm.
        let train = |cell| layout.recipe(run(cell)).value.train;
        let steps = [0, 1, 3].map(|cell| (train(cell).steps, train(cell).batch));
        assert_eq!(steps, [(6, 3), (7, 3), (5, 2)]);
        let place = layout.place(run(3));
        assert_eq!(place, Path::new("recall/a/clip_norm=1.0/seed-5"));
        assert_eq!(layout.title(run(4)), "recall/c seed 5");
        let [short, recall] = &layout.tasks[..] else {
            panic!()
        };
        assert_eq!(short.length, Some(("short".into(), 8)));
        assert_eq!(
            [short.measure, recall.measure],
            [Measure::NatsPerToken, Measure::Accuracy]
        );
        assert_eq!(
            [short.parameters_within, recall.parameters_within],
            [0.02, 0.5]
        );
        let allows = |task: &LaidTask| {
            [Difference::Tokens, Difference::Parameters].map(|what| task.allows(what))
        };
        assert_eq!(
            [allows(short), allows(recall)],
            [[true, false], [true, true]]
        );
        assert_eq!(layout.cells_of(1).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn a_bad_recipe_names_its_arm_and_point() {
        let study = "seeds = [4]\ngrid = { \"train.step\" = [3, 6] }";
        let error = crate::fairness::testing::try_layout(study, &["a"])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("arm `a`, step=3: unknown key `train.step` in --set train.step=3; did you mean `steps`?"),
            "{error}"
        );
    }
}
