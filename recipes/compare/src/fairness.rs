//! What makes arms comparable: the same data, the same number of tokens or another equal budget, the same scoring, about as many
//! parameters.

use std::path::PathBuf;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use kiln_run::recipe::Recipe;
use kiln_train::{ObjectiveKind, Plan, Resolved, TeacherCost, TrainError, TrainRecipe};
use kiln_zoo::{LanguageModel, ModelConfig};

use crate::budget::Length;
use crate::layout::LaidTask;
use crate::study::Difference;
use crate::{CompareError, Layout};

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
    /// Trainable parameters.
    pub parameters: usize,
    /// Operations of the run, forward and backward, and a teacher's forward ones; none where time ends it.
    pub flops: Option<f64>,
    /// Operations of a step.
    pub step_flops: f64,
    /// A key that ends runs before their last step, with its value.
    pub open_ended: Option<(&'static str, String)>,
}

impl Facts {
    /// Counts a run of this many steps.
    pub(crate) fn set_steps(&mut self, steps: u64) {
        self.tokens = Some(steps * self.step_tokens);
        self.flops = Some(steps as f64 * self.step_flops);
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
    let mut counter = Counter {
        device,
        known: Vec::new(),
        teachers: Vec::new(),
    };
    let mut cells = Vec::with_capacity(layout.cells.len());
    for cell in &layout.cells {
        let mut points = Vec::with_capacity(cell.points.len());
        for point in &cell.points {
            let facts = vocab(&point.recipe.value)
                .and_then(|vocab| counter.facts(point.recipe.clone(), vocab, cell.length))
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

/// Refuses a study whose arms need finished runs, such as a teacher, that are not there.
///
/// # Errors
/// [`CompareError::Arm`] naming the first arm and point, and what to do.
pub fn check_runs(layout: &Layout) -> Result<(), CompareError> {
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

struct Counter<'a> {
    device: &'a Device,
    /// Points of a grid mostly share one model, and building it is what takes time.
    known: Vec<(ModelConfig, usize, usize, u64)>,
    /// Run folders of teachers with the length of sequences, and their operations.
    teachers: Vec<((PathBuf, usize), u64)>,
}

impl Counter<'_> {
    fn facts(
        &mut self,
        recipe: Recipe<TrainRecipe>,
        vocab: usize,
        length: Length,
    ) -> Result<Facts, TrainError> {
        let resolved = Resolved::new(recipe, vocab)?;
        let (parameters, flops_per_token) = self.count(&resolved)?;
        let of_teacher = self.teacher_flops(&resolved)?;
        let recipe = &resolved.recipe.value;
        let (data, train) = (&recipe.data, &recipe.train);
        let step_tokens = recipe.tokens_per_step(resolved.seq);
        // Backward costs twice the forward pass, as in the plan of one run.
        let token_flops = 3.0 * flops_per_token as f64 + of_teacher as f64;
        let objective = match recipe.objective.kind {
            ObjectiveKind::NextToken => "next tokens".into(),
            ObjectiveKind::MaskedToken => {
                format!("{} masked tokens", recipe.objective.mask_ratio.0)
            }
        };
        let windows = match (train.final_sweep, train.sweep_windows) {
            (true, 0) => "all windows".into(),
            (true, windows) => format!("the first {windows} windows"),
            (false, _) => format!("{} random windows", train.eval_batches * train.batch),
        };
        // The weights that are scored are those of the best evaluation: more or larger ones choose better.
        let evaluations = format!(
            "evaluated every {} steps on {} windows",
            train.eval_every,
            train.eval_batches * train.batch
        );
        let open_ended = if train.target_accuracy > 0.0 {
            let target = train.target_accuracy.to_string();
            Some(("train.target_accuracy", target))
        } else if train.max_seconds > 0.0 && !length.is_time() {
            Some(("train.max_seconds", train.max_seconds.to_string()))
        } else if train.patience > 0 {
            Some(("train.patience", train.patience.to_string()))
        } else {
            None
        };
        let mut facts = Facts {
            data: match &recipe.task {
                // Examples follow from the settings, so equal settings are equal data.
                Some(task) => toml::to_string(task)
                    .map_err(kiln_run::RecipeError::NotToml)?
                    .trim_end()
                    .replace("\n\n", ", ")
                    .replace('\n', ", "),
                None => format!(
                    "{} ({} bytes at most) as {}",
                    data.name, data.max_bytes, data.tokenizer
                ),
            },
            tokens: None,
            step_tokens,
            scoring: format!(
                "{windows} of {} tokens, {objective}, {evaluations}",
                resolved.seq
            ),
            parameters,
            flops: None,
            step_flops: token_flops * step_tokens as f64,
            open_ended,
        };
        if !length.is_time() {
            facts.set_steps(resolved.steps);
        }
        Ok(facts)
    }

    /// Forward operations a token of the teacher that a recipe names; 0 as long as it is missing.
    fn teacher_flops(&mut self, resolved: &Resolved) -> Result<u64, TrainError> {
        let recipe = &resolved.recipe.value;
        let Some(distill) = &recipe.distill else {
            return Ok(0);
        };
        if !recipe.missing_runs().is_empty() {
            return Ok(0);
        }
        let key = (distill.teacher.clone(), resolved.seq);
        if let Some((_, flops)) = self.teachers.iter().find(|(known, _)| *known == key) {
            return Ok(*flops);
        }
        let cost = TeacherCost::of(recipe, resolved.seq, self.device)?;
        let flops = cost.map_or(0, |cost| cost.flops_per_token);
        self.teachers.push((key, flops));
        Ok(flops)
    }

    fn count(&mut self, resolved: &Resolved) -> Result<(usize, u64), TrainError> {
        let known = self
            .known
            .iter()
            .find(|(model, seq, ..)| *model == resolved.model && *seq == resolved.seq);
        if let Some((_, _, parameters, flops)) = known {
            return Ok((*parameters, *flops));
        }
        // Only a device with autodiff tells what is trained.
        let model = resolved.model.init(0, &self.device.clone().autodiff())?;
        let parameters = trainable(&model);
        let flops = Plan::new(resolved, None, self.device)?.flops_per_token;
        self.known
            .push((resolved.model.clone(), resolved.seq, parameters, flops));
        Ok((parameters, flops))
    }
}

/// Numbers in the parameters that are trained.
fn trainable(model: &LanguageModel) -> usize {
    struct Count(usize);
    impl ModuleVisitor for Count {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            if value.is_require_grad() {
                self.0 += value.shape().num_elements();
            }
        }
    }
    let mut count = Count(0);
    model.visit(&mut count);
    count.0
}

/// Refuses what the study does not allow: within a task, every point of every arm is held against the first point of the first
/// arm. Tasks need not agree with each other.
///
/// # Errors
/// [`CompareError::Unequal`], [`CompareError::OverBudget`] and [`CompareError::OpenEnded`], naming arms and values.
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
        let references = [
            (&first, &DIFFERENCES[..]),
            (
                &counted,
                if by_recipe {
                    &[Difference::Tokens]
                } else {
                    &[]
                },
            ),
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

/// What every arm is held against the first for.
const DIFFERENCES: [Difference; 3] = [
    Difference::Data,
    Difference::Scoring,
    Difference::Parameters,
];

/// Holds a model against a budget of parameters.
fn check_size(task: &LaidTask, arm: &str, facts: &Facts) -> Result<(), CompareError> {
    let budget = task.budget.as_ref().and_then(|budget| budget.parameters);
    let Some(budget) = budget.filter(|_| !task.allows(Difference::Parameters)) else {
        return Ok(());
    };
    let share = (facts.parameters as f64 / budget as f64 - 1.0).abs();
    if share <= task.parameters_within {
        return Ok(());
    }
    Err(CompareError::OverBudget {
        arm: arm.into(),
        value: facts.parameters,
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
    let share = (other.parameters as f64 / first.parameters as f64 - 1.0).abs();
    let has_budget = task.budget.as_ref().and_then(|of| of.parameters).is_some();
    let differs = |what: &Difference| match what {
        Difference::Data => first.data != other.data,
        Difference::Tokens => first.tokens != other.tokens,
        Difference::Scoring => first.scoring != other.scoring,
        Difference::Parameters => share > task.parameters_within && !has_budget,
        // Who may have another one is decided when the study is read.
        Difference::Budget => false,
    };
    let found = differences
        .iter()
        .find(|what| differs(what) && !task.allows(**what));
    let what = *found?;
    let show = |facts: &Facts| match what {
        Difference::Data => facts.data.clone(),
        Difference::Tokens | Difference::Budget => {
            format!("{} tokens", facts.tokens.unwrap_or_default())
        }
        Difference::Scoring => facts.scoring.clone(),
        Difference::Parameters => format!("{} trainable", facts.parameters),
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
