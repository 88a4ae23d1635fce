//! The tables of a study, for the page and the report alike.

mod cost;

use std::collections::BTreeSet;

use kiln_run::format;
use kiln_run::report::Table;

use crate::results::{ArmResult, Measure, Results, TaskResult};
use crate::statistics::Summary;
use crate::study::Arm;

pub use cost::{by_length, costs, crossovers};

/// Arms against tasks, the best of each task in bold; none for a study without tasks.
pub fn overview(results: &Results) -> Option<Table> {
    results.tasks.first()?.name.as_ref()?;
    let head = |task: &TaskResult| {
        let name = task.name.as_deref().unwrap_or_default();
        format!("{name}, {}", task.measure.unit())
    };
    let mut table = Table {
        title: "Every arm on every task".into(),
        columns: ["arm".to_string()]
            .into_iter()
            .chain(results.tasks.iter().map(head))
            .collect(),
        note: "Validation. Accuracy is better where it is greater, loss where it is less. Best in bold.".into(),
        ..Table::default()
    };
    for (row, arm) in results.study.arm.iter().enumerate() {
        let mut cells = vec![arm.name.clone()];
        for (column, task) in results.tasks.iter().enumerate() {
            let found = task.arm(&arm.name);
            let mean = found.and_then(|arm| arm.measured(task.measure));
            if mean.is_some_and(|summary| Some(summary.mean) == task.best()) {
                table.bold.push((row, column + 1));
            }
            cells.push(found.map_or(String::new(), |arm| arm.shown(task.measure)));
        }
        table.rows.push(cells);
    }
    Some(table)
}

/// A score of an arm: its head, its mean over seeds, and whether more of it is better.
type Score = (&'static str, fn(&ArmResult) -> Option<Summary>, bool);

const SCORES: [(Option<Measure>, Score); 10] = [
    (
        Some(Measure::NatsPerToken),
        ("validation, nats/token", |arm| arm.validation_loss, false),
    ),
    (
        Some(Measure::BitsPerByte),
        (
            "validation, bits/byte",
            |arm| arm.validation_bits_per_byte,
            false,
        ),
    ),
    (
        None,
        (
            "validation, perplexity/word",
            |arm| arm.validation_word_perplexity,
            false,
        ),
    ),
    (
        Some(Measure::Accuracy),
        ("validation, accuracy", |arm| arm.validation_accuracy, true),
    ),
    (None, ("test, nats/token", |arm| arm.test_loss, false)),
    (
        None,
        ("test, bits/byte", |arm| arm.test_bits_per_byte, false),
    ),
    (
        None,
        (
            "test, perplexity/word",
            |arm| arm.test_word_perplexity,
            false,
        ),
    ),
    (None, ("test, accuracy", |arm| arm.test_accuracy, true)),
    (
        None,
        (
            "agreement with the teacher",
            |arm| arm.teacher_agreement,
            true,
        ),
    ),
    (
        None,
        (
            "KL(teacher to arm), nats/token",
            |arm| arm.teacher_kl,
            false,
        ),
    ),
];

/// From this on decimals say nothing: perplexities per word of a model that has learnt little.
const MANY: f64 = 1000.0;

/// Mean and deviation in a few digits.
fn in_digits(summary: &Summary) -> String {
    let deviation = summary.sd.map(|sd| format!(" ± {}", format::number(sd)));
    format::number(summary.mean) + &deviation.unwrap_or_default()
}

/// Scores and costs of every arm on a task.
pub fn arms(results: &Results, task: &TaskResult) -> Table {
    let is_shown = |measure: Option<Measure>, score: &Score| {
        measure == Some(task.measure) || task.arms.iter().any(|arm| score.1(arm).is_some())
    };
    let scores = SCORES
        .iter()
        .filter(|(measure, score)| is_shown(*measure, score));
    let scores: Vec<_> = scores.collect();
    let costs = ["parameters", "tokens", "step", "tokens/s", "time of a run"];
    let heads = scores.iter().map(|(_, (head, ..))| *head);
    let columns = ["arm", "setting", "seeds"].into_iter().chain(heads);
    let mut table = Table {
        title: "Arms".into(),
        columns: columns.chain(costs).map(String::from).collect(),
        ..Table::default()
    };
    let counts = |arm: &&Arm| arm.ngram.is_some() && task.arm(&arm.name).is_some();
    let counting: Vec<_> = results.study.arm.iter().filter(counts).collect();
    if !counting.is_empty() {
        let names: Vec<_> = counting.iter().map(|arm| arm.name.as_str()).collect();
        table.note = format!(
            "Nothing is trained in {}: its parameters are the counts that it keeps, 12 bytes each and as many for every context, and its \
             tokens are those that it counted, each once. Seeds change nothing.",
            names.join(", ")
        );
    }
    let loaded = |arm: &&Arm| arm.runs.is_some() && task.arm(&arm.name).is_some();
    let loaded = results.study.arm.iter().filter(loaded);
    let loaded: Vec<_> = loaded.map(|arm| arm.name.as_str()).collect();
    if !loaded.is_empty() {
        let gap = if table.note.is_empty() { "" } else { " " };
        table.note += &format!(
            "{gap}Nothing is trained in {}: finished runs are scored, on the windows of the others.",
            loaded.join(", ")
        );
    }
    let mut stated = results.study.task.iter();
    let of = stated.find(|stated| Some(&stated.name) == task.name.as_ref());
    if let Some(of) = of.and_then(|stated| stated.of.as_ref()) {
        table.note = format!("Nothing is trained: the chosen models of {of} are scored.");
    }
    for (number, arm) in task.arms.iter().enumerate() {
        let all = results.study.seeds.len();
        let seeds = match arm.complete {
            true => all.to_string(),
            false => format!("{} of {all}", arm.seeds.len()),
        };
        let chosen = arm.chosen.clone().unwrap_or(format::NONE.into());
        let mut row = vec![arm.name.clone(), chosen, seeds];
        for (measure, score) in &scores {
            let summary = score.1(arm);
            if summary.is_some_and(|summary| Some(summary.mean) == best(task, score)) {
                table.bold.push((number, row.len()));
            }
            row.push(match summary {
                Some(summary) if summary.mean >= MANY => in_digits(&summary),
                Some(summary) => summary.to_string(),
                None if *measure == Some(task.measure) => arm.shown(task.measure),
                None => format::NONE.into(),
            });
        }
        row.extend(costs_of(arm));
        table.rows.push(row);
    }
    table
}

fn best(task: &TaskResult, (_, mean, more_is_better): &Score) -> Option<f64> {
    let means = task.arms.iter().filter_map(mean);
    let means = means
        .map(|summary| summary.mean)
        .filter(|mean| mean.is_finite());
    match more_is_better {
        true => means.max_by(f64::total_cmp),
        false => means.min_by(f64::total_cmp),
    }
}

fn costs_of(arm: &ArmResult) -> [String; 5] {
    let none = || format::NONE.to_string();
    [
        arm.parameters.map_or_else(none, |n| n.to_string()),
        arm.tokens.map_or_else(none, |n| format::count(n as f64)),
        arm.step_seconds
            .map_or_else(none, |s| format!("{:.2} ms", 1e3 * s)),
        arm.tokens_per_second.map_or_else(none, format::count),
        arm.seconds.map_or_else(none, format::duration),
    ]
}

/// Every other arm against the first; none where there is no other.
pub fn verdicts(task: &TaskResult) -> Option<Table> {
    let first = task.arms.first().filter(|_| task.arms.len() > 1)?;
    let better = match task.measure.more_is_better() {
        true => "positive is more accurate",
        false => "negative is less loss",
    };
    let difference = format!("difference, {}", task.measure.unit());
    let compared = || task.arms.iter().filter_map(|arm| arm.against_first);
    let has_windows = compared().any(|found| found.windows.is_some());
    let none = || format::NONE.to_string();
    let interval = |[low, high]: [f64; 2]| format!("{low:+.4} to {high:+.4}");
    let row = |arm: &ArmResult| {
        let found = arm.against_first?;
        let windows = has_windows.then(|| found.windows.map_or_else(none, interval));
        let cells = [
            arm.name.clone(),
            found
                .difference
                .map_or_else(none, |difference| format!("{difference:+.4}")),
            found.interval.map_or_else(none, interval),
        ];
        let verdict = found.verdict.text().to_string();
        Some(cells.into_iter().chain(windows).chain([verdict]).collect())
    };
    let head = ["arm", &difference, "95 % interval over seeds"];
    let windows = has_windows.then_some("95 % interval over windows");
    let columns = head.into_iter().chain(windows).chain(["verdict"]);
    let on_windows = match has_windows {
        true => " Over windows: a paired bootstrap of the evaluation windows, seeds averaged.",
        false => "",
    };
    Some(Table {
        title: format!("Against {}", first.name),
        columns: columns.map(String::from).collect(),
        rows: task.arms.iter().filter_map(row).collect(),
        note: format!(
            "Over seeds: Welch's interval of the difference of means, which gives the verdict; {better}.{on_windows} Each interval \
             stands for itself: of twenty arms that are equal to the first, one is expected to look different."
        ),
        ..Table::default()
    })
}

/// Every point of every grid at the first seed.
pub fn grids(results: &Results, task: &TaskResult) -> Table {
    let seed = results.study.seeds.first().copied().unwrap_or_default();
    let value = format!("validation at seed {seed}, {}", task.measure.unit());
    let mut table = Table {
        title: "Grids".into(),
        columns: ["arm", "setting", &value].map(String::from).to_vec(),
        note: edges(task),
        ..Table::default()
    };
    for arm in &task.arms {
        for point in &arm.points {
            if arm.chosen.as_ref() == Some(&point.name) && point.first_seed.is_some() {
                table.bold.push((table.rows.len(), 2));
            }
            let text = match point.first_seed {
                Some(value) => format!("{value:.4}"),
                None if point.diverged => "diverged".into(),
                None if point.failed => "failed".into(),
                None => format::NONE.into(),
            };
            let row = vec![arm.name.clone(), point.name.clone(), text];
            table.rows.push(row);
        }
    }
    table
}

/// What is to be said of arms that chose the edge of their grid.
fn edges(task: &TaskResult) -> String {
    let edge = |arm: &&ArmResult| !arm.at_edge.is_empty();
    let text = |arm: &ArmResult| format!("{} ({})", arm.name, arm.at_edge.join(", "));
    let texts: Vec<_> = task.arms.iter().filter(edge).map(text).collect();
    match texts.is_empty() {
        true => String::new(),
        false => format!(
            "Chose the edge of their grid, so that a better value may lie beyond: {}.",
            texts.join("; ")
        ),
    }
}

/// Loss against context, arms against lengths, where it was asked for.
pub fn contexts(task: &TaskResult) -> Option<Table> {
    let all = task.arms.iter().flat_map(|arm| &arm.contexts);
    let lengths: BTreeSet<u64> = all.map(|found| found.context).collect();
    if lengths.is_empty() {
        return None;
    }
    let mut table = Table {
        title: "Loss against context".into(),
        columns: ["arm".to_string()]
            .into_iter()
            .chain(lengths.iter().map(u64::to_string))
            .collect(),
        note: "Validation, nats a token, by the most tokens that a target sees: windows slide, so that every target counts once at \
               every length. Best in bold."
            .into(),
        ..Table::default()
    };
    let loss = |arm: &ArmResult, length: u64| {
        let found = arm.contexts.iter().find(|found| found.context == length);
        found.map(|found| found.loss)
    };
    for (row, arm) in task.arms.iter().enumerate() {
        let mut cells = vec![arm.name.clone()];
        for (column, &length) in lengths.iter().enumerate() {
            let means = task.arms.iter().filter_map(|arm| loss(arm, length));
            let best = means.map(|loss| loss.mean).min_by(f64::total_cmp);
            let own = loss(arm, length);
            if own.is_some_and(|own| Some(own.mean) == best) {
                table.bold.push((row, column + 1));
            }
            cells.push(own.map_or(format::NONE.into(), |own| own.to_string()));
        }
        table.rows.push(cells);
    }
    Some(table)
}

/// Agreement of gradients with the exact ones, where they were probed.
pub fn gradients(task: &TaskResult) -> Option<Table> {
    task.arms.iter().find_map(|arm| arm.gradient_cosine)?;
    let show =
        |value: Option<f64>| value.map_or(format::NONE.to_string(), |value| format!("{value:.4}"));
    let row = |arm: &ArmResult| {
        vec![
            arm.name.clone(),
            show(arm.gradient_cosine),
            show(arm.gradient_cosine_potential),
        ]
    };
    Some(Table {
        title: "Gradients".into(),
        columns: ["arm", "all parameters", "potentials"].map(String::from).to_vec(),
        rows: task.arms.iter().map(row).collect(),
        note: "Cosine between the gradient of the recipe's rule and the exact one, at the same weights and tokens: mean over \
               the probed steps and seeds."
            .into(),
        ..Table::default()
    })
}
