//! `report.html`, the study as one page to look at, and `results.csv`, one row a run.

pub(crate) mod charts;

use std::path::Path;

use kiln_run::report::{HeatMap, Part, Report, Sample, Section, Table};
use kiln_run::{FileError, atomic_write};

use crate::child::quoted;
use crate::page::{command_line, made_with, protocol};
use crate::protocol::State;
use crate::results::{Measure, Results, TaskResult, chosen_runs};
use crate::{CompareError, Layout, curves, tables};

/// Characters of a sample that are shown.
const SAMPLE: usize = 700;

/// Writes everything that a study leaves in its output folder: `results.json`, `results.md`, `results.csv`, `report.html`, and
/// `costs.csv` where costs were measured.
///
/// # Errors
/// A folder that cannot be written, a damaged file of a run.
pub fn write(layout: &Layout, state: &State, results: &Results) -> Result<(), CompareError> {
    results.write(&layout.out)?;
    atomic_write(&layout.out.join("results.csv"), |file| {
        let mut rows = csv::Writer::from_writer(file);
        results
            .runs
            .iter()
            .try_for_each(|run| rows.serialize(run))?;
        rows.flush()
    })?;
    write_costs(results, &layout.out.join("costs.csv"))?;
    let report = report(layout, state, results)?;
    report
        .write(&layout.out.join("report.html"))
        .map_err(FileError::into)
}

/// `costs.csv`, one row for every arm, batch and length; none where nothing was measured.
fn write_costs(results: &Results, path: &Path) -> Result<(), FileError> {
    let mut rows = Vec::new();
    for task in &results.tasks {
        for arm in &task.arms {
            let measured = arm.cost.iter().flat_map(|cost| &cost.rows);
            rows.extend(measured.map(|row| (&task.name, &arm.name, row)));
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    atomic_write(path, |file| {
        let mut table = csv::Writer::from_writer(file);
        let heads = [
            "task",
            "arm",
            "batch",
            "length",
            "prefill_seconds_per_token",
            "decode_seconds_per_token",
            "state_bytes",
            "peak_memory_bytes",
            "reason",
        ];
        table.write_record(heads)?;
        for (task, arm, row) in rows {
            table.serialize((
                task,
                arm,
                row.batch,
                row.length,
                row.prefill_seconds_per_token,
                row.decode_seconds_per_token,
                row.state_bytes,
                row.peak_memory_bytes,
                &row.reason,
            ))?;
        }
        table.flush()
    })
}

/// The page.
///
/// # Errors
/// A damaged file of a run.
pub fn report(layout: &Layout, state: &State, results: &Results) -> Result<Report, CompareError> {
    let mut sections = vec![overview(results)];
    for (number, task) in results.tasks.iter().enumerate() {
        sections.push(Section {
            title: match &task.name {
                Some(name) => format!("Task {name}"),
                None => "Results".into(),
            },
            parts: of_task(layout, state, results, number, task)?,
        });
    }
    sections.push(samples(layout, state)?);
    sections.push(provenance(layout, state, results)?);
    Ok(Report {
        title: results.name.clone(),
        subtitle: results.study.description.clone(),
        highlights: highlights(layout, state, results),
        sections,
        ..Report::default()
    })
}

fn highlights(layout: &Layout, state: &State, results: &Results) -> Vec<(String, String)> {
    let named = |name: &str, value: String| (name.to_string(), value);
    let runs = format!("{} of {}", state.settled(layout), layout.total());
    let mut all = vec![
        named("arms", results.study.arm.len().to_string()),
        named("seeds", results.study.seeds.len().to_string()),
        named("runs", runs),
    ];
    if let [task] = &results.tasks[..]
        && let Some(best) = task.best()
    {
        let arm = task.arms.iter().find(|arm| {
            let mean = arm.measured(task.measure).map(|summary| summary.mean);
            mean == Some(best)
        });
        all.extend(arm.map(|arm| named("best arm", arm.name.clone())));
        all.push(named(
            &format!("its {}", task.measure.unit()),
            format!("{best:.4}"),
        ));
    } else {
        all.insert(1, named("tasks", results.tasks.len().to_string()));
    }
    all
}

fn overview(results: &Results) -> Section {
    let mut parts = Vec::new();
    if !results.complete {
        let text = "Not every arm is complete: what is there is shown, without means and verdicts.";
        parts.push(Part::Text(text.into()));
    }
    for (what, titles) in [("Diverged", &results.diverged), ("Failed", &results.failed)] {
        if !titles.is_empty() {
            parts.push(Part::Text(format!("{what}: {}.", titles.join("; "))));
        }
    }
    parts.extend(tables::overview(results).map(Part::Table));
    parts.extend(heat_maps(results).into_iter().map(Part::HeatMap));
    Section {
        title: "Overview".into(),
        parts,
    }
}

/// Tasks of several lengths that are measured alike.
struct Family<'a> {
    name: &'a str,
    measure: Measure,
    tasks: Vec<(u64, &'a TaskResult)>,
}

/// One map for every family of at least two tasks.
fn heat_maps(results: &Results) -> Vec<HeatMap> {
    let mut families: Vec<Family> = Vec::new();
    for task in &results.tasks {
        let Some((name, length)) = &task.length else {
            continue;
        };
        let (measure, own) = (task.measure, (*length, task));
        let alike = |family: &&mut Family| family.name == name && family.measure == measure;
        match families.iter_mut().find(alike) {
            Some(family) => family.tasks.push(own),
            None => families.push(Family {
                name,
                measure,
                tasks: vec![own],
            }),
        }
    }
    families.retain(|family| family.tasks.len() > 1);
    for family in &mut families {
        family.tasks.sort_by_key(|(length, _)| *length);
    }
    families
        .iter()
        .map(|family| heat_map(results, family))
        .collect()
}

fn heat_map(results: &Results, family: &Family) -> HeatMap {
    let Family {
        name,
        measure,
        tasks,
    } = family;
    // Tasks of one length differ in something else, which their names tell.
    let is_alone = |length: u64| tasks.iter().filter(|(other, _)| *other == length).count() == 1;
    let column = |(length, task): &(u64, &TaskResult)| match is_alone(*length) {
        true => length.to_string(),
        false => task.name.clone().unwrap_or_default(),
    };
    let mean = |task: &TaskResult, arm: &str| Some(task.arm(arm)?.measured(*measure)?.mean);
    let rows = results.study.arm.iter().map(|arm| {
        let values = tasks.iter().map(|(_, task)| mean(task, &arm.name));
        (arm.name.clone(), values.collect())
    });
    let rows: Vec<(String, Vec<Option<f64>>)> = rows.collect();
    let values = || {
        rows.iter()
            .flat_map(|(_, values)| values.iter().flatten().copied())
    };
    let range = match measure {
        Measure::Accuracy => (0.0, 1.0),
        // The least loss has the fullest shade.
        _ => (
            values().fold(f64::NEG_INFINITY, f64::max),
            values().fold(f64::INFINITY, f64::min),
        ),
    };
    HeatMap {
        title: format!("{name}: {} against length", measure.unit()),
        axes: "arm, by tokens of a sequence".into(),
        columns: tasks.iter().map(column).collect(),
        rows,
        range,
        note: "Validation, mean over seeds; the fuller the shade the better.".into(),
    }
}

fn of_task(
    layout: &Layout,
    state: &State,
    results: &Results,
    number: usize,
    task: &TaskResult,
) -> Result<Vec<Part>, CompareError> {
    let mut parts = vec![Part::Table(tables::arms(results, task))];
    parts.extend(tables::verdicts(task).map(Part::Table));
    let curves = charts::curves(layout, state, number)?;
    parts.extend(curves.into_iter().map(Part::Chart));
    parts.extend(tables::contexts(task).map(Part::Table));
    parts.extend(charts::contexts(layout, number, task).map(Part::Chart));
    if results.machines.len() > 1 && task.arms.len() > 1 {
        let text = "Runs were made on more than one machine or with other numbers of threads: their times do not compare.";
        parts.push(Part::Text(text.into()));
    }
    parts.extend(tables::costs(task).map(Part::Table));
    let costs = charts::costs(task, &charts::marks(layout, number));
    parts.extend(costs.into_iter().map(Part::Chart));
    parts.extend(tables::crossovers(task).map(Part::Table));
    let by_length = charts::by_length(layout, number, task);
    parts.extend(by_length.into_iter().map(Part::Chart));
    parts.extend(tables::by_length(task).map(Part::Folded));
    parts.extend(
        charts::sweeps(layout, number, task)
            .into_iter()
            .map(Part::Chart),
    );
    parts.extend(tables::gradients(task).map(Part::Table));
    parts.push(Part::Folded(Table {
        title: format!(
            "All points of the grids ({})",
            task.arms.iter().map(|arm| arm.points.len()).sum::<usize>()
        ),
        ..tables::grids(results, task)
    }));
    Ok(parts)
}

/// One sample of every arm on every task: the chosen point's first seed.
fn samples(layout: &Layout, state: &State) -> Result<Section, CompareError> {
    let mut samples = Vec::new();
    for (number, cell) in layout.cells.iter().enumerate() {
        let Some(run) = chosen_runs(layout, state, number).first().copied() else {
            continue;
        };
        if let Some(text) = curves::sample(layout, run)? {
            samples.push(Sample {
                title: format!("{}, seed {}", cell.title, run.seed),
                prompt: String::new(),
                text: shortened(text.trim()),
            });
        }
    }
    let parts = match samples.is_empty() {
        true => Vec::new(),
        false => vec![Part::Samples(samples)],
    };
    Ok(Section {
        title: "Samples".into(),
        parts,
    })
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SAMPLE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

fn provenance(layout: &Layout, state: &State, results: &Results) -> Result<Section, CompareError> {
    let mut parts = vec![
        Part::Text(protocol(results)),
        Part::Source {
            title: "Command".into(),
            text: command_line(results),
        },
    ];
    let source = |(name, text): &(String, String)| Part::Source {
        title: name.clone(),
        text: text.clone(),
    };
    parts.extend(layout.files.iter().map(source));
    parts.extend(recipes(layout, state)?);
    let runs = results
        .runs
        .iter()
        .filter_map(|run| run.provenance.as_ref());
    let lines: Vec<_> = runs
        .map(|made| {
            let words: Vec<_> = made.command.iter().map(|word| quoted(word)).collect();
            words.join(" ")
        })
        .collect();
    if !lines.is_empty() {
        parts.push(Part::Source {
            title: format!("Commands of the {} runs", lines.len()),
            text: lines.join("\n"),
        });
    }
    parts.push(Part::Facts(made_with(results)));
    Ok(Section {
        title: "How it was made".into(),
        parts,
    })
}

/// Every key of every arm's recipe on every task, as its chosen point's first run wrote it down.
fn recipes(layout: &Layout, state: &State) -> Result<Vec<Part>, CompareError> {
    let mut parts = Vec::new();
    for (number, cell) in layout.cells.iter().enumerate() {
        let Some(run) = chosen_runs(layout, state, number).first().copied() else {
            continue;
        };
        parts.push(Part::Source {
            title: format!("Recipe of {}, {}, seed {}", cell.title, run.point, run.seed),
            text: curves::recipe(layout, run)?,
        });
    }
    Ok(parts)
}

#[cfg(test)]
mod tests;
