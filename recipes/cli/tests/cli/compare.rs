//! `kiln compare` on a study of two arms, each of a few steps.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Corner, copy};

/// Two rates and two seeds for each of two arms of equal size: six runs, one of which is left out by `b`'s own grid.
pub const STUDY: &str = r#"
# Do gates matter?
description = "a test"
seeds = [3, 4]
set = { "train.steps" = 6, "train.eval_every" = 3, "train.checkpoint_every" = 3, "sample.tokens" = 1 }
grid = { "optimizer.learning_rate" = [1e-3, 1e-2] }
[[arm]]
name = "a"
recipe = "./recipe.toml"
[[arm]]
name = "b"
recipe = "./recipe.toml"
set = { "model.bk.grad_rule" = { blend = 0.5 } }
grid = { "optimizer.learning_rate" = [1e-2] }
"#;

const RUNS: [&str; 5] = [
    "a/learning_rate=0.001/seed-3",
    "a/learning_rate=0.01/seed-3",
    "a/learning_rate=0.01/seed-4",
    "b/learning_rate=0.01/seed-3",
    "b/learning_rate=0.01/seed-4",
];

pub fn corner(study: &str) -> Corner {
    let corner = Corner::new();
    let recipe = fs::read_to_string(corner.path("recipe.toml")).unwrap();
    fs::write(
        corner.path("recipe.toml"),
        recipe.replace("\"chars\"", "\"bytes\""),
    )
    .unwrap();
    fs::write(corner.path("study.toml"), study).unwrap();
    corner
}

pub fn compare(corner: &Corner, more: &[&str]) -> crate::common::Said {
    let study = corner.text("study.toml");
    let mut args = vec!["compare", study.as_str(), "--out", "out"];
    args.extend(more);
    corner.kiln(&args)
}

pub fn run(corner: &Corner, name: &str) -> PathBuf {
    corner.path("out/runs").join(name)
}

pub fn log(corner: &Corner, name: &str) -> String {
    fs::read_to_string(corner.path("out/logs").join(format!("{name}.log"))).unwrap()
}

pub fn results(corner: &Corner) -> serde_json::Value {
    serde_json::from_slice(&fs::read(corner.path("out/results.json")).unwrap()).unwrap()
}

/// Makes a finished run look like one that was stopped at its first checkpoint.
fn unfinish(run: &Path) {
    for name in ["config.json", "checkpoints/step-00000006"] {
        let path = run.join(name);
        match path.is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }
}

#[test]
fn a_study_is_run_once_resumed_and_reported_anywhere() {
    let corner = corner(STUDY);
    // By a bare file name, which has no folder.
    corner.kiln(&["compare", "study.toml", "--dry-run"]).expect(
        0,
        &[
            "a learning_rate=0.001 seed 3",
            "runs        5 = 3 of the grids + 2 arms x 1 more seeds; 0 finished",
        ],
    );
    assert!(!corner.path("out").exists(), "a dry run writes nothing");
    let said = compare(&corner, &["--jobs", "2"])
        .expect(0, &["5/5 runs   best so far ", "results   out/results.md"]);
    assert_eq!(said.err.matches("\nstart ").count() + 1, 5, "{said:?}");
    for name in RUNS {
        assert!(run(&corner, name).join("report.html").is_file(), "{name}");
        assert!(
            log(&corner, name).starts_with("$ RAYON_NUM_THREADS="),
            "{name}"
        );
    }
    let first = results(&corner);
    assert_eq!(first["complete"], true);
    let arm = &first["arms"][0];
    assert_eq!(
        (&arm["chosen"], &arm["validation_loss"]["n"]),
        (&"learning_rate=0.01".into(), &2.into())
    );
    assert!(arm["step_seconds"].as_f64().unwrap() > 0.0 && arm["tokens"] == 6 * 4 * 16);
    assert!(
        first["arms"][1]["against_first"]["interval"][0].is_f64(),
        "{first}"
    );
    assert!(first["runs"][0]["test_loss"].is_f64() && first["versions"]["burn"].is_string());
    let page = fs::read_to_string(corner.path("out/results.md")).unwrap();
    assert!(
        page.contains("cargo xtask compare") && page.contains("## Against a\n"),
        "{page}"
    );

    // Nothing is run again but what is missing; what was interrupted goes on from its checkpoint.
    let untouched = run(&corner, RUNS[0]).join("metrics.jsonl");
    let before = fs::metadata(&untouched).unwrap().modified().unwrap();
    fs::remove_dir_all(run(&corner, RUNS[4])).unwrap();
    unfinish(&run(&corner, RUNS[1]));
    let said = compare(&corner, &[]).expect(0, &["3 runs are finished already"]);
    assert_eq!(said.err.matches("start ").count(), 2, "{said:?}");
    assert_eq!(
        fs::metadata(&untouched).unwrap().modified().unwrap(),
        before
    );
    assert!(log(&corner, RUNS[1]).contains("resuming after step 3"));
    assert_eq!(log(&corner, RUNS[4]).matches("$ RAYON").count(), 2);
    let losses = |results: &serde_json::Value| -> Vec<f64> {
        let runs = results["runs"].as_array().unwrap().iter();
        runs.map(|run| run["validation_loss"].as_f64().unwrap())
            .collect()
    };
    // Other numbers of threads may sum in another order.
    for (a, b) in losses(&first).iter().zip(losses(&results(&corner))) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }

    // Run folders that were copied to another machine, which has neither the text nor the cache.
    let second = results(&corner);
    let elsewhere = self::corner(STUDY);
    copy(&corner.path("out/runs"), &elsewhere.path("out/runs"));
    fs::copy(corner.path("recipe.toml"), elsewhere.path("recipe.toml")).unwrap();
    drop(corner);
    compare(&elsewhere, &["--report-only"]).expect(0, &["results   out/results.md"]);
    let third = results(&elsewhere);
    for key in ["arms", "runs", "study", "machines", "complete"] {
        assert_eq!(second[key], third[key], "{key}");
    }

    // A run of other settings is not taken for the study's.
    let longer = STUDY.replace("\"train.steps\" = 6", "\"train.steps\" = 7");
    fs::write(elsewhere.path("study.toml"), longer).unwrap();
    compare(&elsewhere, &["--report-only"]).expect(
        1,
        &[
            "error: ",
            "seed-3 was made with `train.steps` = 6, but the study says 7; choose another --out",
        ],
    );
}

#[test]
fn what_is_unfair_is_refused_before_anything_runs() {
    let bytes = "set = { \"model.bk.grad_rule\" = { blend = 0.5 } }";
    for (set, message) in [
        (
            "set = { \"data.tokenizer\" = \"chars\" }",
            "differ in data: text:",
        ),
        (
            "set = { \"train.batch\" = 5 }",
            "differ in tokens: 384 tokens against 480 tokens",
        ),
        (
            "set = { \"model.backbone.d_hidden\" = 64 }",
            "differ in parameters: ",
        ),
        (
            "set = { \"train.max_seconds\" = 5.0 }",
            "`train.max_seconds` is 5, which ends runs",
        ),
        ("set = { \"train.stepz\" = 5 }", "unknown key `train.stepz`"),
    ] {
        let corner = corner(&STUDY.replace(bytes, set));
        for more in [&[][..], &["--dry-run"]] {
            compare(&corner, more).expect(1, &["error: arm", "`b", message]);
        }
        assert!(!corner.path("out").exists());
    }
    corner(STUDY)
        .kiln(&["compare", "nothing-like-it"])
        .expect(1, &["error: no study `nothing-like-it`"]);
    corner(STUDY)
        .kiln(&["compare"])
        .expect(0, &["cargo xtask compare NAME"]);
    let said = compare(&corner(STUDY), &["--report-only"]);
    said.expect(1, &["out has no finished run of this study"]);
}

#[test]
fn a_run_that_fails_is_told_and_the_others_go_on() {
    let corner = corner(STUDY);
    // A file where the run's folder should be says nothing about the learning rate: the arm's grid stays open.
    let folder = run(&corner, RUNS[0]);
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    fs::write(&folder, "").unwrap();
    let said = compare(&corner, &[]);
    let said = said.expect(
        1,
        &[
            "a learning_rate=0.001 seed 3 failed: exit status: 1",
            "  error: ",
            "4/5 runs",
            "a  incomplete: 1 of 2 seeds",
            "   incomplete\n",
        ],
    );
    assert!(said.err.ends_with("seed-3.log\n"), "{said:?}");
    assert!(!run(&corner, RUNS[2]).exists(), "a's choice is open");
    let found = results(&corner);
    assert_eq!(
        (&found["complete"], &found["arms"][0]["points"][0]["failed"]),
        (&false.into(), &true.into())
    );
    assert!(found["arms"][0]["validation_loss"].is_null(), "{found}");
    assert_eq!(found["arms"][1]["against_first"]["verdict"], "incomplete");
    let page = fs::read_to_string(corner.path("out/results.md")).unwrap();
    assert!(
        page.contains("- failed: a learning_rate=0.001 seed 3"),
        "{page}"
    );
    fs::remove_file(&folder).unwrap();
    compare(&corner, &[]).expect(0, &["3 runs are finished already", "5/5 runs"]);
    assert_eq!(results(&corner)["complete"], true);
}

#[test]
fn a_run_that_diverges_is_out_of_its_grid() {
    // Weights of 1e38 overflow at once.
    let study = STUDY.replace(
        "\"train.steps\"",
        "\"train.max_skipped\" = 2, \"train.steps\"",
    );
    let grid = "grid = { \"optimizer.learning_rate\" = [1e-3, 1e-2] }";
    assert!(study.contains(grid));
    let corner = corner(&study.replace(
        grid,
        "grid = { \"model.backbone.init_std\" = [1e38, 0.02] }",
    ));
    compare(&corner, &[]).expect(
        1,
        &[
            ".0 seed 3 failed: exit status: 3",
            "was not finite 3 steps in a row",
            "5/5 runs",
        ],
    );
    let found = results(&corner);
    let arm = &found["arms"][0];
    assert_eq!(
        (&found["complete"], &arm["chosen"]),
        (&true.into(), &"init_std=0.02".into())
    );
    let point = arm["points"]
        .as_array()
        .unwrap()
        .iter()
        .find(|point| point["diverged"] == true);
    assert_eq!(point.unwrap()["settings"]["model.backbone.init_std"], 1e38);
    assert_eq!(arm["validation_loss"]["n"], 2);
    assert!(found["arms"][1]["against_first"]["interval"][0].is_f64());
    compare(&corner, &["--report-only"]).expect(0, &["results   out/results.md"]);
    let again = results(&corner);
    for key in ["arms", "diverged", "complete"] {
        assert_eq!(found[key], again[key], "{key}");
    }
    // The next start tries it again.
    compare(&corner, &[]).expect(1, &["4 runs are finished already", "exit status: 3"]);
    assert_eq!(results(&corner)["arms"], found["arms"]);
}

/// Starts the study, waits for `ready`, and sends what Ctrl-C sends.
#[cfg(unix)]
fn interrupted(corner: &Corner, ready: impl Fn() -> bool) {
    let study = corner.text("study.toml");
    let mut child = corner
        .command(&["compare", &study, "--out", "out", "--jobs", "2"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(60), "it never came");
        std::thread::sleep(Duration::from_millis(5));
    }
    let id = child.id().to_string();
    let kill = Command::new("kill").args(["-INT", &id]).status();
    assert!(kill.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_the_children_and_the_same_command_goes_on() {
    let long = STUDY.replace("\"train.steps\" = 6", "\"train.steps\" = 100000000");
    let corner = corner(&long);
    let has_checkpoint = |name: &str| {
        let folder = run(&corner, name).join("checkpoints");
        fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
    };
    interrupted(&corner, || {
        has_checkpoint(RUNS[0]) && has_checkpoint(RUNS[1])
    });
    for name in &RUNS[..2] {
        let said = log(&corner, name);
        assert!(said.contains("stopped as asked"), "{said}");
    }
    // An edited study does not resume them: they would be runs of neither study.
    fs::write(corner.path("study.toml"), STUDY).unwrap();
    for more in [&["--jobs", "2"][..], &["--dry-run"], &["--report-only"]] {
        compare(&corner, more).expect(
            1,
            &["seed-3 was made with `train.steps` = 100000000, but the study says 6; choose another --out"],
        );
    }
    assert_eq!(log(&corner, RUNS[0]).matches("$ RAYON").count(), 1);
    fs::write(corner.path("study.toml"), &long).unwrap();
    let resumed = |name: &str| log(&corner, name).contains("resuming after step");
    interrupted(&corner, || resumed(RUNS[0]) && resumed(RUNS[1]));
    for name in &RUNS[..2] {
        let said = log(&corner, name);
        assert_eq!(said.matches("stopped as asked").count(), 2, "{said}");
    }
}
