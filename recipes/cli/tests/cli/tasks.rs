//! `kiln compare` on several tasks, and what becomes of its results.

use std::fs;

use crate::compare::{STUDY, compare, corner, log, results, run};

/// Two tasks, one of them for the first arm alone, and everything a study leaves behind.
#[test]
fn tasks_have_folders_of_their_own_and_results_become_pages() {
    let tasks = "[[task]]\nname = \"short\"\nset = { \"train.seq\" = 8 }\nlength = 8\n\
                 grid = { \"optimizer.clip_norm\" = [1.0] }\n[[task]]\nname = \"long\"\n";
    let study = STUDY
        .replacen("[[arm]]", &format!("{tasks}[[arm]]"), 1)
        .replace(
            "grid = { \"optimizer.learning_rate\" = [1e-2] }",
            "tasks = [\"long\"]",
        );
    let corner = corner(&study);
    compare(&corner, &["--dry-run"]).expect(
        0,
        &[
            "short/a seed 3",
            "long/b learning_rate=0.01 seed 3",
            "task        short, compared by nats/token",
            "runs        8 = 5 of the grids + 3 arms on tasks x 1 more seeds; 0 finished",
        ],
    );
    compare(&corner, &["--jobs", "2"]).expect(
        0,
        &[
            "8/8 runs   best so far ",
            "short\n  a  ",
            "long\n  a  ",
            "report    out/report.html",
        ],
    );
    for name in [
        "short/a/clip_norm=1.0/seed-4",
        "long/b/learning_rate=0.01/seed-3",
    ] {
        assert!(
            run(&corner, name).join("model.safetensors").is_file(),
            "{name}"
        );
        assert!(log(&corner, name).contains(" --device 0 "), "{name}");
    }
    let found = results(&corner);
    assert!(
        found["arms"].is_null() && found["complete"] == true,
        "{found}"
    );
    assert_eq!(found["tasks"][0]["arms"].as_array().unwrap().len(), 1);
    assert_eq!(found["runs"][0]["task"], "short");
    let table = fs::read_to_string(corner.path("out/results.csv")).unwrap();
    assert_eq!(table.lines().count(), 1 + 8, "{table}");
    let page = fs::read_to_string(corner.path("out/report.html")).unwrap();
    for text in [
        "<h2>Task short</h2>",
        "<svg class=\"plot\"",
        "seeds = [3, 4]",
        "Commands of the 8 runs",
    ] {
        assert!(page.contains(text), "{text}");
    }
    compare(&corner, &[]).expect(0, &["8 runs are finished already"]);

    fs::create_dir(corner.path("kept")).unwrap();
    fs::copy(
        corner.path("out/results.json"),
        corner.path("kept/two-tasks.json"),
    )
    .unwrap();
    let leaderboard =
        |more: &[&str]| corner.kiln(&[&["leaderboard", "kept", "--out", "pages"], more].concat());
    leaderboard(&["--check"]).expect(1, &["pages/index.md, pages/two-tasks.md are not what"]);
    leaderboard(&[]).expect(0, &["2 pages in pages written"]);
    leaderboard(&["--check"]).expect(0, &["2 pages in pages are as they should be"]);
    let page = fs::read_to_string(corner.path("pages/two-tasks.md")).unwrap();
    assert!(
        page.contains("## Task long") && page.contains("| b |  | "),
        "{page}"
    );
    fs::write(corner.path("kept/old.json"), "{\"version\":2}").unwrap();
    leaderboard(&[]).expect(
        1,
        &["kept/old.json has layout version 2, and this Kiln reads 3"],
    );
}

#[test]
fn devices_that_are_not_there_are_wrong_usage_or_told() {
    let corner = corner(STUDY);
    compare(&corner, &["--device", "0,0"]).expect(2, &["names a device twice"]);
    compare(&corner, &["--device", "7"]).expect(1, &["error: "]);
    assert!(!corner.path("out").exists());
}
