//! What was found on one task.

use kiln_run::format;
use serde::{Deserialize, Serialize};

use super::cost::{self, CostResult};
use super::{Measure, lineage};
use crate::figures::number_or_nan;
use crate::layout::LaidPoint;
use crate::protocol::State;
use crate::statistics::{Comparison, Summary, compare, median};
use crate::study::Settings;
use crate::{CompareError, Figures, Layout, RunId, bootstrap, costs};

/// One task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskResult {
    /// Its name; none for the one task of a study that states none.
    pub name: Option<String>,
    /// What arms are compared by.
    pub measure: Measure,
    /// Family and tokens of a sequence, where it is one of several lengths.
    #[serde(default)]
    pub length: Option<(String, u64)>,
    /// One entry for every arm that runs it, in the study's order.
    pub arms: Vec<ArmResult>,
}

/// One point of an arm's grid.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedResult {
    /// The seed.
    pub seed: u64,
    /// The measure.
    #[serde(deserialize_with = "number_or_nan")]
    pub value: f64,
}

/// The loss with windows of one length that slide over the validation split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextResult {
    /// The most tokens that a target sees.
    pub context: u64,
    /// Over seeds, nats a token.
    pub loss: Summary,
}

/// One arm on a task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ArmResult {
    /// Its name.
    pub name: String,
    /// Its recipe, as the study names it.
    pub recipe: String,
    /// Its grid.
    pub points: Vec<PointResult>,
    /// Name of the best point at the first seed, among those finished.
    pub chosen: Option<String>,
    /// Keys whose chosen value is the least or greatest of their grid, once it is decided: the best one may lie beyond it.
    pub at_edge: Vec<String>,
    /// Whether the grid is decided and the chosen point has a finite value for every seed. Means below are given only then.
    pub complete: bool,
    /// The finished seeds of the chosen point.
    pub seeds: Vec<SeedResult>,
    /// Validation loss over seeds at that point, nats a token.
    pub validation_loss: Option<Summary>,
    /// The same in bits per byte, on text.
    pub validation_bits_per_byte: Option<Summary>,
    /// The same as perplexity per word, on text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_word_perplexity: Option<Summary>,
    /// Accuracy over seeds, if every run has one.
    pub validation_accuracy: Option<Summary>,
    /// Test loss over seeds, if every run has one.
    pub test_loss: Option<Summary>,
    /// The same in bits per byte.
    pub test_bits_per_byte: Option<Summary>,
    /// The same as perplexity per word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_word_perplexity: Option<Summary>,
    /// The same in accuracy.
    pub test_accuracy: Option<Summary>,
    /// Validation loss against context over seeds, nats a token; lengths that every run has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contexts: Vec<ContextResult>,
    /// Agreement with the teacher over seeds, if every run has one.
    #[serde(default)]
    pub teacher_agreement: Option<Summary>,
    /// KL(teacher || arm) over seeds, nats a token.
    #[serde(default)]
    pub teacher_kl: Option<Summary>,
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
    /// Operations of all steps of one run.
    #[serde(default)]
    pub flops: Option<f64>,
    /// Bytes of the model's weights and configuration, or of an n-gram model's counts.
    #[serde(default)]
    pub model_bytes: Option<u64>,
    /// The arm that the model was compressed of, or else the first arm of the same original.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compressed_of: Option<String>,
    /// Bytes of generation state of one sequence of the trained length.
    #[serde(default)]
    pub state_bytes: Option<u64>,
    /// Median over seeds of the most memory in training, bytes.
    #[serde(default)]
    pub peak_memory_bytes: Option<f64>,
    /// Median over seeds of the device's joules in training, if every run has them.
    #[serde(default)]
    pub energy_joules: Option<f64>,
    /// Mean over seeds of the mean cosine between the recipe's gradient and the exact one, where it was probed.
    pub gradient_cosine: Option<f64>,
    /// The same over the weights of the potentials alone.
    pub gradient_cosine_potential: Option<f64>,
    /// What the chosen model costs, where that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostResult>,
    /// Against the first arm, by the task's measure; none for the first arm itself.
    pub against_first: Option<Comparison>,
}

impl TaskResult {
    pub(super) fn new(layout: &Layout, state: &State, task: usize) -> Result<Self, CompareError> {
        let laid = &layout.tasks[task];
        let measure = laid.measure;
        let cells = layout.cells_of(task);
        let mut arms = cells
            .map(|cell| arm_result(layout, state, cell))
            .collect::<Result<Vec<_>, _>>()?;
        lineage::note(layout, state, task, &mut arms);
        let plan = layout.study.cost.as_ref();
        cost::compare(&mut arms, plan.and_then(|plan| plan.reference.as_deref()));
        if let Some((first, others)) = arms.split_first_mut() {
            for arm in others {
                let means = (arm.measured(measure), first.measured(measure));
                arm.against_first = Some(match means {
                    (Some(own), Some(first)) => compare(own, first, measure.more_is_better()),
                    _ => Comparison::INCOMPLETE,
                });
            }
        }
        compare_windows(layout, state, task, &mut arms)?;
        Ok(Self {
            name: laid.name.clone(),
            measure,
            length: laid.length.clone(),
            arms,
        })
    }

    /// The arm of this name, if it runs the task.
    pub fn arm(&self, name: &str) -> Option<&ArmResult> {
        self.arms.iter().find(|arm| arm.name == name)
    }

    /// The best mean by the task's measure.
    pub fn best(&self) -> Option<f64> {
        let means = self
            .arms
            .iter()
            .filter_map(|arm| arm.measured(self.measure));
        means
            .map(|summary| summary.mean)
            .filter(|mean| mean.is_finite())
            .min_by(|a, b| self.measure.order(*a, *b))
    }
}

impl ArmResult {
    /// The arm's mean in the unit that arms are compared by; none for an incomplete arm.
    pub fn measured(&self, measure: Measure) -> Option<&Summary> {
        match measure {
            Measure::NatsPerToken => self.validation_loss.as_ref(),
            Measure::BitsPerByte => self.validation_bits_per_byte.as_ref(),
            Measure::Accuracy => self.validation_accuracy.as_ref(),
        }
    }

    /// The mean with its deviation; of an incomplete arm what there is, the finished seeds one by one.
    pub fn shown(&self, measure: Measure) -> String {
        if let Some(summary) = self.measured(measure) {
            return summary.to_string();
        }
        let values = self.seeds.iter().map(|seed| format!("{:.4}", seed.value));
        let values: Vec<_> = values.collect();
        match values.is_empty() {
            true => format::NONE.into(),
            false => values.join(", "),
        }
    }
}

/// Adds the intervals over evaluation windows, of the arms that have a difference.
fn compare_windows(
    layout: &Layout,
    state: &State,
    task: usize,
    arms: &mut [ArmResult],
) -> Result<(), CompareError> {
    let measure = layout.tasks[task].measure;
    let scored = |cell| bootstrap::scored(layout, &chosen_runs(layout, state, cell), measure);
    let mut cells = layout.cells_of(task).zip(arms);
    let Some((first, _)) = cells.next() else {
        return Ok(());
    };
    let Some(first) = scored(first)? else {
        return Ok(());
    };
    for (cell, arm) in cells {
        let Some(found) = arm
            .against_first
            .as_mut()
            .filter(|found| found.difference.is_some())
        else {
            continue;
        };
        let own = scored(cell)?;
        found.windows = own.and_then(|own| bootstrap::interval(&own, &first));
    }
    Ok(())
}

fn arm_result(layout: &Layout, state: &State, cell: usize) -> Result<ArmResult, CompareError> {
    let laid = &layout.cells[cell];
    let measure = layout.measure(cell);
    let chosen = state.best_point(layout, cell);
    let complete = state.is_complete(layout, cell);
    let runs = chosen_runs(layout, state, cell);
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
    let cost = costs::measured(layout, state, cell)?;
    Ok(ArmResult {
        name: laid.name.clone(),
        recipe: layout.study.arm[laid.arm].recipe.clone(),
        points: points(layout, state, cell),
        chosen: chosen.map(|point| laid.points[point].name.clone()),
        at_edge: chosen
            .filter(|_| state.is_decided(layout, cell))
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
        validation_bits_per_byte: summary(|figures| figures.validation_bits_per_byte),
        validation_word_perplexity: summary(|figures| figures.validation_word_perplexity),
        validation_accuracy: summary(|figures| figures.validation_accuracy),
        test_loss: summary(|figures| figures.test_loss),
        test_bits_per_byte: summary(|figures| figures.test_bits_per_byte),
        test_word_perplexity: summary(|figures| figures.test_word_perplexity),
        test_accuracy: summary(|figures| figures.test_accuracy),
        contexts: contexts(&runs, complete),
        teacher_agreement: summary(|figures| figures.teacher_agreement),
        teacher_kl: summary(|figures| figures.teacher_kl),
        parameters: runs.first().map(|figures| figures.parameters),
        // What a loaded run was trained on is its own affair.
        tokens: runs
            .first()
            .filter(|_| layout.trains(cell) || layout.study.arm[laid.arm].ngram.is_some())
            .map(|figures| figures.tokens),
        step_seconds: middle(|figures| figures.step_seconds),
        tokens_per_second: middle(|figures| figures.tokens_per_second),
        seconds: every(|figures| Some(figures.seconds))
            .and_then(|values| Summary::of(&values))
            .map(|summary| summary.mean),
        flops: middle(|figures| figures.flops),
        model_bytes: runs.first().and_then(|figures| figures.model_bytes),
        compressed_of: None,
        state_bytes: runs.first().and_then(|figures| figures.state_bytes),
        peak_memory_bytes: middle(|figures| figures.peak_memory_bytes.map(|bytes| bytes as f64)),
        energy_joules: middle(|figures| figures.energy_joules),
        gradient_cosine: mean(|figures| figures.gradient_cosine),
        gradient_cosine_potential: mean(|figures| figures.gradient_cosine_potential),
        cost: cost.as_ref().map(CostResult::new),
        against_first: None,
    })
}

/// Means at every length that all runs have; none of an incomplete arm.
fn contexts(runs: &[&Figures], complete: bool) -> Vec<ContextResult> {
    let lengths = runs.first().into_iter().flat_map(|run| run.contexts.keys());
    let result = |&context: &u64| {
        let of = |run: &&Figures| run.contexts.get(&context).copied();
        let losses: Option<Vec<f64>> = runs.iter().map(of).collect();
        let loss = Summary::of(&losses?)?;
        Some(ContextResult { context, loss })
    };
    match complete {
        true => lengths.filter_map(result).collect(),
        false => Vec::new(),
    }
}

/// The finished runs of a cell's chosen point, in the order of the study's seeds.
pub(crate) fn chosen_runs<'a>(layout: &Layout, state: &'a State, cell: usize) -> Vec<&'a Figures> {
    let chosen = state.best_point(layout, cell).into_iter();
    let seeds = &layout.study.seeds;
    let runs = chosen.flat_map(|point| seeds.iter().map(move |&seed| RunId { cell, point, seed }));
    runs.filter_map(|run| state.finished.get(&run)).collect()
}

fn points(layout: &Layout, state: &State, cell: usize) -> Vec<PointResult> {
    let of = |(point, laid): (usize, &LaidPoint)| {
        let seed = layout.study.seeds.first();
        let run = seed.map(|&seed| RunId { cell, point, seed });
        let figures = run.and_then(|run| state.finished.get(&run));
        PointResult {
            name: laid.name.clone(),
            settings: laid.settings.clone(),
            first_seed: figures.map(|figures| layout.measure(cell).of(figures)),
            diverged: run.is_some_and(|run| state.diverged.contains(&run)),
            failed: run.is_some_and(|run| state.failed.contains(&run)),
        }
    };
    let laid = layout.cells[cell].points.iter().enumerate();
    laid.map(of).collect()
}

/// Keys of several numbers whose value at `chosen` is the least or the greatest of them.
pub(super) fn at_edge(points: &[LaidPoint], chosen: usize) -> Vec<String> {
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
