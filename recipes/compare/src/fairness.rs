//! What makes arms comparable: the same data, the same number of tokens or another equal budget, the same scoring, about as many
//! parameters.

mod count;

use burn::tensor::Device;
use kiln_train::{TrainError, TrainRecipe};
use kiln_zoo::ModelConfig;

use crate::budget::Length;
use crate::layout::LaidTask;
use crate::study::Difference;
use crate::{CompareError, Layout};
use count::Counter;

/// What is compared of one point.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Corpus, its limit and tokenizer, in words.
    pub data: String,
    /// Target tokens of the run; none where time ends it.
    pub tokens: Option<u64>,
    /// Target tokens of a step.
    pub step_tokens: u64,
    /// How held-out text is scored, in words.
    pub scoring: String,
    /// Trainable parameters; none of an arm that trains nothing.
    pub parameters: Option<usize>,
    /// Operations of the run, forward and backward, and a teacher's forward ones; none where time ends it.
    pub flops: Option<f64>,
    /// Operations of a step.
    pub step_flops: f64,
    /// Operations before the first step: those of a teacher that writes.
    pub first_flops: f64,
    /// The model that is trained; none of an arm that trains nothing.
    pub model: Option<ModelConfig>,
    /// Whether a teacher takes part in that.
    pub taught: bool,
    /// A key that ends runs before their last step, with its value.
    pub open_ended: Option<(&'static str, String)>,
}

impl Facts {
    /// Counts a run of this many steps.
    pub(crate) fn set_steps(&mut self, steps: u64) {
        self.tokens = Some(steps * self.step_tokens);
        self.flops = Some(self.first_flops + steps as f64 * self.step_flops);
    }
}

/// A cell's facts, one for each point of its grid.
#[derive(Clone, Debug, PartialEq)]
pub struct CellCost {
    /// Number of its task.
    pub task: usize,
    /// Task and arm.
    pub title: String,
    /// What says how long its runs are.
    pub length: Length,
    /// Name and facts of each point.
    pub points: Vec<(String, Facts)>,
}

/// Resolves every point and counts what it costs. `vocab` tells the size of a recipe's vocabulary; `device` builds each model
/// once.
///
/// # Errors
/// [`CompareError::Arm`] naming arm and point, for a model that cannot be built and text that cannot be had.
pub fn costs(
    layout: &Layout,
    device: &Device,
    vocab: &mut dyn FnMut(&TrainRecipe) -> Result<usize, TrainError>,
) -> Result<Vec<CellCost>, CompareError> {
    let mut counter = Counter::new(device);
    let mut cells = Vec::with_capacity(layout.cells.len());
    for cell in &layout.cells {
        let mut points = Vec::with_capacity(cell.points.len());
        for point in &cell.points {
            let facts = vocab(&point.recipe.value)
                .and_then(|vocab| counter.facts(point, vocab, cell.length))
                .map_err(|source| CompareError::Arm {
                    arm: cell.title.clone(),
                    point: point.name.clone(),
                    source: Box::new(source),
                })?;
            points.push((point.name.clone(), facts));
        }
        cells.push(CellCost {
            task: cell.task,
            title: cell.title.clone(),
            length: cell.length,
            points,
        });
    }
    Ok(cells)
}

/// Refuses a study whose arms are or need finished runs, such as a teacher, that are not there.
///
/// # Errors
/// [`CompareError::NoRun`] and [`CompareError::Arm`] naming the first arm and point, and what to do.
pub fn check_runs(layout: &Layout) -> Result<(), CompareError> {
    for run in layout.all() {
        let loaded = layout.loaded(run);
        if let Some(path) = loaded.filter(|path| !path.join("config.json").is_file()) {
            return Err(CompareError::NoRun {
                arm: layout.cells[run.cell].title.clone(),
                path: path.into(),
            });
        }
    }
    for cell in &layout.cells {
        for point in &cell.points {
            if let Some(source) = point.recipe.value.missing_runs().into_iter().next() {
                return Err(CompareError::Arm {
                    arm: cell.title.clone(),
                    point: point.name.clone(),
                    source: Box::new(source),
                });
            }
        }
    }
    Ok(())
}

/// Refuses what the study does not allow: within a task, every point of every arm is held against the first point of the first
/// arm. Tasks need not agree with each other.
///
/// # Errors
/// [`CompareError::Unequal`], [`CompareError::OverBudget`], [`CompareError::OpenEnded`] and [`CompareError::NoControl`], naming arms and
/// values.
pub fn check(tasks: &[LaidTask], cells: &[CellCost]) -> Result<(), CompareError> {
    let of = |task| cells.iter().filter(move |cell| cell.task == task);
    let mut all = tasks.iter().enumerate();
    all.try_for_each(|(number, task)| check_task(task, of(number)))
}

fn check_task<'a>(
    task: &LaidTask,
    cells: impl Iterator<Item = &'a CellCost>,
) -> Result<(), CompareError> {
    let all = cells.flat_map(|cell| {
        let title = |point: &str| match cell.points.len() {
            1 => cell.title.clone(),
            _ => format!("{} {point}", cell.title),
        };
        cell.points
            .iter()
            .map(move |(point, facts)| (title(point), facts, cell.length))
    });
    let all: Vec<_> = all.collect();
    check_controls(task, &all)?;
    let mut first: Option<(String, &Facts)> = None;
    // Tokens are compared where recipes say how many there are: budgets are equal as they are.
    let mut counted: Option<(String, &Facts)> = None;
    for (name, facts, length) in all {
        check_size(task, &name, facts)?;
        if let Some((key, value)) = &facts.open_ended
            && !task.allows(Difference::Tokens)
        {
            return Err(CompareError::OpenEnded {
                arm: name,
                key,
                value: value.clone(),
            });
        }
        let by_recipe = length == Length::Recipe;
        let tokens: &[Difference] = match by_recipe {
            true => &[Difference::Tokens],
            false => &[],
        };
        // What says most about why two arms are unlike comes first.
        let references = [
            (&first, &[Difference::Data][..]),
            (&counted, tokens),
            (&first, &[Difference::Scoring, Difference::Parameters]),
        ];
        for (reference, differences) in references {
            if let Some((first_name, reference)) = reference
                && let Some((what, values)) = unequal(task, reference, facts, differences)
            {
                return Err(CompareError::Unequal {
                    what,
                    arms: [first_name.clone(), name],
                    values,
                });
            }
        }
        if by_recipe {
            counted.get_or_insert((name.clone(), facts));
        }
        first.get_or_insert((name, facts));
    }
    Ok(())
}

/// What a teacher gives shows only beside the same model that has none, with as much to spend.
fn check_controls(task: &LaidTask, all: &[(String, &Facts, Length)]) -> Result<(), CompareError> {
    if task.allows(Difference::Control) {
        return Ok(());
    }
    let is_control = |student: &Facts| {
        let mut others = all.iter().map(|(_, facts, _)| facts);
        others.any(|other| !other.taught && other.model == student.model)
    };
    let alone = all
        .iter()
        .find(|(_, facts, _)| facts.taught && facts.model.is_some() && !is_control(facts));
    match alone {
        None => Ok(()),
        Some((arm, ..)) => Err(CompareError::NoControl { arm: arm.clone() }),
    }
}

/// Holds a model against a budget of parameters.
fn check_size(task: &LaidTask, arm: &str, facts: &Facts) -> Result<(), CompareError> {
    let budget = task.budget.as_ref().and_then(|budget| budget.parameters);
    let Some(budget) = budget.filter(|_| !task.allows(Difference::Parameters)) else {
        return Ok(());
    };
    let Some(parameters) = facts.parameters else {
        return Ok(());
    };
    let share = (parameters as f64 / budget as f64 - 1.0).abs();
    if share <= task.parameters_within {
        return Ok(());
    }
    Err(CompareError::OverBudget {
        arm: arm.into(),
        value: parameters,
        budget,
        share: 100.0 * share,
        bound: 100.0 * task.parameters_within,
    })
}

/// The first of some differences that is not allowed, with both values.
fn unequal(
    task: &LaidTask,
    first: &Facts,
    other: &Facts,
    differences: &[Difference],
) -> Option<(Difference, [String; 2])> {
    let share = match (other.parameters, first.parameters) {
        (Some(other), Some(first)) => (other as f64 / first as f64 - 1.0).abs(),
        // What is counted or was made smaller has no size to be held to.
        _ => 0.0,
    };
    let has_budget = task.budget.as_ref().and_then(|of| of.parameters).is_some();
    let differs = |what: &Difference| match what {
        Difference::Data => first.data != other.data,
        Difference::Tokens => first.tokens != other.tokens,
        Difference::Scoring => first.scoring != other.scoring,
        Difference::Parameters => share > task.parameters_within && !has_budget,
        // Who may have another one is decided when the study is read, and controls are looked for among all arms.
        Difference::Budget | Difference::Control => false,
    };
    let found = differences
        .iter()
        .find(|what| differs(what) && !task.allows(**what));
    let what = *found?;
    let show = |facts: &Facts| match what {
        Difference::Data => facts.data.clone(),
        Difference::Tokens | Difference::Budget | Difference::Control => {
            format!("{} tokens", facts.tokens.unwrap_or_default())
        }
        Difference::Scoring => facts.scoring.clone(),
        Difference::Parameters => format!("{} trainable", facts.parameters.unwrap_or_default()),
    };
    let mut values = [show(first), show(other)];
    if what == Difference::Parameters {
        let bound = 100.0 * task.parameters_within;
        values[1] += &format!(" ({:.2} % apart, {bound} % are allowed)", 100.0 * share);
    }
    Some((what, values))
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use std::path::Path;

    /// A layout of arms that all have one small recipe; `head` is the study without its arms.
    pub(crate) fn try_layout(head: &str, arms: &[&str]) -> Result<Layout, CompareError> {
        let folder = tempfile::tempdir().unwrap();
        let recipe = "[data]\ntokenizer = 'bytes'\n[model]\npreset = 'resnet-bk-tiny'\n[train]\nbatch = 2\nseq = 8\n";
        std::fs::write(folder.path().join("tiny.toml"), recipe).unwrap();
        let mut text = format!("{head}\n");
        for arm in arms {
            // An arm may bring more lines after its name.
            let (name, more) = arm.split_once('\n').unwrap_or((arm, ""));
            text += &format!("[[arm]]\nname = '{name}'\nrecipe = 'tiny'\n{more}\n");
        }
        std::fs::write(folder.path().join("study.toml"), text).unwrap();
        let path = folder.path().join("study.toml");
        let loaded = crate::study::load(folder.path(), &path.to_string_lossy())?;
        Layout::new(loaded, folder.path(), Path::new("out"))
    }

    pub(crate) fn layout(head: &str, arms: &[&str]) -> Layout {
        try_layout(head, arms).unwrap()
    }
}

#[cfg(test)]
mod tests;
