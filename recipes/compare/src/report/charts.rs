//! The charts of a task: curves, quality against cost, sweeps of the grid.

mod cost;

use kiln_cost::Figure;
use kiln_run::report::{Chart, Series, Style};

use crate::protocol::State;
use crate::results::{ArmResult, Measure, PointResult, TaskResult, chosen_runs};
use crate::{CompareError, Layout, curves};

pub(super) use cost::by_length;

/// The cost that training runs have by themselves.
pub(crate) const STEP_TIME: &str = "milliseconds of a training step";
/// How the titles of these charts begin.
pub(crate) const AGAINST: &str = "Quality against cost";
/// Costs that differ by less than this factor tell no arm from another.
const COST_DIFFERS: f64 = 1.02;
/// Bytes of a parameter on disk that differ by more than this factor are stored in another form.
const STORED_UNLIKE: f64 = 1.25;
/// An axis whose ends are further apart than this factor is logarithmic.
const LOG_FROM: f64 = 4.0;

/// The measure over training, and the loss where accuracy was not counted meanwhile.
pub(super) fn curves(
    layout: &Layout,
    state: &State,
    task: usize,
) -> Result<Vec<Chart>, CompareError> {
    let measure = layout.tasks[task].measure;
    for shown in [measure, Measure::NatsPerToken] {
        let mut series = Vec::new();
        for cell in layout.cells_of(task) {
            let runs = chosen_runs(layout, state, cell);
            let of = &layout.cells[cell];
            let curve = curves::validation(layout, &runs, shown, &of.name)?;
            series.push(curve.mark(of.arm));
        }
        series.retain(|series| !series.points.is_empty());
        if !series.is_empty() {
            return Ok(vec![Chart {
                title: "Validation while training: mean over seeds, band from the least to the greatest".into(),
                x_label: "step".into(),
                y_label: format!("{} on the windows of an evaluation", shown.unit()),
                series,
                ..Chart::default()
            }]);
        }
    }
    Ok(Vec::new())
}

/// Loss against context, where it was asked for at two lengths.
pub(super) fn contexts(layout: &Layout, number: usize, task: &TaskResult) -> Option<Chart> {
    let series = task
        .arms
        .iter()
        .zip(marks(layout, number))
        .map(|(arm, mark)| {
            let points = arm.contexts.iter();
            let points = points.map(|found| (found.context as f64, found.loss.mean));
            Series::new(&arm.name, points.collect()).mark(mark)
        });
    let series: Vec<_> = series.filter(|series| series.points.len() > 1).collect();
    (!series.is_empty()).then(|| Chart {
        title: "Loss against context, mean over seeds".into(),
        x_label: "most tokens seen".into(),
        y_label: "validation, nats/token".into(),
        series,
        log_x: true,
        ..Chart::default()
    })
}

/// Quality against every cost in which arms differ.
/// `arms` are the numbers of the task's arms in the study.
pub(crate) fn costs(task: &TaskResult, arms: &[usize]) -> Vec<Chart> {
    let of = |cost: &dyn Fn(&ArmResult) -> Option<f64>| task.arms.iter().map(cost).collect();
    let mut costs: Vec<(String, Vec<Option<f64>>)> = vec![
        (
            STEP_TIME.into(),
            of(&|arm| arm.step_seconds.map(|seconds| 1e3 * seconds)),
        ),
        (
            "parameters".into(),
            of(&|arm| arm.parameters.map(|count| count as f64)),
        ),
    ];
    if sizes_differ(task) {
        let bytes = of(&|arm| Some(arm.model_bytes? as f64 / f64::from(1 << 20)));
        costs.push(("MiB on disk".into(), bytes));
    }
    if let Some(length) = cost::longest(task) {
        let at =
            |figure: Figure, scale: f64| of(&|arm| Some(scale * cost::at(arm, figure, length)?));
        let after = format!("after {length} tokens, one sequence");
        costs.push((
            format!("milliseconds of a decoded token {after}"),
            at(Figure::Decode, 1e3),
        ));
        costs.push((
            format!("state in KiB {after}"),
            at(Figure::State, 1.0 / 1024.0),
        ));
    }
    let charts = costs.iter();
    charts
        .filter_map(|(label, costs)| scatter(task, arms, label, costs))
        .collect()
}

/// Whether models are stored unlike, so that their bytes say something else than their parameters.
fn sizes_differ(task: &TaskResult) -> bool {
    let share = |arm: &ArmResult| Some(arm.model_bytes? as f64 / arm.parameters? as f64);
    let shares = || task.arms.iter().filter_map(share);
    let (least, most) = (shares().reduce(f64::min), shares().reduce(f64::max));
    least
        .zip(most)
        .is_some_and(|(least, most)| most > STORED_UNLIKE * least)
}

/// The arm's own number, or that of the arm whose model it was compressed of: what is made of one model has one colour.
fn color(task: &TaskResult, arms: &[usize], arm: &ArmResult, own: usize) -> usize {
    let original = arm.compressed_of.as_ref();
    let place = original.and_then(|name| task.arms.iter().position(|other| other.name == *name));
    place.map_or(own, |place| arms[place])
}

/// The numbers of a task's arms in the study.
pub(super) fn marks(layout: &Layout, number: usize) -> Vec<usize> {
    let cells = layout.cells_of(number);
    cells.map(|cell| layout.cells[cell].arm).collect()
}

fn scatter(task: &TaskResult, arms: &[usize], label: &str, costs: &[Option<f64>]) -> Option<Chart> {
    let quality = |arm: &ArmResult| arm.measured(task.measure).map(|summary| summary.mean);
    let all = task.arms.iter().zip(arms).zip(costs);
    let known = all.filter_map(|((arm, mark), cost)| {
        let point = ((*cost)?, quality(arm)?);
        (point.0.is_finite() && point.1.is_finite()).then_some((arm, *mark, point))
    });
    let known: Vec<(&ArmResult, usize, (f64, f64))> = known.collect();
    let costs = || known.iter().map(|(.., point)| point.0);
    let (least, most) = (costs().reduce(f64::min)?, costs().reduce(f64::max)?);
    if known.len() < 2 || most <= COST_DIFFERS * least {
        return None;
    }
    let points: Vec<_> = known.iter().map(|(.., point)| *point).collect();
    let front = front(&points, task.measure);
    let names: Vec<_> = front.iter().map(|&at| known[at].0.name.as_str()).collect();
    let line = front.iter().map(|&at| points[at]).collect();
    let mut series = vec![
        Series::new("Pareto front", line)
            .style(Style::Dotted)
            .color(5),
    ];
    series.extend(known.iter().map(|(arm, mark, point)| {
        Series::new(&arm.name, vec![*point])
            .style(Style::Points)
            .color(color(task, arms, arm, *mark))
            .mark(*mark)
    }));
    Some(Chart {
        title: format!("{AGAINST}. On the Pareto front: {}", names.join(", ")),
        x_label: label.into(),
        y_label: format!("validation, {}", task.measure.unit()),
        series,
        log_x: least > 0.0 && most > LOG_FROM * least,
        plain_legend: true,
        ..Chart::default()
    })
}

/// Numbers of the points of (cost, quality) that no other point beats in one without being beaten in the other, by cost.
fn front(points: &[(f64, f64)], measure: Measure) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (points[a], points[b]);
        a.0.total_cmp(&b.0).then(measure.order(a.1, b.1))
    });
    let mut kept: Vec<usize> = Vec::new();
    for at in order {
        let beats = |best: &usize| measure.order(points[at].1, points[*best].1).is_lt();
        if kept.last().is_none_or(beats) {
            kept.push(at);
        }
    }
    kept
}

/// Validation against every number of the grid that was swept: at each value the best of the points that have it.
pub(super) fn sweeps(layout: &Layout, number: usize, task: &TaskResult) -> Vec<Chart> {
    let arms = marks(layout, number);
    let points = task.arms.iter().flat_map(|arm| &arm.points);
    let mut keys: Vec<&String> = points.flat_map(|point| point.settings.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .filter_map(|key| sweep(task, &arms, key))
        .collect()
}

fn sweep(task: &TaskResult, arms: &[usize], key: &str) -> Option<Chart> {
    let measure = task.measure;
    let mut series = Vec::new();
    for (arm, mark) in task.arms.iter().zip(arms) {
        let mut best: Vec<(f64, f64)> = Vec::new();
        for point in &arm.points {
            let Some(found) = at(point, key) else {
                continue;
            };
            match best.iter_mut().find(|known| known.0 == found.0) {
                Some(known) if measure.order(found.1, known.1).is_lt() => *known = found,
                Some(_) => {}
                None => best.push(found),
            }
        }
        best.sort_by(|a, b| a.0.total_cmp(&b.0));
        if best.len() > 1 {
            series.push(Series::new(&arm.name, best).mark(*mark));
        }
    }
    let values = || {
        series
            .iter()
            .flat_map(|series| series.points.iter().map(|point| point.0))
    };
    let (least, most) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    let name = key.rsplit('.').next().unwrap_or(key).replace('_', " ");
    let others = task.arms.iter().flat_map(|arm| &arm.points);
    let others = others.map(|point| point.settings.len()).max().unwrap_or(0) > 1;
    Some(Chart {
        title: format!(
            "Validation against {name}, first seed{}",
            match others {
                true => ": the best of the points with each value",
                false => "",
            }
        ),
        x_label: name,
        y_label: format!("validation, {}", measure.unit()),
        series,
        log_x: least > 0.0 && most >= LOG_FROM * least,
        plain_legend: true,
        ..Chart::default()
    })
}

/// A point's value of a key that is a number, with its measure at the first seed.
fn at(point: &PointResult, key: &str) -> Option<(f64, f64)> {
    let value = match point.settings.get(key)? {
        toml::Value::Float(value) => *value,
        toml::Value::Integer(value) => *value as f64,
        _ => return None,
    };
    Some((value, point.first_seed.filter(|value| value.is_finite())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_has_what_nothing_beats() {
        let points = [
            (1.0, 3.0),
            (2.0, 2.0),
            (2.0, 2.5),
            (3.0, 2.0),
            (4.0, 1.0),
            (5.0, 4.0),
        ];
        assert_eq!(front(&points, Measure::NatsPerToken), [0, 1, 4]);
        assert_eq!(front(&points, Measure::Accuracy), [0, 5]);
        assert!(front(&[], Measure::Accuracy).is_empty());
    }
}
