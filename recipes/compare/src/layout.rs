//! Every run a study may make: its recipe, its settings, its folder. Reads recipes, no data.

use std::path::{Path, PathBuf};

use kiln_run::recipe::{self, Recipe};
use kiln_train::{TrainError, TrainRecipe};

use crate::CompareError;
use crate::study::{Loaded, Settings, Study, overrides};

/// One run, by its place in the study.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunId {
    /// Number of the arm.
    pub arm: usize,
    /// Number of the point in its grid.
    pub point: usize,
    /// Seed.
    pub seed: u64,
}

/// A point of an arm's grid with its recipe.
#[derive(Clone, Debug)]
pub struct LaidPoint {
    /// Name in tables and folders.
    pub name: String,
    /// What the grid sets.
    pub settings: Settings,
    /// All arguments of `--set` but the seed, in this order: the study's, the arm's, the grid's.
    pub overrides: Vec<String>,
    /// The recipe with them, and with the recipe's own seed.
    pub recipe: Recipe<TrainRecipe>,
}

/// An arm with its points.
#[derive(Clone, Debug)]
pub struct LaidArm {
    /// Name in tables and folders.
    pub name: String,
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
    /// The study.
    pub study: Study,
    /// Its arms.
    pub arms: Vec<LaidArm>,
    /// The output folder.
    pub out: PathBuf,
}

impl Layout {
    /// Reads the recipe of every point of every arm from `book`.
    ///
    /// # Errors
    /// [`CompareError::Arm`] naming arm and point, for a recipe that is not there, a key it does not have, and a value out of
    /// its range.
    pub fn new(loaded: Loaded, book: &Path, out: &Path) -> Result<Self, CompareError> {
        let study = loaded.study;
        let mut arms = Vec::with_capacity(study.arm.len());
        for arm in &study.arm {
            let recipe = match arm.recipe.ends_with(".toml") || arm.recipe.contains('/') {
                true => loaded
                    .folder
                    .join(&arm.recipe)
                    .to_string_lossy()
                    .into_owned(),
                false => arm.recipe.clone(),
            };
            let mut points = Vec::new();
            for point in study.points(arm) {
                let overrides = overrides(&[&study.set, &arm.set, &point.settings]);
                let read = recipe::load::<TrainRecipe>(book, &recipe, &overrides)
                    .map_err(TrainError::from)
                    .and_then(|recipe| recipe.value.validate().map(|()| recipe));
                points.push(LaidPoint {
                    recipe: read.map_err(|source| CompareError::Arm {
                        arm: arm.name.clone(),
                        point: point.name.clone(),
                        source: Box::new(source),
                    })?,
                    name: point.name,
                    settings: point.settings,
                    overrides,
                });
            }
            arms.push(LaidArm {
                name: arm.name.clone(),
                recipe,
                points,
            });
        }
        Ok(Self {
            name: loaded.name,
            header: loaded.header,
            study,
            arms,
            out: out.into(),
        })
    }

    /// The point a run belongs to.
    pub fn point(&self, run: RunId) -> &LaidPoint {
        &self.arms[run.arm].points[run.point]
    }

    /// The run's recipe, with its seed.
    pub fn recipe(&self, run: RunId) -> Recipe<TrainRecipe> {
        let mut recipe = self.point(run).recipe.clone();
        recipe.value.seed = run.seed;
        recipe
    }

    /// `arm/point/seed-N`.
    pub fn place(&self, run: RunId) -> PathBuf {
        let arm = &self.arms[run.arm];
        Path::new(&arm.name)
            .join(&arm.points[run.point].name)
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

    /// Arm, point and seed in words.
    pub fn title(&self, run: RunId) -> String {
        let arm = &self.arms[run.arm];
        let point = &arm.points[run.point];
        match arm.points.len() {
            1 => format!("{} seed {}", arm.name, run.seed),
            _ => format!("{} {} seed {}", arm.name, point.name, run.seed),
        }
    }

    /// Every run that could be asked for: each point with each seed.
    pub fn all(&self) -> impl Iterator<Item = RunId> {
        self.arms.iter().enumerate().flat_map(move |(arm, laid)| {
            (0..laid.points.len()).flat_map(move |point| {
                let seeds = self.study.seeds.iter();
                seeds.map(move |&seed| RunId { arm, point, seed })
            })
        })
    }

    /// Runs of the whole protocol: every grid once, and the chosen points with the remaining seeds.
    pub fn total(&self) -> usize {
        let grid: usize = self.arms.iter().map(|arm| arm.points.len()).sum();
        grid + self.arms.len() * (self.study.seeds.len() - 1)
    }
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
            arm: 1,
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
            layout.arms[0].points[0].clone()
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
