use super::*;
use crate::fairness::testing::layout;
use crate::figures::testing::figures;
use crate::statistics::{Comparison, Verdict};

fn state(layout: &Layout, losses: &[(usize, usize, u64, f64)]) -> State {
    let mut state = State::default();
    for &(cell, point, seed, loss) in losses {
        let run = RunId { cell, point, seed };
        state.finished.insert(run, figures(layout, run, loss));
    }
    state
}

#[test]
fn the_best_point_of_each_arm_is_compared() {
    let head = "seeds = [7, 8]\ngrid = { 'optimizer.learning_rate' = [1e-3, 2e-3] }";
    let layout = layout(head, &["a", "b"]);
    let losses = [
        (0, 0, 7, 2.0),
        (0, 1, 7, 1.8),
        (0, 1, 8, 1.82),
        (1, 0, 7, 1.2),
        (1, 1, 7, 1.4),
        (1, 0, 8, 1.21),
        // Left over from an earlier choice: it takes no part.
        (1, 1, 8, 0.5),
    ];
    let results = Results::new(&layout, &state(&layout, &losses), vec![]).unwrap();
    assert!(results.complete && results.tasks[0].measure == Measure::NatsPerToken);
    let [a, b] = &results.tasks[0].arms[..] else {
        panic!()
    };
    assert_eq!(a.chosen.as_deref(), Some("learning_rate=0.002"));
    assert!((a.validation_loss.unwrap().mean - 1.81).abs() < 1e-12);
    assert!((b.validation_loss.unwrap().mean - 1.205).abs() < 1e-12);
    let verdict = b.against_first.unwrap();
    assert!((verdict.difference.unwrap() + 0.605).abs() < 1e-12);
    assert_eq!(verdict.verdict, Verdict::Better);
    assert!(a.against_first.is_none() && results.machines.len() == 1);
    let json: serde_json::Value = serde_json::to_value(&results).unwrap();
    assert_eq!(
        (&json["version"], json["runs"].as_array().unwrap().len()),
        (&3.into(), 7)
    );
    assert_eq!(json["study"]["arm"][1]["name"], "b");
    assert_eq!(json["measure"], "validation nats/token");
}

#[test]
fn a_choice_at_the_edge_of_its_grid_is_told() {
    let head = "seeds = [7]\ngrid = { 'optimizer.learning_rate' = [1e-3, 2e-3, 4e-3], 'optimizer.kind' = ['muon', 'adamw'] }";
    let layout = layout(head, &["a"]);
    let points = &layout.cells[0].points;
    let edges = |rate: &str| {
        let name = format!("kind=adamw,learning_rate={rate}");
        task::at_edge(
            points,
            points.iter().position(|point| point.name == name).unwrap(),
        )
    };
    assert_eq!(edges("0.001"), ["optimizer.learning_rate"]);
    assert_eq!(edges("0.002"), [""; 0]);
    assert_eq!(edges("0.004"), ["optimizer.learning_rate"]);
}

#[test]
fn what_is_missing_is_said() {
    let layout = layout("seeds = [7, 8]", &["a", "b"]);
    assert!(matches!(
        Results::new(&layout, &State::default(), vec![]),
        Err(CompareError::NothingToReport { .. })
    ));
    let results = Results::new(&layout, &state(&layout, &[(0, 0, 7, 1.0)]), vec![]).unwrap();
    assert!(!results.complete && results.tasks[0].arms[1].chosen.is_none());
    let only = SeedResult {
        seed: 7,
        value: 1.0,
    };
    assert_eq!(results.tasks[0].arms[0].seeds, [only]);
    assert_eq!(results.tasks[0].arms[0].validation_loss, None);
    let verdict = results.tasks[0].arms[1].against_first;
    assert_eq!(verdict, Some(Comparison::INCOMPLETE));
}

/// A seed that diverged, one without a number, and a grid that a failure left open: no mean of the rest, no verdict.
#[test]
fn survivors_get_no_verdict() {
    let head = "seeds = [7, 8, 9]\ngrid = { 'optimizer.learning_rate' = [1e-3, 2e-3] }";
    let layout = layout(head, &["a", "b"]);
    let mut losses = vec![(0, 0, 7, 2.0), (0, 1, 7, 1.8), (1, 0, 7, 1.2)];
    losses.extend([(0, 1, 8, 1.82), (0, 1, 9, 1.81), (1, 0, 8, 1.21)]);
    let run = |point, seed| RunId {
        cell: 1,
        point,
        seed,
    };
    let check = |change: &dyn Fn(&mut State), complete: bool| {
        let mut state = state(&layout, &losses);
        change(&mut state);
        let results = Results::new(&layout, &state, vec![]).unwrap();
        let [a, b] = &results.tasks[0].arms[..] else {
            panic!()
        };
        assert!(a.complete && a.validation_loss.is_some());
        assert_eq!((results.complete, b.complete), (complete, complete));
        let verdict = b.against_first.unwrap().verdict;
        if complete {
            return assert_eq!(verdict, Verdict::Better);
        }
        assert_eq!(verdict, Verdict::Incomplete);
        assert_eq!((b.validation_loss, b.gradient_cosine), (None, None));
        assert_eq!(b.chosen.as_deref(), Some("learning_rate=0.001"));
        assert!(b.seeds.len() >= 2 && b.parameters == Some(1000));
    };
    let finish = |state: &mut State, run: RunId, loss| {
        state.finished.insert(run, figures(&layout, run, loss));
    };
    let whole = |state: &mut State| {
        finish(state, run(0, 9), 1.19);
        state.diverged.insert(run(1, 7));
    };
    check(&whole, true);
    let seed_gone = |state: &mut State| {
        whole(state);
        state.finished.remove(&run(0, 9));
        state.diverged.insert(run(0, 9));
    };
    check(&seed_gone, false);
    check(
        &|state| {
            whole(state);
            finish(state, run(0, 9), f64::NAN);
        },
        false,
    );
    check(
        &|state| {
            whole(state);
            state.diverged.clear();
            state.failed.insert(run(1, 7));
        },
        false,
    );
}

/// More accuracy is better, less loss is; an arm is judged on the tasks it runs, and the file reads back as it was.
#[test]
fn tasks_are_judged_by_their_own_measures() {
    // Losses that a decimal states exactly.
    const SPREAD: f64 = 1.0 / 64.0;
    let head = "seeds = [7, 8]\n[[task]]\nname = 'text'\n[[task]]\nname = 'recall'\nmeasure = 'accuracy'\n\
                grid = { 'optimizer.learning_rate' = [1e-3, 2e-3] }\nlength = 16";
    let layout = layout(head, &["a", "b", "c\ntasks = ['recall']"]);
    let mut state = State::default();
    let mut finish = |cell, point, seed, value: f64| {
        let run = RunId { cell, point, seed };
        let mut figures = figures(&layout, run, value);
        if cell > 1 {
            (
                figures.validation_bits_per_byte,
                figures.validation_accuracy,
            ) = (None, Some(value));
        }
        state.finished.insert(run, figures);
    };
    for (cell, value) in [(0, 2.0), (1, 1.5)] {
        finish(cell, 0, 7, value);
        finish(cell, 0, 8, value + SPREAD);
    }
    for (cell, value) in [(2, 0.5), (3, 0.875), (4, 0.25)] {
        finish(cell, 0, 7, value - 0.125);
        finish(cell, 1, 7, value);
        finish(cell, 1, 8, value + SPREAD);
    }
    let results = Results::new(&layout, &state, vec![]).unwrap();
    assert!(results.complete);
    let [text, recall] = &results.tasks[..] else {
        panic!()
    };
    let verdicts = |task: &TaskResult| -> Vec<Verdict> {
        let found = task.arms.iter().filter_map(|arm| arm.against_first);
        found.map(|found| found.verdict).collect()
    };
    assert_eq!(verdicts(text), [Verdict::Better]);
    assert_eq!(verdicts(recall), [Verdict::Better, Verdict::Worse]);
    let chosen = recall.arms.iter().map(|arm| arm.chosen.as_deref());
    assert!(chosen.flatten().all(|point| point == "learning_rate=0.002"));
    assert_eq!(
        (text.best(), recall.best()),
        (Some(1.5 + SPREAD / 2.0), Some(0.875 + SPREAD / 2.0))
    );
    assert!(text.arm("c").is_none() && recall.arms[1].validation_bits_per_byte.is_none());

    let page = crate::page::markdown(&results);
    for line in [
        "| arm | text, nats/token | recall, accuracy |",
        "| b | **1.5078 ± 0.0110** | **0.8828 ± 0.0110** |",
        "| c |  | 0.2578 ± 0.0110 |",
        "## Task recall\n\n### Arms",
        "positive is more accurate",
    ] {
        assert!(page.contains(line), "`{line}` is not in:\n{page}");
    }

    let folder = tempfile::tempdir().unwrap();
    results.write(folder.path()).unwrap();
    let path = folder.path().join("results.json");
    let again = Results::read(&path).unwrap();
    assert_eq!(
        serde_json::to_value(&again).unwrap(),
        serde_json::to_value(&results).unwrap()
    );
    assert_eq!(crate::page::markdown(&again), page);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("\n  \"arms\""), "{text}");
    std::fs::write(&path, text.replacen("\"version\": 3", "\"version\": 9", 1)).unwrap();
    let error = Results::read(&path).unwrap_err().to_string();
    assert!(error.ends_with(
        "results.json has layout version 9, and this Kiln reads 3; write it anew from its run folders with --report-only"
    ), "{error}");
}

/// What is not a number is `null` in the file.
#[test]
fn a_file_with_losses_that_are_no_numbers_reads_back() {
    let layout = layout("seeds = [7, 8]", &["a"]);
    let losses = [(0, 0, 7, 1.0), (0, 0, 8, f64::NAN)];
    let results = Results::new(&layout, &state(&layout, &losses), vec![]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    results.write(folder.path()).unwrap();
    let again = Results::read(&folder.path().join("results.json")).unwrap();
    assert!(again.runs[1].validation_loss.is_nan());
    assert!(again.tasks[0].arms[0].seeds[1].value.is_nan());
    assert!(again.tasks[0].name.is_none() && !again.complete);
}

/// An arm that counts has no machine whose times would not compare, and its loss against context is no line of the table.
#[test]
fn costs_and_contexts_are_of_what_was_trained() {
    let layout = layout("seeds = [7]", &["a", "b", "n\nngram = [2]"]);
    let mut state = State::default();
    for (cell, loss) in [(0, 2.0), (1, 1.5), (2, 1.0)] {
        let run = RunId {
            cell,
            point: 0,
            seed: 7,
        };
        let mut made = figures(&layout, run, loss);
        made.model_bytes = Some(2048);
        if cell < 2 {
            made.contexts = [(4, loss + 0.5), (8, loss)].into();
            made.state_bytes = Some(512);
        } else if let Some(provenance) = &mut made.provenance {
            provenance.hardware.device = None;
        }
        state.finished.insert(run, made);
    }
    let results = Results::new(&layout, &state, vec![]).unwrap();
    assert_eq!(results.machines.len(), 1);
    let page = crate::page::markdown(&results);
    for line in [
        "| arm | 4 | 8 |",
        "| b | **2.0000** | **1.5000** |",
        "| n | – | – |",
        "| b | 2.0 KiB | 512 B | – | – | – |",
        "No device of these runs tells its energy.",
        "Nothing is trained in n: its parameters",
    ] {
        assert!(page.contains(line), "`{line}` is not in:\n{page}");
    }
    assert!(!page.contains("more than one machine"), "{page}");
}
