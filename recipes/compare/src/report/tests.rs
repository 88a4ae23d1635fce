use std::fs;

use super::*;
use crate::RunId;
use crate::fairness::testing::layout;
use crate::figures::testing::figures;

/// Three arms on a family of two lengths and on a task of its own, with the files that a run leaves.
#[test]
fn the_report_has_tables_maps_charts_samples_and_the_study() {
    let head = "# Which one?\nseeds = [7, 8]\ngrid = { 'optimizer.learning_rate' = [1e-3, 1e-2] }\n\
                [[task]]\nname = 'recall-t8'\nmeasure = 'accuracy'\nlength = 8\n\
                [[task]]\nname = 'recall-t16'\nmeasure = 'accuracy'\nlength = 16\n\
                [[task]]\nname = 'text'";
    let mut layout = layout(head, &["a", "b", "c\ntasks = ['recall-t8']"]);
    let root = tempfile::tempdir().unwrap();
    layout.out = root.path().into();
    let mut state = State::default();
    for (number, run) in layout.all().enumerate() {
        let RunId { cell, point, seed } = run;
        let value = 0.5 + 0.05 * cell as f64 + 0.01 * point as f64 + 0.001 * (seed - 7) as f64;
        let mut made = figures(&layout, run, value);
        made.validation_accuracy = Some(value);
        made.step_seconds = Some(0.1 + 0.1 * (number % 3) as f64);
        let folder = layout.folder(run);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("recipe.toml"), format!("seed = {seed}")).unwrap();
        fs::write(folder.join("samples.txt"), format!("said <{cell}>")).unwrap();
        let record = "{\"step\":5,\"tokens\":1,\"time_s\":1.0,\"kind\":\"eval\",\"values\":{\"validation_loss\":1.5}}\n";
        fs::write(folder.join("metrics.jsonl"), record).unwrap();
        state.finished.insert(run, made);
    }
    let results = Results::new(&layout, &state, vec!["kiln".into(), "compare".into()]).unwrap();
    write(&layout, &state, &results).unwrap();
    let page = fs::read_to_string(layout.out.join("report.html")).unwrap();
    for (text, count) in [
        ("<h2>Overview</h2>", 1),
        ("<h2>Task ", 3),
        ("<caption>recall: accuracy against length</caption>", 1),
        ("<th scope=\"col\" class=\"number\">16</th>", 1),
        ("Validation while training", 3 * 3),
        ("Quality against cost. On the Pareto front: ", 3 * 3),
        ("Validation against learning rate, first seed", 3 * 3),
        ("<article class=\"card sample\">", 7),
        ("said &lt;3&gt;", 1),
        ("# Which one?", 1),
        ("<summary>study.toml</summary>", 1),
        ("<pre tabindex=\"0\">seed = 7</pre>", 7),
        (
            "<summary>Recipe of text/b, learning_rate=0.001, seed 7</summary>",
            1,
        ),
        ("Commands of the 28 runs", 1),
    ] {
        assert_eq!(page.matches(text).count(), count, "{text}");
    }
    assert!(!page.contains("http"), "the page asks for nothing");

    let table = fs::read_to_string(layout.out.join("results.csv")).unwrap();
    let mut lines = table.lines();
    let head = lines.next().unwrap();
    assert!(
        head.starts_with("task,arm,point,seed,folder,validation_loss,"),
        "{head}"
    );
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("recall-t8,a,learning_rate=0.001,7,"),
        "{table}"
    );
    let columns = head.split(',').count();
    assert!(table.lines().all(|line| line.split(',').count() == columns));
    assert_eq!(table.lines().count(), 1 + 28);
}

/// Prompts of `b` take twice as long whenever they are twice as long, those of `a` four times: they cross between the two lengths.
#[test]
fn costs_are_in_tables_charts_and_a_file_of_their_own() {
    use crate::costs::testing::{cost, write as write_cost};
    let head = "seeds = [7]\ncost = { lengths = [64, 256], batches = [1], seconds = 1.0 }";
    let mut layout = layout(head, &["a", "b", "c"]);
    let root = tempfile::tempdir().unwrap();
    layout.out = root.path().into();
    let mut state = State::default();
    for run in layout.all() {
        let made = figures(&layout, run, 1.0 + run.cell as f64);
        let rows = match run.cell {
            0 => [(64, [1.0, 0.1]), (256, [16.0, 0.4])],
            _ => [(64, [2.0, 0.2]), (256, [8.0, 0.2])],
        };
        let mut found = cost(&made, &rows);
        if run.cell == 2 {
            found.backend = "cuda".into();
        }
        write_cost(&layout, &made, &found);
        fs::write(layout.folder(run).join("metrics.jsonl"), "").unwrap();
        state.finished.insert(run, made);
    }
    let results = Results::new(&layout, &state, vec!["kiln".into()]).unwrap();
    write(&layout, &state, &results).unwrap();
    let arm = |name| results.tasks[0].arm(name).unwrap().cost.clone().unwrap();
    assert!(arm("a").crossovers.is_empty(), "the reference");
    assert!(arm("c").crossovers.is_empty(), "measured elsewhere");
    let found: Vec<_> = arm("b")
        .crossovers
        .iter()
        .map(|it| it.found.to_string())
        .collect();
    assert_eq!(
        found,
        [
            "from 128 on",
            "from 128 on",
            "none up to 256",
            "not measured"
        ]
    );

    let page = fs::read_to_string(layout.out.join("report.html")).unwrap();
    for (text, count) in [
        (
            "<caption>Where arms are cheaper than a, in tokens</caption>",
            1,
        ),
        ("b from 128 on</text>", 2),
        ("Decoding, batch 1. Lines: less than a from there on", 1),
        ("<path class=\"vertical s1\"", 2),
        ("<summary>Costs by length</summary>", 1),
        ("c was measured on cuda, f32, ", 1),
        (
            "milliseconds of a decoded token after 256 tokens, one sequence",
            1,
        ),
    ] {
        assert!(page.matches(text).count() >= count, "{text}");
    }
    let page = fs::read_to_string(layout.out.join("results.md")).unwrap();
    for line in [
        "| b | 1 | from 128 on | from 128 on | none up to 256 | not measured |",
        "| a | 1 | 64 | 15.62 | 100.0 | 2.0 KiB | – |",
    ] {
        assert!(page.contains(line), "`{line}` is not in:\n{page}");
    }
    let table = fs::read_to_string(layout.out.join("costs.csv")).unwrap();
    assert_eq!(table.lines().count(), 1 + 6);
    assert!(table.contains(",a,1,64,0.015625,0.1,2048,,\n"), "{table}");
    let read = Results::read(&layout.out.join("results.json")).unwrap();
    assert_eq!(read.tasks[0].arm("b").unwrap().cost, Some(arm("b")));
}
