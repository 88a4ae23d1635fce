//! Tables for a terminal and the page, and `cost.html`.

mod charts;

use std::path::Path;

use kiln_run::report::Table;
use kiln_run::{Report, format};

use crate::{Cost, CostError, Figure, Pace, Row, RowCost, Spread, Weights, crossover};

/// The tables of a measurement: every model's own, then each against the first.
pub fn tables(costs: &[Cost]) -> Vec<Table> {
    let mut tables = vec![models(costs), training(costs)];
    tables.extend(costs.iter().map(rows));
    if let Some((first, others)) = costs.split_first() {
        for other in others {
            let batches = first.settings.batches.iter();
            tables.extend(batches.map(|&batch| against(first, other, batch)));
        }
        if !others.is_empty() {
            tables.push(crossovers(first, others));
        }
    }
    tables
}

/// Writes the page of one or several models that were measured together.
///
/// # Errors
/// A folder that cannot be written.
pub fn write(costs: &[Cost], path: &Path) -> Result<(), CostError> {
    let names: Vec<_> = costs.iter().map(|cost| cost.name.as_str()).collect();
    let report = Report {
        title: format!("What {} costs", names.join(" beside ")),
        subtitle: "Time, state and memory by length, on one device".into(),
        facts: costs.first().map(facts).unwrap_or_default(),
        charts: charts::all(costs),
        tables: tables(costs),
        ..Report::default()
    };
    Ok(report.write(path)?)
}

fn strings<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(String::from).to_vec()
}

/// Milliseconds in four digits.
fn milliseconds(seconds: f64) -> String {
    format::number(1e3 * seconds)
}

fn optional<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or(format::NONE.into(), text)
}

/// The quartiles beside a median.
fn quartiles(seconds: &Spread) -> String {
    let [low, high] = [seconds.lower_quartile, seconds.upper_quartile].map(milliseconds);
    format!("{low} to {high}")
}

/// Leaves out columns that have nothing to say.
fn told(mut table: Table) -> Table {
    let says = |column: usize| {
        let mut cells = table.rows.iter().filter_map(|row| row.get(column));
        cells.any(|cell| cell != format::NONE)
    };
    let kept: Vec<bool> = (0..table.columns.len()).map(says).collect();
    for row in table.rows.iter_mut().chain([&mut table.columns]) {
        let mut kept = kept.iter();
        row.retain(|_| kept.next().is_none_or(|kept| *kept));
    }
    table
}

fn models(costs: &[Cost]) -> Table {
    let row = |cost: &Cost| {
        vec![
            cost.name.clone(),
            match cost.weights {
                Weights::Trained => "trained".into(),
                Weights::Initial => "initial".into(),
            },
            cost.precision.name().into(),
            format::count(cost.parameters.all as f64),
            format::count(cost.parameters.trainable as f64),
            format::bytes(cost.weight_bytes),
            optional(cost.files, |files| format::bytes(files.weights)),
            optional(cost.files, |files| {
                format::bytes(files.tokenizer + files.config)
            }),
        ]
    };
    told(Table {
        title: "Models".into(),
        columns: strings([
            "model",
            "weights",
            "computes in",
            "parameters",
            "trained",
            "in memory",
            "weights file",
            "tokenizer + config",
        ]),
        rows: costs.iter().map(row).collect(),
        ..Table::default()
    })
}

fn training(costs: &[Cost]) -> Table {
    let row = |cost: &Cost| {
        let found = cost.training.measured();
        let pace = found.map(|training| &training.step);
        vec![
            cost.name.clone(),
            optional(found, |step| {
                format!("{} x {} x {}", step.accumulate, step.batch, step.seq)
            }),
            optional(pace, |pace| milliseconds(pace.seconds.median)),
            optional(pace, |pace| quartiles(&pace.seconds)),
            optional(pace, |pace| format::count(pace.tokens_per_second)),
            joules(pace),
            optional(found.and_then(|step| step.peak_memory_bytes), format::bytes),
        ]
    };
    let untold = |cost: &Cost| {
        let reason = cost.training.reason()?;
        Some(format!("{}: {reason}.", cost.name))
    };
    let notes: Vec<_> = costs.iter().filter_map(untold).collect();
    told(Table {
        title: "A training step".into(),
        columns: strings([
            "model",
            "tokens",
            "ms",
            "quartiles, ms",
            "tokens/s",
            "J/token",
            "peak memory",
        ]),
        rows: costs.iter().map(row).collect(),
        note: notes.join(" "),
        ..Table::default()
    })
}

fn joules(pace: Option<&Pace>) -> String {
    optional(pace.and_then(|pace| pace.energy), |energy| {
        format::number(energy.joules_per_token)
    })
}

fn rows(cost: &Cost) -> Table {
    let columns = strings([
        "batch",
        "length",
        "prefill, ms",
        "tokens/s",
        "a step, ms",
        "quartiles, ms",
        "tokens/s",
        "J/token",
        "state",
        "forward, tokens/s",
        "peak memory",
    ]);
    let untold = |row: &Row| {
        let reason = row.outcome.reason()?;
        Some(format!(
            "Batch {}, length {}: {reason}.",
            row.batch, row.length
        ))
    };
    let notes: Vec<_> = cost.rows.iter().filter_map(untold).collect();
    told(Table {
        title: format!("{} by length", cost.name),
        columns,
        rows: cost.rows.iter().map(cells).collect(),
        note: notes.join(" "),
        ..Table::default()
    })
}

fn cells(row: &Row) -> Vec<String> {
    let found = row.outcome.measured();
    let prefill = found.and_then(|row| row.prefill);
    let decode = found.and_then(|row| row.decode);
    let rate = |pace: Pace| format::count(pace.tokens_per_second);
    let forward = |row: &RowCost| format::count(row.forward.tokens_per_second);
    vec![
        row.batch.to_string(),
        row.length.to_string(),
        optional(prefill, |pace| milliseconds(pace.seconds.median)),
        optional(prefill, rate),
        optional(decode, |pace| milliseconds(pace.seconds.median)),
        optional(decode, |pace| quartiles(&pace.seconds)),
        optional(decode, rate),
        joules(decode.as_ref()),
        optional(found.and_then(|row| row.state_bytes), format::bytes),
        optional(found, forward),
        optional(found.and_then(|row| row.peak_memory_bytes), format::bytes),
    ]
}

/// A figure as a reader reads it, without its unit of time.
fn shown(figure: Figure, value: f64) -> String {
    match figure {
        Figure::Prefill | Figure::Decode => milliseconds(value),
        Figure::State | Figure::Peak => format::bytes(value as u64),
    }
}

fn against(first: &Cost, other: &Cost, batch: usize) -> Table {
    let mut columns = strings(["length"]);
    for figure in Figure::ALL {
        let unit = match figure {
            Figure::Prefill | Figure::Decode => ", ms",
            Figure::State | Figure::Peak => "",
        };
        let name = figure.name();
        columns.push(format!("{name} of {}{unit}", first.name));
        columns.push(format!("of {}", other.name));
        columns.push("ratio".into());
    }
    let row = |&length: &usize| {
        let both = [first, other].map(|cost| cost.at(batch, length));
        let mut row = vec![length.to_string()];
        for figure in Figure::ALL {
            let [own, others] = both.map(|found| figure.of(found?));
            row.push(optional(own, |value| shown(figure, value)));
            row.push(optional(others, |value| shown(figure, value)));
            let ratio = own.zip(others).map(|(own, other)| own / other);
            row.push(optional(ratio, format::number));
        }
        row
    };
    told(Table {
        title: format!("{} against {}, batch {batch}", first.name, other.name),
        columns,
        rows: first.settings.lengths.iter().map(row).collect(),
        best: None,
        bold: Vec::new(),
        note: "A ratio below one is in favour of the first.".into(),
    })
}

fn crossovers(first: &Cost, others: &[Cost]) -> Table {
    let mut table = Table {
        title: format!("Where {} is cheaper, in tokens", first.name),
        columns: strings(["than", "batch", "prefill", "a step", "state", "peak memory"]),
        note: "Between two lengths the ratio is interpolated, both on logarithmic scales. Charts have a line where one begins."
            .into(),
        ..Table::default()
    };
    for other in others {
        for &batch in &first.settings.batches {
            let mut row = vec![other.name.clone(), batch.to_string()];
            let found = Figure::ALL.map(|figure| {
                let curves = [first, other].map(|cost| figure.curve(cost, batch));
                crossover(&curves[0], &curves[1]).to_string()
            });
            row.extend(found);
            table.rows.push(row);
        }
    }
    table
}

fn facts(cost: &Cost) -> Vec<(String, String)> {
    let made = &cost.provenance;
    let machine = &made.hardware;
    let named = |name: &str, value: String| (name.to_string(), value);
    let mut facts = vec![
        named("backend", cost.backend.clone()),
        named(
            "processor",
            optional(machine.processor.clone(), |name| name),
        ),
        named(
            "threads",
            machine.threads.unwrap_or(machine.cores).to_string(),
        ),
        named("memory", optional(machine.memory_bytes, format::bytes)),
        named("budget", format::duration(cost.settings.seconds)),
        named("measured", made.started.clone()),
        named("command", made.command.join(" ")),
        named("kiln", made.kiln.clone()),
    ];
    if let Some(commit) = &made.commit {
        let dirty = if commit.dirty { ", with changes" } else { "" };
        facts.push(named("commit", format!("{}{dirty}", commit.hash)));
    }
    let versions = made.versions.iter();
    facts.extend(versions.map(|(name, version)| named(name, version.clone())));
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;
    use crate::cost::testing::{cost, row};

    fn pair() -> [Cost; 2] {
        let lengths = [64, 256, 1024];
        let linear = |length: usize| [500e-6 * length as f64, 1e-3];
        let square = |length: usize| [1e-6 * (length * length) as f64, 4e-6 * length as f64];
        let rows = |figures: &dyn Fn(usize) -> [f64; 2], state: &dyn Fn(usize) -> u64| {
            let row = |length| row(1, length, figures(length), state(length));
            lengths.map(row).to_vec()
        };
        let mut first = cost("bk", rows(&linear, &|_| 4096));
        first.rows.push(Row {
            batch: 1,
            length: 4096,
            outcome: Outcome::LeftOut {
                reason: "the time was used up".into(),
            },
        });
        [
            first,
            cost("attention", rows(&square, &|length| 64 * length as u64)),
        ]
    }

    #[test]
    fn tables_have_figures_ratios_and_crossovers() {
        let text: String = tables(&pair()).iter().map(Table::text).collect();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = text.lines().map(words).collect();
        for line in [
            "bk trained bf16 100 90 400 B 500 B 30 B",
            "bk 1 x 4 x 16 250.0 225.0 to 312.5 4 0.500 1.0 MiB",
            // There is no column for a peak that no row has.
            "batch length prefill, ms tokens/s a step, ms quartiles, ms tokens/s J/token state forward, tokens/s",
            "Batch 1, length 4096: the time was used up.",
            "64 32.00 4.096 7.813 1.000 0.256 3.906 4.0 KiB 4.0 KiB 1.000",
            "1024 512.0 1049 0.488 1.000 4.096 0.244 4.0 KiB 64.0 KiB 0.0625",
            "attention 1 from 500 on from 250 on from 64 on not measured",
        ] {
            assert!(
                lines.iter().any(|found| found == line),
                "`{line}` is not in\n{text}"
            );
        }
    }

    #[test]
    fn the_page_draws_every_figure_and_names_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cost.html");
        write(&pair(), &path).unwrap();
        let page = std::fs::read_to_string(&path).unwrap();
        for part in [
            "What bk beside attention costs",
            "Prefill, batch 1",
            "A step of decoding, batch 1",
            "State of a sequence, batch 1",
            "bk against attention, batch 1",
            "less than attention from 500 on</text>",
            "less than attention from 250 on</text>",
            "<dt>burn</dt><dd>0.22.1</dd>",
        ] {
            assert!(page.contains(part), "`{part}` is not in the page");
        }
        assert!(!page.contains("http"), "the page asks for nothing");
    }
}
