//! `results.md`: the same for people.

use kiln_run::format;

use crate::child::quoted;
use crate::results::{ArmResult, Measure, Results};
use crate::statistics::Summary;

/// The results as Markdown.
pub fn markdown(results: &Results) -> String {
    let mut page = format!("# {}\n\n", results.name);
    let study = &results.study;
    if !study.description.is_empty() {
        page += &format!("{}\n\n", study.description);
    }
    let words: Vec<_> = results.command.iter().map(|word| quoted(word)).collect();
    page += &format!("```sh\n{}\n```\n\n", words.join(" "));
    page += &protocol(results);
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
    page += &format!("## Arms\n\n{}\n", arms(results));
    if let Some(first) = results.arms.first().filter(|_| results.arms.len() > 1) {
        page += &format!("## Against `{}`\n\n{}\n", first.name, verdicts(results));
    }
    page += &format!("## Grids\n\n{}\n", grids(results));
    if results.arms.iter().any(|arm| arm.gradient_cosine.is_some()) {
        page += &format!("## Gradients\n\n{}\n", gradients(results));
    }
    page += &format!("## Made with\n\n{}", made_with(results));
    page
}

fn protocol(results: &Results) -> String {
    let seeds: Vec<_> = results.study.seeds.iter().map(u64::to_string).collect();
    let (first, later) = (&seeds[0], seeds.len() - 1);
    let mut text = format!(
        "Every arm ran its grid with seed {first}; the point with the best validation loss ran with {later} more ({}). ",
        seeds.join(", ")
    );
    text += "Figures are mean ± sample standard deviation over seeds";
    text += ", of the weights of each run's best evaluation. Best in bold.\n\n";
    if !results.study.allow.is_empty() {
        let allowed: Vec<_> = results
            .study
            .allow
            .iter()
            .map(ToString::to_string)
            .collect();
        text += &format!(
            "Arms were allowed to differ in: {}.\n\n",
            allowed.join(", ")
        );
    }
    text
}

fn table(columns: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<_> = columns.iter().map(ToString::to_string).collect();
    let rule: Vec<_> = columns.iter().map(|_| "---".to_string()).collect();
    let rows: String = rows.iter().map(|row| line(row)).collect();
    line(&head) + &line(&rule) + &rows
}

fn arms(results: &Results) -> String {
    let has_test = results.arms.iter().any(|arm| arm.test_loss.is_some());
    let mut columns = vec![
        "arm",
        "setting",
        "seeds",
        "validation, nats/token",
        "validation, bits/byte",
    ];
    if has_test {
        columns.extend(["test, nats/token", "test, bits/byte"]);
    }
    columns.extend(["parameters", "tokens", "step", "tokens/s", "time of a run"]);
    type Field = fn(&ArmResult) -> Option<Summary>;
    let best = |field: Field| {
        let means = results
            .arms
            .iter()
            .filter_map(field)
            .map(|summary| summary.mean);
        means.filter(|mean| mean.is_finite()).min_by(f64::total_cmp)
    };
    let scores: [Field; 4] = [
        |arm| arm.validation_loss,
        |arm| arm.validation_bits_per_byte,
        |arm| arm.test_loss,
        |arm| arm.test_bits_per_byte,
    ];
    let scores = &scores[..if has_test { 4 } else { 2 }];
    let measured = match results.measure {
        Measure::NatsPerToken => 0,
        Measure::BitsPerByte => 1,
    };
    let none = || format::NONE.to_string();
    let row = |arm: &ArmResult| {
        let all = results.study.seeds.len();
        let seeds = match arm.complete {
            true => all.to_string(),
            false => format!("{} of {all}", arm.seeds.len()),
        };
        let mut row = vec![
            arm.name.clone(),
            arm.chosen.clone().unwrap_or_else(none),
            seeds,
        ];
        for (column, &field) in scores.iter().enumerate() {
            let text = match field(arm) {
                Some(summary) => spread(&summary),
                None if column == measured => single(arm),
                None => none(),
            };
            let is_best = field(arm).is_some_and(|summary| Some(summary.mean) == best(field));
            row.push(if is_best { format!("**{text}**") } else { text });
        }
        row.push(arm.parameters.map_or_else(none, |n| n.to_string()));
        row.push(arm.tokens.map_or_else(none, |n| format::count(n as f64)));
        row.push(
            arm.step_seconds
                .map_or_else(none, |s| format!("{:.2} ms", 1e3 * s)),
        );
        row.push(arm.tokens_per_second.map_or_else(none, format::count));
        row.push(arm.seconds.map_or_else(none, format::duration));
        row
    };
    let rows: Vec<_> = results.arms.iter().map(row).collect();
    table(&columns, &rows)
}

/// `1.7710 ± 0.0080`; a single run has no deviation.
fn spread(summary: &Summary) -> String {
    match summary.sd {
        Some(sd) => format!("{:.4} ± {sd:.4}", summary.mean),
        None => format!("{:.4}", summary.mean),
    }
}

/// What there is of an incomplete arm: the finished seeds, one by one.
fn single(arm: &ArmResult) -> String {
    let values: Vec<_> = arm
        .seeds
        .iter()
        .map(|seed| format!("{:.4}", seed.value))
        .collect();
    match values.is_empty() {
        true => format::NONE.into(),
        false => values.join(", "),
    }
}

fn verdicts(results: &Results) -> String {
    let unit = results.measure.unit();
    let difference = format!("difference, {unit}");
    let columns = ["arm", &difference, "95 % interval", "verdict"];
    let row = |arm: &ArmResult| {
        let found = arm.against_first?;
        let interval = found
            .interval
            .map_or(format::NONE.to_string(), |[low, high]| {
                format!("{low:+.4} to {high:+.4}")
            });
        Some(vec![
            arm.name.clone(),
            found.difference.map_or(format::NONE.into(), |difference| {
                format!("{difference:+.4}")
            }),
            interval,
            found.verdict.text().into(),
        ])
    };
    let rows: Vec<_> = results.arms.iter().filter_map(row).collect();
    let note = "Welch's interval of the difference of means over seeds; negative is less loss. Each interval stands for itself: \
                of twenty arms that are equal to the first, one is expected to look different.";
    format!("{}\n{note}\n", table(&columns, &rows))
}

fn grids(results: &Results) -> String {
    let mut rows = Vec::new();
    for arm in &results.arms {
        for point in &arm.points {
            let text = match point.first_seed {
                Some(value) if arm.chosen.as_ref() == Some(&point.name) => {
                    format!("**{value:.4}**")
                }
                Some(value) => format!("{value:.4}"),
                None if point.diverged => "diverged".into(),
                None if point.failed => "failed".into(),
                None => format::NONE.into(),
            };
            rows.push(vec![arm.name.clone(), point.name.clone(), text]);
        }
    }
    let seed = results.study.seeds.first().copied().unwrap_or_default();
    let value = format!("validation at seed {seed}, {}", results.measure.unit());
    let mut text = table(&["arm", "setting", &value], &rows);
    for arm in results.arms.iter().filter(|arm| !arm.at_edge.is_empty()) {
        let keys = arm.at_edge.join("`, `");
        text += &format!(
            "\n`{}` chose the edge of its grid in `{keys}`: a better value may lie beyond.\n",
            arm.name
        );
    }
    text
}

fn gradients(results: &Results) -> String {
    let show =
        |value: Option<f64>| value.map_or(format::NONE.to_string(), |value| format!("{value:.4}"));
    let row = |arm: &ArmResult| {
        vec![
            arm.name.clone(),
            show(arm.gradient_cosine),
            show(arm.gradient_cosine_potential),
        ]
    };
    let rows: Vec<_> = results.arms.iter().map(row).collect();
    let columns = ["arm", "all parameters", "potentials"];
    let note = "Cosine between the gradient of the recipe's rule and the exact one, at the same weights and tokens: mean over \
                the probed steps and seeds.";
    format!("{}\n{note}\n", table(&columns, &rows))
}

fn made_with(results: &Results) -> String {
    let mut text = String::new();
    for machine in &results.machines {
        let processor = machine.processor.as_deref().unwrap_or("unknown processor");
        let threads = machine
            .threads
            .map_or(String::new(), |n| format!(" ({n} used a run)"));
        let memory = machine
            .memory_bytes
            .map_or(format::NONE.into(), format::bytes);
        let device = machine.device.as_deref().unwrap_or(format::NONE);
        text += &format!(
            "- {processor}, {} threads{threads}, {memory}, {} {}, device {device}\n",
            machine.cores, machine.os, machine.architecture
        );
    }
    if results.machines.len() > 1 {
        text += "- runs were made on more than one machine or with other numbers of threads: times do not compare\n";
    }
    for commit in &results.commits {
        let dirty = if commit.dirty { ", with changes" } else { "" };
        text += &format!("- commit {}{dirty}\n", commit.hash);
    }
    for (name, version) in &results.versions {
        text += &format!("- {name} {version}\n");
    }
    text += &format!("- written {}\n", results.written);
    text
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
        for (arm, point, seed, loss) in [
            (0, 0, 7, 2.0),
            (0, 0, 8, 2.02),
            (1, 0, 7, 1.2),
            (1, 0, 8, 1.21),
        ] {
            let run = RunId { arm, point, seed };
            let figures = Figures {
                test_loss: Some(loss + 1.0),
                test_bits_per_byte: Some(loss + 1.0),
                ..figures(&layout, run, loss)
            };
            state.finished.insert(run, figures);
        }
        let other = RunId {
            arm: 0,
            point: 1,
            seed: 7,
        };
        state.diverged.insert(other);
        let command = ["kiln", "compare", "x y"].map(String::from).to_vec();
        let page = markdown(&Results::new(&layout, &state, command.clone()).unwrap());
        for line in [
            "# study\n\nwhich?\n\n```sh\nkiln compare 'x y'\n```\n",
            "seed 7; the point with the best validation loss ran with 1 more (7, 8)",
            "- diverged: a learning_rate=0.002 seed 7\n\n",
            "| a | learning_rate=0.001 | 2 | 2.0100 ± 0.0141 | 2.0100 ± 0.0141 | 3.0100 ± 0.0141 |",
            "| b | default | 2 | **1.2050 ± 0.0071** | **1.2050 ± 0.0071** | **2.2050 ± 0.0071** |",
            "| 1000 | 160 | 500.00 ms | 32 | 6.0s |",
            "| b | -0.8050 | -0.8",
            "| better |",
            "| a | learning_rate=0.001 | **2.0000** |",
            "| a | learning_rate=0.002 | diverged |",
            "\n`a` chose the edge of its grid in `optimizer.learning_rate`: a better value may lie beyond.\n",
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
            "| a | learning_rate=0.001 | 2 of 2 | 2.0000, 2.0200 | – | – | – |",
            "| b | default | 2 | **1.2050 ± 0.0071** |",
            "| b | – | – | incomplete |",
            "| a | learning_rate=0.002 | failed |",
        ] {
            assert!(page.contains(line), "`{line}` is not in:\n{page}");
        }
        assert!(!page.contains("the edge of its grid"));
    }
}
