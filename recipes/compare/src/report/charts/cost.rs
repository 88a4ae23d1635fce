//! What chosen models cost by length.

use kiln_cost::Figure;
use kiln_run::report::{Chart, Series, Vertical};

use super::marks;
use crate::Layout;
use crate::results::{ArmResult, TaskResult};

/// An arm's figure after this many tokens, one sequence.
pub(super) fn at(arm: &ArmResult, figure: Figure, length: usize) -> Option<f64> {
    let curve = arm.cost.as_ref()?.curve(figure, 1);
    let found = curve.iter().find(|(other, _)| *other == length)?;
    Some(found.1)
}

/// The longest length at which decoding of one sequence was measured of every arm that was measured at all.
pub(super) fn longest(task: &TaskResult) -> Option<usize> {
    let costs = task.arms.iter().filter_map(|arm| arm.cost.as_ref());
    let lengths = costs.map(|cost| {
        let curve = cost.curve(Figure::Decode, 1);
        curve
            .into_iter()
            .map(|(length, _)| length)
            .collect::<Vec<_>>()
    });
    let common = lengths.reduce(|mut common, other| {
        common.retain(|length| other.contains(length));
        common
    });
    common?.last().copied()
}

/// Every figure over length, one chart a batch, with a line where an arm gets cheaper than the reference.
pub(crate) fn by_length(layout: &Layout, number: usize, task: &TaskResult) -> Vec<Chart> {
    let marks = marks(layout, number);
    let costs = task.arms.iter().filter_map(|arm| arm.cost.as_ref());
    let mut batches: Vec<_> = costs.flat_map(|cost| cost.batches()).collect();
    batches.sort_unstable();
    batches.dedup();
    let mut charts = Vec::new();
    for (place, &batch) in batches.iter().enumerate() {
        for figure in Figure::ALL {
            // A sequence has the same state in every batch.
            if figure != Figure::State || place == 0 {
                charts.extend(chart(task, &marks, figure, batch));
            }
        }
    }
    charts
}

fn chart(task: &TaskResult, marks: &[usize], figure: Figure, batch: usize) -> Option<Chart> {
    let (title, y_label) = match figure {
        Figure::Prefill => ("Prefill", "milliseconds a token"),
        Figure::Decode => ("Decoding", "milliseconds a token"),
        Figure::State => ("State of a sequence", "KiB"),
        Figure::Peak => ("Peak memory", "MiB"),
    };
    let scale = match figure {
        Figure::Prefill | Figure::Decode => 1e3,
        Figure::State => 1.0 / 1024.0,
        Figure::Peak => 1.0 / f64::from(1 << 20),
    };
    let mut series = Vec::new();
    let mut verticals = Vec::new();
    let mut than = None;
    for (arm, &mark) in task.arms.iter().zip(marks) {
        let Some(cost) = &arm.cost else {
            continue;
        };
        let curve = cost.curve(figure, batch).into_iter();
        let points: Vec<_> = curve
            .map(|(length, value)| (length as f64, scale * value))
            .collect();
        if points.is_empty() {
            continue;
        }
        series.push(Series::new(&arm.name, points).mark(mark));
        let crossover = cost.crossover(figure, batch);
        verticals.extend(crossover.and_then(|crossover| {
            let at = crossover.found.place()?;
            than = Some(&crossover.than);
            Some(Vertical {
                name: format!("{} from {at:.0} on", arm.name),
                at,
                color: Some(mark),
            })
        }));
    }
    let beside = match figure {
        Figure::State => String::new(),
        _ => format!(", batch {batch}"),
    };
    let lines = than.map_or(String::new(), |than| {
        format!(". Lines: less than {than} from there on")
    });
    (!series.is_empty()).then(|| Chart {
        title: format!("{title}{beside}{lines}"),
        x_label: "tokens before".into(),
        y_label: y_label.into(),
        series,
        verticals,
        log_x: true,
        log_y: true,
        plain_legend: true,
        ..Chart::default()
    })
}
