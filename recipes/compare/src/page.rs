//! `results.md`: the same for people.

use kiln_run::format;
use kiln_run::report::Table;

use crate::child::quoted;
use crate::results::{Results, TaskResult};
use crate::study::Difference;
use crate::tables;

/// The results as Markdown.
pub fn markdown(results: &Results) -> String {
    let mut page = format!("# {}\n\n", results.name);
    let study = &results.study;
    if !study.description.is_empty() {
        page += &format!("{}\n\n", study.description);
    }
    page += &format!("```sh\n{}\n```\n\n", command_line(results));
    page += &format!("{}\n\n", protocol(results));
    if !results.complete {
        page += "**Not every arm is complete: the tables show what is there, without means and verdicts.**\n\n";
    }
    for (what, titles) in [("diverged", &results.diverged), ("failed", &results.failed)] {
        for title in titles {
            page += &format!("- {what}: {title}\n");
        }
    }
    if !results.diverged.is_empty() || !results.failed.is_empty() {
        page.push('\n');
    }
    if let Some(table) = tables::overview(results) {
        page += &section("##", &table);
    }
    for task in &results.tasks {
        page += &of_task(results, task);
    }
    page += "## Made with\n\n";
    for (name, value) in made_with(results) {
        page += &format!("- {name} {value}\n");
    }
    page
}

fn of_task(results: &Results, task: &TaskResult) -> String {
    let (mut page, level) = match &task.name {
        Some(name) => (format!("## Task {name}\n\n"), "###"),
        None => (String::new(), "##"),
    };
    let tables = [
        Some(tables::arms(results, task)),
        tables::verdicts(task),
        tables::costs(task),
        tables::by_length(task),
        tables::crossovers(task),
        tables::contexts(task),
        Some(tables::grids(results, task)),
        tables::gradients(task),
    ];
    for table in tables.iter().flatten() {
        page += &section(level, table);
    }
    page
}

/// The command line that wrote the results.
pub(crate) fn command_line(results: &Results) -> String {
    let words: Vec<_> = results.command.iter().map(|word| quoted(word)).collect();
    words.join(" ")
}

/// How the figures came about, in a paragraph.
pub(crate) fn protocol(results: &Results) -> String {
    let seeds: Vec<_> = results.study.seeds.iter().map(u64::to_string).collect();
    let (first, later) = (&seeds[0], seeds.len() - 1);
    let on = if results.study.task.is_empty() {
        ""
    } else {
        " on every task"
    };
    let mut text = format!(
        "Every arm ran its grid{on} with seed {first}; the point with the best validation ran with {later} more ({}). ",
        seeds.join(", ")
    );
    text += "Figures are mean ± sample standard deviation over seeds";
    text += ", of the weights of each run's best evaluation. Best in bold.";
    text += &budgets(results);
    if !results.study.allow.is_empty() {
        let allow = &results.study.allow;
        let differences = allow.iter().filter(|what| **what != Difference::Control);
        let allowed: Vec<_> = differences.map(ToString::to_string).collect();
        if !allowed.is_empty() {
            text += &format!(" Arms were allowed to differ in: {}.", allowed.join(", "));
        }
        if allow.contains(&Difference::Control) {
            text += " Students were allowed to have no control without a teacher.";
        }
    }
    text
}

/// What arms had to spend, where the study says so.
fn budgets(results: &Results) -> String {
    let study = &results.study;
    let mut text = String::new();
    let of_tasks = study.task.iter().filter_map(|task| {
        let budget = task.budget.as_ref()?;
        Some(format!(
            " On {} every run had {}.",
            task.name,
            budget.words()
        ))
    });
    if let Some(budget) = &study.budget {
        text += &format!(" Every run had a budget of {}.", budget.words());
    }
    text.extend(of_tasks);
    let waiting = study.arm.iter().filter_map(|arm| {
        let other = arm.time_of.as_ref()?;
        Some(format!(
            " Runs of {} had the time that {} took.",
            arm.name, other
        ))
    });
    text.extend(waiting);
    text
}

fn section(level: &str, table: &Table) -> String {
    let mut text = format!("{level} {}\n\n{}\n", table.title, rows(table));
    if !table.note.is_empty() {
        text += &format!("{}\n\n", table.note);
    }
    text
}

/// A table as Markdown, without title and note.
pub(crate) fn rows(table: &Table) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule: Vec<_> = table.columns.iter().map(|_| "---".to_string()).collect();
    let mut text = line(&table.columns) + &line(&rule);
    for (number, row) in table.rows.iter().enumerate() {
        let bold = |column| table.bold.contains(&(number, column));
        let cells = row.iter().enumerate().map(|(column, cell)| {
            if bold(column) {
                format!("**{cell}**")
            } else {
                cell.clone()
            }
        });
        text += &line(&cells.collect::<Vec<_>>());
    }
    text
}

/// Machines, commits and versions, as (name, value).
pub(crate) fn made_with(results: &Results) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let mut add = |name: &str, value: String| lines.push((name.to_string(), value));
    for machine in &results.machines {
        let processor = machine.processor.as_deref().unwrap_or("unknown processor");
        let threads = machine
            .threads
            .map_or(String::new(), |n| format!(" ({n} used a run)"));
        let memory = machine
            .memory_bytes
            .map_or(format::NONE.into(), format::bytes);
        let device = machine.device.as_deref().unwrap_or(format::NONE);
        let system = format!("{} {}", machine.os, machine.architecture);
        let value = format!(
            "{processor}, {} threads{threads}, {memory}, {system}, device {device}",
            machine.cores
        );
        add("machine", value);
    }
    if results.machines.len() > 1 {
        let mixed = "runs were made on more than one machine or with other numbers of threads: times do not compare";
        add("note:", mixed.into());
    }
    for commit in &results.commits {
        let dirty = if commit.dirty { ", with changes" } else { "" };
        add("commit", format!("{}{dirty}", commit.hash));
    }
    for (name, version) in &results.versions {
        add(name, version.clone());
    }
    add("written", results.written.clone());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fairness::testing::layout;
    use crate::figures::testing::figures;
    use crate::protocol::State;
    use crate::{Figures, RunId};

    #[test]
    fn the_page_has_the_tables_with_the_best_in_bold() {
        let head = "seeds = [7, 8]\ngrid = { 'optimizer.learning_rate' = [1e-3, 2e-3] }\ndescription = 'which?'";
        let layout = layout(head, &["a", "b\ngrid = {}"]);
        let mut state = State::default();
        for (cell, point, seed, loss) in [
            (0, 0, 7, 2.0),
            (0, 0, 8, 2.02),
            (1, 0, 7, 1.2),
            (1, 0, 8, 1.21),
        ] {
            let run = RunId { cell, point, seed };
            let figures = Figures {
                test_loss: Some(loss + 1.0),
                test_bits_per_byte: Some(loss + 1.0),
                validation_word_perplexity: Some(1e5 * loss),
                ..figures(&layout, run, loss)
            };
            state.finished.insert(run, figures);
        }
        let other = RunId {
            cell: 0,
            point: 1,
            seed: 7,
        };
        state.diverged.insert(other);
        let command = ["kiln", "compare", "x y"].map(String::from).to_vec();
        let page = markdown(&Results::new(&layout, &state, command.clone()).unwrap());
        for line in [
            "# study\n\nwhich?\n\n```sh\nkiln compare 'x y'\n```\n",
            "seed 7; the point with the best validation ran with 1 more (7, 8)",
            "- diverged: a learning_rate=0.002 seed 7\n\n",
            "| validation, bits/byte | validation, perplexity/word | test, nats/token |",
            "| a | learning_rate=0.001 | 2 | 2.0100 ± 0.0141 | 2.0100 ± 0.0141 | 201000 ± 1414 | 3.0100 ± 0.0141 |",
            "| b | default | 2 | **1.2050 ± 0.0071** | **1.2050 ± 0.0071** | **120500 ± 707.1** | **2.2050 ± 0.0071** |",
            "| 1000 | 160 | 500.00 ms | 32 | 6.0s |",
            "| b | -0.8050 | -0.8",
            "| better |",
            "| a | learning_rate=0.001 | **2.0000** |",
            "| a | learning_rate=0.002 | diverged |",
            "\nChose the edge of their grid, so that a better value may lie beyond: a (optimizer.learning_rate).\n",
            "- kiln 0.1.0\n",
        ] {
            assert!(page.contains(line), "`{line}` is not in:\n{page}");
        }
        assert!(!page.contains("## Gradients") && !page.contains("complete"));

        // Had it failed for another reason, the grid would be open: what is there is shown, without means and verdict.
        state.diverged.clear();
        state.failed.insert(other);
        let page = markdown(&Results::new(&layout, &state, command).unwrap());
        for line in [
            "**Not every arm is complete",
            "- failed: a learning_rate=0.002 seed 7\n\n",
            "| a | learning_rate=0.001 | 2 of 2 | 2.0000, 2.0200 | – | – | – | – |",
            "| b | default | 2 | **1.2050 ± 0.0071** |",
            "| b | – | – | incomplete |",
            "| a | learning_rate=0.002 | failed |",
        ] {
            assert!(page.contains(line), "`{line}` is not in:\n{page}");
        }
        assert!(!page.contains("the edge of their grid"));
    }
}
