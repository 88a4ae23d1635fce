//! `cargo xtask ci`: every check, with the time each step took; stops at the first that fails.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::workspace::{Workspace, execute};
use crate::{Error, docs, kiln, test, tidy};

/// The short training run; the run folder follows.
const TRAIN: [&str; 5] = ["train", "quickstart", "--set", "train.steps=30", "--out"];
/// What the training run must leave in its folder.
const TRAIN_OUTPUTS: [&str; 2] = ["report.html", "model.safetensors"];

/// Without `--release` the dependencies' build scripts and macros would be built a second time.
const CLIPPY: [&str; 7] = [
    "clippy",
    "--release",
    "--workspace",
    "--all-targets",
    "--",
    "-D",
    "warnings",
];

enum Outcome {
    Done,
    Skipped(String),
}

type Step = (&'static str, fn(&Workspace) -> Result<Outcome, Error>);

/// What fails fastest comes first; the Vulkan build takes longest.
const STEPS: [Step; 7] = [
    ("fmt", |workspace| {
        done(execute(
            workspace
                .cargo(Backend::Flex)
                .args(["fmt", "--all", "--check"]),
        ))
    }),
    ("tidy", |workspace| done(tidy::run(workspace))),
    ("clippy", |workspace| {
        done(execute(workspace.cargo(Backend::Flex).args(CLIPPY)))
    }),
    ("test", |workspace| {
        done(test::run(workspace, &test::TestArgs::all(Backend::Flex)))
    }),
    ("train", train),
    ("docs", |workspace| {
        done(docs::run(workspace, docs::Pages::Check))
    }),
    ("test --backend vulkan", test_vulkan),
];

pub fn run(workspace: &Workspace) -> Result<(), Error> {
    let mut table = vec![];
    let result = STEPS.iter().try_for_each(|(name, step)| {
        eprintln!("\n== {name}");
        let begin = Instant::now();
        let outcome = step(workspace);
        let result = match &outcome {
            Ok(Outcome::Done) => "ok".to_owned(),
            Ok(Outcome::Skipped(reason)) => format!("skipped: {reason}"),
            Err(_) => "FAILED".to_owned(),
        };
        eprintln!("== {name}: {result}");
        table.push((*name, begin.elapsed(), result));
        outcome
            .map(|_| ())
            .map_err(|error| Error::Failed(format!("step `{name}`: {error}")))
    });
    print!("\n{}", render(&table));
    result
}

/// One line a step, and the total: name, minutes and seconds, result.
fn render(table: &[(&str, Duration, String)]) -> String {
    let total: Duration = table.iter().map(|(_, time, _)| *time).sum();
    let mut text = String::new();
    for (name, time, result) in table {
        text.push_str(&format!("{name:<24}{:>8}  {result}\n", minutes(*time)));
    }
    text + &format!("{:<24}{:>8}\n", "total", minutes(total))
}

fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

fn done(result: Result<(), Error>) -> Result<Outcome, Error> {
    result.map(|()| Outcome::Done)
}

fn test_vulkan(workspace: &Workspace) -> Result<Outcome, Error> {
    match test::vulkan_driver() {
        Ok(_) => done(test::run(workspace, &test::TestArgs::all(Backend::Vulkan))),
        Err(missing) => Ok(Outcome::Skipped(missing.to_string())),
    }
}

fn train(workspace: &Workspace) -> Result<Outcome, Error> {
    let out = workspace.target(Backend::Flex).join("ci-train");
    if out.exists() {
        let removed = fs::remove_dir_all(&out);
        removed.map_err(|error| Error::Failed(format!("{}: {error}", out.display())))?;
    }
    kiln::build(workspace, Backend::Flex)?;
    let mut command = kiln::command(workspace, Backend::Flex);
    execute(command.current_dir(&workspace.root).args(TRAIN).arg(&out))?;
    check_outputs(&out)?;
    Ok(Outcome::Done)
}

fn check_outputs(out: &Path) -> Result<(), Error> {
    for name in TRAIN_OUTPUTS {
        let length = fs::metadata(out.join(name)).map(|file| file.len());
        if !length.is_ok_and(|length| length > 0) {
            let message = format!("the training run left no {name} in {}", out.display());
            return Err(Error::Failed(message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_steps_results_and_the_total() {
        let seconds = Duration::from_secs;
        let table = [
            ("fmt", seconds(2), "ok".to_owned()),
            ("test", seconds(125), "FAILED".to_owned()),
        ];
        let expected = "\
fmt                         0:02  ok
test                        2:05  FAILED
total                       2:07
";
        assert_eq!(render(&table), expected);
    }

    #[test]
    fn a_training_run_without_its_outputs_is_caught() {
        let out = tempfile::tempdir().unwrap();
        let failure = |out: &Path| match check_outputs(out) {
            Err(Error::Failed(message)) => message,
            other => panic!("{other:?}"),
        };
        assert!(failure(out.path()).contains("no report.html"));
        fs::write(out.path().join("report.html"), "<p>").unwrap();
        fs::write(out.path().join("model.safetensors"), "").unwrap();
        assert!(failure(out.path()).contains("no model.safetensors"));
        fs::write(out.path().join("model.safetensors"), "x").unwrap();
        assert!(check_outputs(out.path()).is_ok());
    }
}
