//! `kiln compare` on finished runs: an original beside what compressions made of it, with what each costs.

use std::fs;

use crate::common::{Corner, Said};
use crate::compare::{compare, log, results, run};

const STUDY: &str = r#"
seeds = [5]
cost = { lengths = [4, 8], batches = [1], seconds = 0.5 }
[[arm]]
name = "whole"
recipe = "./recipe.toml"
runs = ["run"]
[[arm]]
name = "small"
recipe = "./recipe.toml"
runs = ["small"]
"#;

fn compress(corner: &Corner, recipe: &str) -> Said {
    corner.kiln(&[
        "compress",
        recipe,
        "--set",
        "from=run",
        "--set",
        "measure.decode_seconds=0.1",
        "--out",
        "small",
    ])
}

fn with_study(study: &str) -> Corner {
    let corner = Corner::trained();
    fs::write(corner.path("study.toml"), study).unwrap();
    corner
}

#[test]
fn compressed_runs_are_arms_beside_their_original() {
    let corner = with_study(STUDY);
    compare(&corner, &[]).expect(
        1,
        &["error: arm `small` is the finished run small, and there is none"],
    );
    compress(&corner, "int8").expect(0, &[]);
    compare(&corner, &["--dry-run"]).expect(
        0,
        &[
            "small seed 5",
            "a finished run, scored",
            "costs       2 models measured for 0.5s each",
        ],
    );
    compare(&corner, &["--jobs", "2"]).expect(
        0,
        &["2/2 runs", "measuring the cost of small (2 of 2) for 0.5s"],
    );
    let found = results(&corner);
    let (whole, small) = (&found["arms"][0], &found["arms"][1]);
    assert_eq!(found["complete"], true);
    assert_eq!(small["compressed_of"], "whole");
    assert!(whole["compressed_of"].is_null(), "{whole}");
    let bytes = |arm: &serde_json::Value| arm["model_bytes"].as_u64().unwrap();
    // Much of so small a model is its configuration.
    assert!(3 * bytes(small) < 2 * bytes(whole), "{found}");
    // The windows are those that the run was scored on when it was trained.
    let metrics = fs::read_to_string(corner.path("run/metrics.jsonl")).unwrap();
    let last = metrics
        .lines()
        .find(|line| line.contains("\"final\""))
        .unwrap();
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    for key in ["validation_loss", "test_loss", "validation_word_perplexity"] {
        let (scored, trained) = (&whole[key]["mean"], &last["values"][key]);
        let (scored, trained) = (scored.as_f64().unwrap(), trained.as_f64().unwrap());
        assert!(
            (scored / trained - 1.0).abs() < 1e-6,
            "{key}: {scored} {trained}"
        );
    }
    assert!(whole["tokens"].is_null() && small["against_first"]["windows"][0].is_f64());
    for arm in [whole, small] {
        let rows = arm["cost"]["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 2, "{arm}");
        assert!(
            rows[0]["decode_seconds_per_token"].as_f64().unwrap() > 0.0,
            "{arm}"
        );
    }
    assert_eq!(small["cost"]["crossovers"].as_array().unwrap().len(), 4);
    assert!(
        !corner.path("run/cost.json").exists(),
        "a run that is loaded stays as it is"
    );
    let page = fs::read_to_string(corner.path("out/report.html")).unwrap();
    for text in [
        "MiB on disk",
        "Costs by length",
        "Recipe of small, default, seed 5",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert!(corner.path("out/costs.csv").is_file());

    // Nothing is scored or measured twice, until the run is another one.
    let said = compare(&corner, &[]).expect(0, &["2 runs are finished already"]);
    assert!(!said.err.contains("measuring"), "{said:?}");
    fs::remove_dir_all(corner.path("small")).unwrap();
    compare(&corner, &["--report-only"]).expect(0, &[]);
    assert_eq!(results(&corner)["arms"], found["arms"]);
    compress(&corner, "int4-rtn").expect(0, &[]);
    let said = compare(&corner, &[]).expect(0, &["1 runs are finished already"]);
    assert!(
        said.err.contains("measuring the cost of small (1 of 1)"),
        "{said:?}"
    );
    assert!(bytes(&results(&corner)["arms"][1]) < bytes(small));
    assert!(
        run(&corner, "small/default/seed-5")
            .join("windows.json")
            .is_file()
    );
}

#[test]
fn a_run_of_something_else_is_refused() {
    for (from, to, message) in [
        (
            "[5]",
            "[6]",
            "run was made with another seed than it is to be scored with: 5 against 6",
        ),
        (
            "runs = [\"run\"]",
            "runs = [\"run\"]\nset = { \"data.tokenizer\" = \"bytes\" }",
            "run was made with another tokenizer than",
        ),
        (
            "runs = [\"run\"]",
            "runs = [\"run\"]\nset = { \"data.max_bytes\" = 2000 }",
            "run was made with another text than",
        ),
    ] {
        let (one, _) = STUDY.split_once("[[arm]]\nname = \"small\"").unwrap();
        assert!(one.contains(from), "{from}");
        let corner = with_study(&one.replacen(from, to, 1));
        compare(&corner, &[]).expect(1, &["whole seed ", " failed: exit status: 1"]);
        let seed = if to == "[6]" { 6 } else { 5 };
        let said = log(&corner, &format!("whole/default/seed-{seed}"));
        assert!(said.contains(message), "{said}");
    }
    for (from, to, message) in [
        (
            "[5]",
            "[5, 6]",
            "`arm.runs` is a list of 1, but the study has 2 seeds",
        ),
        (
            "runs = [\"run\"]",
            "runs = [\"run\"]\ngrid = {}",
            "nothing is trained: leave `grid`",
        ),
    ] {
        compare(&with_study(&STUDY.replacen(from, to, 1)), &[]).expect(1, &[message]);
    }
}

const LENGTHS: &str = r#"
seeds = [1, 2]
grid = { "optimizer.learning_rate" = [1e-3, 1e-2] }
[[task]]
name = "heads-8"
set = { "task.induction-heads.length" = 8 }
measure = "accuracy"
length = 8
[[task]]
name = "heads-32"
of = "heads-8"
set = { "task.induction-heads.length" = 32 }
measure = "accuracy"
length = 32
[[arm]]
name = "a"
recipe = "./heads.toml"
"#;

const HEADS: &str = r#"
[task]
held_out_examples = 16
[model]
preset = "transformer-tiny"
[model.backbone]
d_model = 16
n_layers = 1
d_hidden = 32
[train]
steps = 6
batch = 4
eval_every = 3
eval_batches = 1
checkpoint_every = 6
"#;

#[test]
fn models_of_one_task_are_scored_on_another() {
    let corner = Corner::new();
    fs::write(corner.path("study.toml"), LENGTHS).unwrap();
    fs::write(corner.path("heads.toml"), HEADS).unwrap();
    compare(&corner, &["--dry-run"]).expect(
        0,
        &[
            "models of heads-8/a, scored",
            "runs        5 = 3 of the grids + 2 arms on tasks x 1 more seeds",
        ],
    );
    compare(&corner, &[]).expect(0, &["5/5 runs"]);
    let found = results(&corner);
    let (short, long) = (&found["tasks"][0]["arms"][0], &found["tasks"][1]["arms"][0]);
    assert_eq!(
        (&found["complete"], &long["chosen"]),
        (&true.into(), &"default".into())
    );
    let weights = |task: &str, point: &serde_json::Value| {
        let runs = found["runs"].as_array().unwrap().iter();
        let of = runs.filter(|run| run["task"] == task && run["point"] == *point);
        of.map(|run| run["weights"].clone()).collect::<Vec<_>>()
    };
    let trained = weights("heads-8", &short["chosen"]);
    assert_eq!(trained.len(), 2);
    assert_eq!(weights("heads-32", &long["chosen"]), trained);
    let scored = run(&corner, "heads-32/a/default/seed-2/recipe.toml");
    assert!(fs::read_to_string(scored).unwrap().contains("length = 32"));
    let page = fs::read_to_string(corner.path("out/report.html")).unwrap();
    for text in [
        "heads: accuracy against length",
        "the chosen models of heads-8 are scored",
    ] {
        assert!(page.contains(text), "{text}");
    }
    let said = compare(&corner, &[]).expect(0, &["5 runs are finished already"]);
    assert!(!said.err.contains("start "), "{said:?}");
    // In another folder they are the same runs.
    fs::rename(corner.path("out"), corner.path("moved")).unwrap();
    let study = corner.text("study.toml");
    corner
        .kiln(&["compare", &study, "--out", "moved", "--report-only"])
        .expect(0, &["results   moved/results.md"]);

    for (from, to, message) in [
        ("of = \"heads-8\"", "of = \"none\"", "there is no such task"),
        (
            "of = \"heads-8\"",
            "of = \"heads-32\"",
            "it trains nothing that",
        ),
        (
            "length = 32\n[[arm]]",
            "length = 32\ngrid = {}\n[[arm]]",
            "leave `grid` and `budget`",
        ),
        (
            "name = \"a\"",
            "name = \"b\"\nrecipe = \"./heads.toml\"\ntasks = [\"heads-32\"]\n[[arm]]\nname = \"a\"",
            "arm `b` does not run it",
        ),
    ] {
        assert!(LENGTHS.contains(from), "{from}");
        fs::write(corner.path("study.toml"), LENGTHS.replacen(from, to, 1)).unwrap();
        compare(&corner, &["--dry-run"]).expect(1, &[message]);
    }
}
