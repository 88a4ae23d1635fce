//! `cargo xtask ci`: every check, with the time each step took; stops at the first that fails.

use std::fs;
use std::path::{Path, PathBuf};
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

/// The small study; the output folder follows.
const COMPARE: [&str; 5] = ["compare", "smoke", "--jobs", "2", "--out"];
/// Its runs: three arms on two tasks, one of which has a grid of two, and on that task an arm more and n-grams of two orders; two seeds.
const COMPARE_RUNS: usize = 21;

/// What would ask for another file; text of the report is escaped, so that it has none of these.
const ELSEWHERE: [&str; 4] = ["<script", "<link", "<img", "<iframe"];

enum Outcome {
    Done,
    Skipped(String),
}

type Step = (&'static str, fn(&Workspace) -> Result<Outcome, Error>);

/// What fails fastest comes first; the Vulkan build takes longest.
const STEPS: [Step; 8] = [
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
    ("compare", compare),
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
    let out = fresh(workspace, "ci-train")?;
    kiln::build(workspace, Backend::Flex)?;
    let mut command = kiln::command(workspace, Backend::Flex);
    execute(command.current_dir(&workspace.root).args(TRAIN).arg(&out))?;
    check_outputs(&out)?;
    Ok(Outcome::Done)
}

fn compare(workspace: &Workspace) -> Result<Outcome, Error> {
    let out = fresh(workspace, "ci-compare")?;
    kiln::build(workspace, Backend::Flex)?;
    let mut command = kiln::command(workspace, Backend::Flex);
    execute(command.current_dir(&workspace.root).args(COMPARE).arg(&out))?;
    check_study(&out)?;
    Ok(Outcome::Done)
}

/// Every run is there, every arm has its mean, and the page is whole and asks for nothing.
fn check_study(out: &Path) -> Result<(), Error> {
    let read = |name: &str| {
        let path = out.join(name);
        let text = fs::read_to_string(&path);
        text.map_err(|error| Error::Failed(format!("{}: {error}", path.display())))
    };
    let (results, table, report) = (
        read("results.json")?,
        read("results.csv")?,
        read("report.html")?,
    );
    let rows = table.lines().count().saturating_sub(1);
    let problems = [
        (
            !results.contains("\"complete\": true"),
            "results.json: not every arm is complete".to_owned(),
        ),
        (
            rows != COMPARE_RUNS,
            format!("results.csv: {rows} rows, not {COMPARE_RUNS}"),
        ),
        (
            !report.ends_with("</html>\n"),
            "report.html: it has no end".to_owned(),
        ),
        (
            !report.contains("<svg class=\"plot\""),
            "report.html: it has no chart".to_owned(),
        ),
        (
            ELSEWHERE.iter().any(|tag| report.contains(tag)),
            "report.html: it asks for another file".to_owned(),
        ),
    ];
    match problems.into_iter().find(|(is_one, _)| *is_one) {
        None => Ok(()),
        Some((_, problem)) => Err(Error::Failed(format!("{}/{problem}", out.display()))),
    }
}

/// A folder of the target folder, without what an earlier run left there.
fn fresh(workspace: &Workspace, name: &str) -> Result<PathBuf, Error> {
    let out = workspace.target(Backend::Flex).join(name);
    if out.exists() {
        let removed = fs::remove_dir_all(&out);
        removed.map_err(|error| Error::Failed(format!("{}: {error}", out.display())))?;
    }
    Ok(out)
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
    fn a_study_that_lacks_something_is_caught() {
        let out = tempfile::tempdir().unwrap();
        let good = [
            ("results.json", "{\n  \"complete\": true\n}".to_owned()),
            ("results.csv", "run\n".repeat(COMPARE_RUNS + 1)),
            (
                "report.html",
                "<svg class=\"plot\"></svg></html>\n".to_owned(),
            ),
        ];
        let write = |name: &str, text: &str| fs::write(out.path().join(name), text).unwrap();
        let failure = || match check_study(out.path()) {
            Err(Error::Failed(message)) => message,
            other => panic!("{other:?}"),
        };
        assert!(failure().contains("results.json: "));
        let restore = || good.iter().for_each(|(name, text)| write(name, text));
        restore();
        assert!(check_study(out.path()).is_ok());
        for (name, text, message) in [
            (
                "results.json",
                "{\"complete\": false}",
                "not every arm is complete",
            ),
            ("results.csv", "run\n1\n", "results.csv: 1 rows, not 21"),
            ("report.html", "<svg class=\"plot\">", "it has no end"),
            ("report.html", "</html>\n", "it has no chart"),
            (
                "report.html",
                "<svg class=\"plot\"></svg><img src=x></html>\n",
                "asks for another file",
            ),
        ] {
            write(name, text);
            assert!(failure().contains(message), "{message}");
            restore();
        }
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
