//! `cargo xtask`: builds the `kiln` binary for the wanted backend and runs it; tests, checks and documents the workspace.
//!
//! Imports no other crate of the workspace, so it builds in seconds. Exit status: 0 done, 1 failed, 2 wrong usage.
#![allow(clippy::print_stdout)] // A command line tool: standard output is what it is for.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod backend;
mod ci;
mod docs;
mod doctor;
mod kiln;
mod probe;
mod test;
mod tidy;
mod vulkan;
mod workspace;

use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;

use workspace::Workspace;

const HELP: &str = "\
Kiln: train, distil, compress and compare efficient language models.

Usage: cargo xtask <command> [arguments]

Run (builds the kiln binary for the backend, then passes all arguments on):
  recipes                list the recipes: purpose, size, expected time and result
  train RECIPE           train a model into a run folder
  count RECIPE           count n-grams of its text in place of training a model
  distill RECIPE         train with a teacher, which is a finished run
  compress RECIPE        make a trained model smaller, stage by stage
  compare STUDY          run several arms under one protocol, over a grid and seeds
  leaderboard DIR        write the pages of committed results
  eval RUN               evaluate a trained model
  score RUN RECIPE       score a trained model as a run of the recipe would be
  cost RUN               measure a model's time, state, memory and energy by length
  bench step RECIPE      time the parts of a training step on random tokens
  bench ops              time the operations that models are made of
  generate RUN           write text with a trained model
  data ...               list, prepare or import datasets
      --backend B        flex (default), wgpu, vulkan, webgpu, metal, cuda or rocm
      --help             the command's own options

Develop:
  doctor                 what is installed, what is missing and how to get it
  test [--backend B] [FILTER]... [-- TEST ARGUMENTS]
                         all tests on flex, or the operation and model tests on B
  tidy                   check the architecture's rules
  docs                   write the pages of results, build the API documentation and the book, check their links
  ci                     everything above, plus formatting, lints and a short training run

Each backend has its own folder under target/ (or CARGO_TARGET_DIR); flex uses target/ itself.
Exit status: 0 done, 1 failed, 2 wrong usage.
";

/// Commands of the `kiln` binary that `cargo xtask` passes on to it.
const KILN_COMMANDS: [&str; 13] = [
    "recipes",
    "train",
    "count",
    "distill",
    "compress",
    "compare",
    "leaderboard",
    "eval",
    "score",
    "cost",
    "bench",
    "generate",
    "data",
];
const OWN_COMMANDS: [&str; 6] = ["help", "doctor", "test", "tidy", "docs", "ci"];

/// Why a command did not succeed; the variant sets the exit status.
#[derive(Debug)]
enum Error {
    /// The command line is wrong: exit status 2.
    Usage(String),
    /// The work was tried and failed: exit status 1.
    Failed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(message) => write!(f, "{message}\n`cargo xtask help` shows the usage"),
            Error::Failed(message) => f.write_str(message),
        }
    }
}

/// What the command line asks for.
#[derive(Debug, PartialEq)]
enum Task {
    Help,
    Kiln(backend::Backend),
    Doctor,
    Test(test::TestArgs),
    Tidy,
    Docs,
    Ci,
}

impl Task {
    fn parse(args: &[OsString]) -> Result<Task, Error> {
        let Some(first) = args.first() else {
            return Ok(Task::Help);
        };
        let name = first.to_string_lossy();
        let rest = &args[1..];
        if KILN_COMMANDS.contains(&name.as_ref()) {
            return Ok(Task::Kiln(backend::find(rest)?));
        }
        let wants_help = rest.iter().take_while(|arg| *arg != "--");
        if OWN_COMMANDS.contains(&name.as_ref())
            && wants_help
                .into_iter()
                .any(|arg| arg == "--help" || arg == "-h")
        {
            return Ok(Task::Help);
        }
        let without_arguments = |task| match rest.first() {
            None => Ok(task),
            Some(extra) => Err(Error::Usage(format!(
                "`{name}` takes no argument, got `{}`",
                extra.display()
            ))),
        };
        match name.as_ref() {
            "help" | "--help" | "-h" => Ok(Task::Help),
            "doctor" => without_arguments(Task::Doctor),
            "test" => Ok(Task::Test(test::TestArgs::parse(rest)?)),
            "tidy" => without_arguments(Task::Tidy),
            "docs" => without_arguments(Task::Docs),
            "ci" => without_arguments(Task::Ci),
            option if option.starts_with('-') => Err(Error::Usage(format!(
                "the command comes first, got the option `{option}`"
            ))),
            unknown => Err(Error::Usage(unknown_command(unknown))),
        }
    }
}

fn unknown_command(name: &str) -> String {
    let known = KILN_COMMANDS.iter().chain(&OWN_COMMANDS);
    let nearest = known.min_by_key(|known| strsim::damerau_levenshtein(name, known));
    match nearest {
        Some(nearest) if strsim::damerau_levenshtein(name, nearest) <= 3 => {
            format!("unknown command `{name}`, did you mean `{nearest}`?")
        }
        _ => format!("unknown command `{name}`"),
    }
}

fn run(args: &[OsString]) -> Result<u8, Error> {
    let task = Task::parse(args)?;
    if task == Task::Help {
        print!("{HELP}");
        return Ok(0);
    }
    let workspace = Workspace::locate()?;
    match task {
        Task::Help => {}
        Task::Kiln(backend) => return kiln::run(&workspace, backend, args),
        Task::Doctor => doctor::run(&workspace)?,
        Task::Test(args) => test::run(&workspace, &args)?,
        Task::Tidy => tidy::run(&workspace)?,
        Task::Docs => docs::run(&workspace, docs::Pages::Write)?,
        Task::Ci => ci::run(&workspace)?,
    }
    Ok(0)
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match run(&args) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(if matches!(error, Error::Usage(_)) {
                2
            } else {
                1
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backend::Backend;

    fn parse(line: &str) -> Result<Task, Error> {
        Task::parse(
            &line
                .split_whitespace()
                .map(OsString::from)
                .collect::<Vec<_>>(),
        )
    }

    fn usage(line: &str) -> String {
        match parse(line) {
            Err(Error::Usage(message)) => message,
            other => panic!("`{line}` gave {other:?}"),
        }
    }

    #[test]
    fn nothing_and_help_show_help() {
        for line in ["", "help", "--help", "-h", "tidy --help", "test -h"] {
            assert_eq!(parse(line).unwrap(), Task::Help, "{line}");
        }
    }

    #[test]
    fn kiln_commands_choose_a_backend() {
        assert_eq!(parse("recipes").unwrap(), Task::Kiln(Backend::Flex));
        assert_eq!(
            parse("train x --backend cuda").unwrap(),
            Task::Kiln(Backend::Cuda)
        );
        assert_eq!(parse("train --help").unwrap(), Task::Kiln(Backend::Flex));
    }

    #[test]
    fn wrong_usage_names_the_way_out() {
        assert_eq!(
            usage("tran"),
            "unknown command `tran`, did you mean `train`?"
        );
        assert_eq!(usage("frobnicate"), "unknown command `frobnicate`");
        assert_eq!(
            usage("--backend vulkan train"),
            "the command comes first, got the option `--backend`"
        );
        assert_eq!(usage("tidy now"), "`tidy` takes no argument, got `now`");
    }

    #[test]
    fn help_names_every_command() {
        for name in KILN_COMMANDS.iter().chain(&OWN_COMMANDS[1..]) {
            assert!(HELP.contains(&format!("\n  {name} ")), "{name}");
        }
    }
}
