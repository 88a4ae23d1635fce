//! What works: recipes, dry runs, training, evaluation, generation, data, interruption.

use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{Corner, STREAM};

#[test]
fn recipes_are_listed_and_all_resolve() {
    let corner = Corner::new();
    let said = corner.kiln(&["recipes"]).expect(0, &["quickstart"]);
    let names: Vec<&str> = said
        .out
        .lines()
        .take_while(|line| !line.starts_with("Train one"))
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.contains(&"quickstart"), "{names:?}");
    // The book's recipes need corpora that may not be here, so their data is replaced; the rest is checked.
    let text = format!("data.name=text:{}", corner.text("text.txt"));
    let sizes = ["model.backbone.n_layers=1", "model.backbone.d_model=48"];
    for name in names {
        // Tasks are drawn, and have no data to replace.
        let data = (!name.starts_with("mqar")).then_some(&text[..]);
        let sets = data.into_iter().chain(sizes);
        let sets = sets.flat_map(|set| ["--set", set]);
        let args: Vec<&str> = ["train", name, "--dry-run"]
            .into_iter()
            .chain(sets)
            .collect();
        corner.kiln(&args).expect(0, &["# parameters"]);
    }
}

#[test]
fn a_dry_run_prints_a_recipe_that_reads_back_the_same() {
    let corner = Corner::new();
    let first = corner.dry_run(&["train.steps=77", "model.bk.heads=4"]);
    let first = first.expect(0, &["steps = 77", "heads = 4", "# steps", "77"]);
    fs::write(corner.path("resolved.toml"), &first.out).unwrap();
    let second = corner.kiln(&["train", &corner.text("resolved.toml"), "--dry-run"]);
    assert_eq!(second.expect(0, &[]).out, first.out);
    assert!(!corner.path("runs").exists(), "a dry run writes nothing");
}

#[test]
fn a_run_leaves_everything_there_is_to_keep() {
    let corner = Corner::new();
    let said = corner.train("run", &[]).expect(
        0,
        &[
            "validation",
            "bits/byte",
            "bigram",
            "parameters",
            "--- sample ---",
            "report",
        ],
    );
    assert!(said.err.contains("step 10: validation loss"), "{said:?}");
    for name in [
        "recipe.toml",
        "run.json",
        "metrics.jsonl",
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "report.html",
        "samples.txt",
        "checkpoints/best.json",
        "checkpoints/step-00000030/manifest.json",
    ] {
        let size = fs::metadata(corner.path("run").join(name)).map(|meta| meta.len());
        assert!(size.is_ok_and(|size| size > 0), "{name} is not there");
    }
    let entries = fs::read_dir(corner.path("run")).unwrap();
    for entry in entries {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.contains("tmp"), "{name} was left behind");
    }
    let run: serde_json::Value =
        serde_json::from_slice(&fs::read(corner.path("run/run.json")).unwrap()).unwrap();
    assert_eq!(run["seed"], 5);
    assert!(run["versions"]["burn"].is_string(), "{run}");
    let samples = fs::read_to_string(corner.path("run/samples.txt")).unwrap();
    assert!(samples.starts_with("the"), "{samples}");
}

#[test]
fn evaluation_tells_the_loss_whatever_the_batch() {
    let corner = Corner::trained();
    let score = |more: &[&str]| {
        let args: Vec<&str> = ["eval", "run"].iter().chain(more).copied().collect();
        let said = corner
            .kiln(&args)
            .expect(0, &["targets", "accuracy", "bits/byte", "perplexity"]);
        let line = said
            .out
            .lines()
            .find(|line| line.starts_with("loss"))
            .unwrap();
        let value = line.split_whitespace().nth(1).unwrap();
        value.parse::<f64>().unwrap()
    };
    let one = score(&["--batch", "1"]);
    // Six digits are printed.
    assert!((one - score(&["--batch", "7"])).abs() < 2e-6);
    let some = score(&["--windows", "3", "--batch", "2"]);
    assert_eq!(some, score(&["--windows", "3", "--batch", "1"]));
    score(&["--split", "test"]);
    score(&["--split", "train"]);
    // The final record of the run is the same sweep.
    let metrics = fs::read_to_string(corner.path("run/metrics.jsonl")).unwrap();
    let last: serde_json::Value = metrics
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find(|record| record["kind"] == "final")
        .unwrap();
    let told = last["values"]["validation_loss"].as_f64().unwrap();
    assert!((told - one).abs() < 2e-6, "{told} {one}");
}

#[test]
fn a_seed_is_a_text() {
    let corner = Corner::trained();
    let text = |seed: &str| {
        let args = [
            "generate", "run", "--prompt", "the ", "--tokens", "60", "--seed", seed,
        ];
        corner.kiln(&args).expect(0, &[]).out
    };
    let first = text("1");
    assert!(first.starts_with("the "), "{first}");
    assert_eq!(
        first.chars().count(),
        4 + 60 + 1,
        "prompt, tokens, line end"
    );
    assert_eq!(first, text("1"));
    assert_ne!(first, text("2"));
    let greedy = [
        "generate",
        "run",
        "--prompt",
        "the ",
        "--tokens",
        "9",
        "--temperature",
        "0",
    ];
    let greedy = |seed| {
        let args: Vec<&str> = greedy.iter().copied().chain(["--seed", seed]).collect();
        corner.kiln(&args).expect(0, &[]).out
    };
    assert_eq!(
        greedy("1"),
        greedy("2"),
        "the likeliest token needs no seed"
    );
}

/// More tokens than a pipe holds are asked for, so that the process must still be at work when the first ones are read.
#[test]
fn text_comes_while_it_is_made() {
    let corner = Corner::trained();
    let args = ["generate", "run", "--prompt", "the", "--tokens", "10000000"];
    let mut child = corner
        .command(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut first = [0; 40];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    let still_running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(still_running);
    assert!(first.starts_with(b"the"));
}

#[test]
fn data_is_prepared_and_listed() {
    let corner = Corner::new();
    corner
        .kiln(&["data", "list"])
        .expect(0, &["rust-deps", "tiny-shakespeare", "text:PATH"]);
    let name = format!("text:{}", corner.text("text.txt"));
    let bytes = (STREAM.len() * 40 * 9 / 10).to_string();
    let args = ["data", "prepare", &name, "--tokenizer", "chars"];
    corner.kiln(&args).expect(
        0,
        &[
            "vocabulary  28",
            &format!("{bytes} bytes"),
            "validation",
            "folder",
        ],
    );
    corner.kiln(&args).expect(0, &["prepared before"]);
    corner.kiln(&["doctor"]).expect(0, &["flex     answers"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_resume_goes_on() {
    let corner = Corner::new();
    let recipe = corner.text("recipe.toml");
    let long = [
        "--set",
        "train.steps=100000000",
        "--set",
        "train.keep_checkpoints=1",
    ];
    let args: Vec<&str> = ["train", &recipe, "--out", "run"]
        .into_iter()
        .chain(long)
        .collect();
    let mut child = corner
        .command(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let checkpoints = corner.path("run/checkpoints");
    while !fs::read_dir(&checkpoints).is_ok_and(|mut entries| entries.next().is_some()) {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "no checkpoint came"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let id = child.id().to_string();
    let kill = std::process::Command::new("kill")
        .args(["-INT", &id])
        .status()
        .unwrap();
    assert!(kill.success());
    let status = child.wait().unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.unwrap().read_to_string(&mut out).unwrap();
    child.stderr.unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(status.code(), Some(130), "{out}{err}");
    assert!(
        err.contains("stopped as asked; go on with --resume"),
        "{err}"
    );
    assert!(out.contains("stopped after step "), "{out}");
    corner.kiln(&["generate", "run", "--prompt", "the"]).expect(
        1,
        &["config.json is not usable: there is no such file; the run has not reached its end (go on with --resume)"],
    );
    // Any number of steps below those made ends it at once.
    corner
        .train(
            "run",
            &[
                "--resume",
                "--set",
                "train.steps=1",
                "--set",
                "train.keep_checkpoints=1",
            ],
        )
        .expect(0, &["resuming after step", "validation"]);
}
