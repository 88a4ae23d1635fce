//! `kiln compare`: plans a study, checks that it is fair, runs it and reports.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use kiln_compare::execute::{execute, finished, seconds_left};
use kiln_compare::fairness::{check, check_runs, costs};
use kiln_compare::results::{ArmResult, TaskResult};
use kiln_compare::{
    CellCost, CompareError, Event, Execution, Launch, Layout, Length, Results, Running,
    leaderboard, study,
};
use kiln_run::live::Line;
use kiln_run::{Board, FileError, Interrupt, Mode, format, recipe};
use kiln_text::DataConfig;
use kiln_train::{TrainError, TrainRecipe, known_vocab};

use crate::args::{Compare, Compute, Leaderboard};
use crate::commands::{CommandError, open, open_source};
use crate::place;

/// Runs a study, or lists the studies there are.
pub fn compare(args: &Compare) -> Result<ExitCode, CommandError> {
    let Some(name) = &args.study else {
        return list();
    };
    let loaded = study::load(&place::studies(), name)?;
    let default = || PathBuf::from("runs").join(format!("compare-{}", loaded.name));
    let out = args.out.clone().unwrap_or_else(default);
    let mut layout = Layout::new(loaded, &place::book(), &out)?;
    if args.report_only {
        layout.read_budget()?;
        let state = finished(&layout)?;
        return report(&layout, &state);
    }
    let first = Compute {
        backend: args.backend.clone(),
        device: args.device.0.first().copied().unwrap_or(0),
    };
    let device = open(&first)?.device;
    let mut vocabularies = Vocabularies {
        args,
        known: Vec::new(),
    };
    let mut costs = costs(&layout, &device, &mut |recipe| vocabularies.of(recipe))?;
    layout.spend(&mut costs)?;
    check(&layout.tasks, &costs)?;
    if args.dry_run {
        return show_plan(&layout, &costs);
    }
    check_runs(&layout)?;
    layout.write_budget()?;
    let program = std::env::current_exe().map_err(FileError::io("find", "kiln".as_ref()));
    let launch = Launch {
        program: program.map_err(CompareError::from)?,
        arguments: vec!["--backend".into(), (&args.backend).into()],
        data: data_arguments(args),
        jobs: args.jobs as usize,
        devices: args.device.0.clone(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        interrupt: Interrupt::install()?,
    };
    let mode = if args.plain { Mode::Plain } else { Mode::Auto };
    let mut board = Board::new(mode);
    let done = execute(&layout, &launch, &mut |event| show(&mut board, &event));
    board.finish();
    finish(&layout, &done?)
}

/// Writes or checks the pages of committed results.
pub fn leaderboard(args: &Leaderboard) -> Result<ExitCode, CommandError> {
    let pages = leaderboard::pages(&args.results)?;
    let word = match args.check {
        true => leaderboard::check(&pages, &args.out).map(|()| "are as they should be"),
        false => leaderboard::write(&pages, &args.out).map(|()| "written"),
    }?;
    let (count, out) = (pages.len(), args.out.display());
    writeln!(io::stdout(), "{count} pages in {out} {word}")?;
    Ok(ExitCode::SUCCESS)
}

fn list() -> Result<ExitCode, CommandError> {
    let mut out = io::stdout().lock();
    for summary in recipe::list(&place::studies()).map_err(TrainError::from)? {
        writeln!(out, "{:20} {}", summary.name, summary.description)?;
    }
    writeln!(
        out,
        "\nRun one with `cargo xtask compare NAME`; `--dry-run` shows its runs."
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Events become lines, but for what a live view shows by itself.
fn show(board: &mut Board, event: &Event<'_>) {
    match event {
        Event::Running { runs, standing } => {
            let lines: Vec<_> = runs.iter().map(line).collect();
            board.update(&lines, &standing.to_string());
        }
        Event::Started { .. } if board.is_live() => {}
        event => board.message(&event.to_string()),
    }
}

fn line(run: &Running) -> Line {
    let loss = run
        .loss
        .map(|loss| format!("loss {}", format::number(loss)));
    let rate = run
        .tokens_per_second
        .map(|rate| format!("{} tok/s", format::count(rate)));
    let measures: Vec<_> = loss.into_iter().chain(rate).collect();
    Line {
        name: run.title.clone(),
        step: run.step,
        total: run.total,
        measures: measures.join("   "),
    }
}

/// What every run of the study gets from this command line, beside the backend.
fn data_arguments(args: &Compare) -> Vec<OsString> {
    let dir = args.folders.data_dir.as_ref();
    dir.map_or(Vec::new(), |dir| vec!["--data-dir".into(), dir.into()])
}

/// Sizes of vocabularies, each corpus prepared once: children then find it in the cache, and do not prepare it side by side.
struct Vocabularies<'a> {
    args: &'a Compare,
    known: Vec<(DataConfig, usize)>,
}

impl Vocabularies<'_> {
    fn of(&mut self, recipe: &TrainRecipe) -> Result<usize, TrainError> {
        // A task has nothing to prepare, and a dry run prepares only what it cannot do without.
        if (recipe.task.is_some() || self.args.dry_run)
            && let Some(vocab) = known_vocab(recipe)?
        {
            return Ok(vocab);
        }
        if let Some((_, vocab)) = self.known.iter().find(|(data, _)| *data == recipe.data) {
            return Ok(*vocab);
        }
        let vocab = open_source(recipe, &self.args.folders)?.vocab_size()?;
        self.known.push((recipe.data.clone(), vocab));
        Ok(vocab)
    }
}

fn show_plan(layout: &Layout, costs: &[CellCost]) -> Result<ExitCode, CommandError> {
    let state = finished(layout)?;
    let mut out = io::stdout().lock();
    let width = layout.all().map(|run| layout.title(run).len()).max();
    let width = width.unwrap_or(0);
    writeln!(
        out,
        "{:width$}  parameters  tokens  operations",
        "grid, first seed"
    )?;
    let mut operations = 0.0;
    let none = || format::NONE.to_string();
    for run in layout.all() {
        let first = layout.study.seeds.first();
        let (_, facts) = &costs[run.cell].points[run.point];
        if Some(&run.seed) != first {
            continue;
        }
        operations += facts.flops.unwrap_or(0.0);
        let done = if state.finished.contains_key(&run) {
            "  finished"
        } else {
            ""
        };
        writeln!(
            out,
            "{:width$}  {:>10}  {:>6}  {:>10}{}{done}",
            layout.title(run),
            facts.parameters.map_or_else(none, |n| n.to_string()),
            facts.tokens.map_or_else(none, |n| format::count(n as f64)),
            facts.flops.map_or_else(none, |n| format!("{n:.2e}")),
            time_words(layout, run.cell)
        )?;
    }
    let later = layout.study.seeds.len() - 1;
    for cell in costs {
        let most = cell.points.iter().filter_map(|(_, facts)| facts.flops);
        operations += later as f64 * most.fold(0.0, f64::max);
    }
    writeln!(out)?;
    for (number, task) in layout.tasks.iter().enumerate() {
        let first = costs.iter().find(|cell| cell.task == number);
        let Some((_, facts)) = first.and_then(|cell| cell.points.first()) else {
            continue;
        };
        if let Some(name) = &task.name {
            writeln!(
                out,
                "task        {name}, compared by {}",
                task.measure.unit()
            )?;
        }
        writeln!(out, "data        {}", facts.data)?;
        writeln!(out, "scoring     {}", facts.scoring)?;
    }
    let (cells, total) = (layout.cells.len(), layout.total());
    let arms = match layout.study.task.is_empty() {
        true => format!("{cells} arms"),
        false => format!("{cells} arms on tasks"),
    };
    writeln!(
        out,
        "runs        {total} = {} of the grids + {arms} x {later} more seeds; {} finished",
        total - cells * later,
        state.settled(layout)
    )?;
    writeln!(
        out,
        "operations  {operations:.2e} in all, forward and backward"
    )?;
    if let Some(plan) = &layout.study.cost {
        let measured = |cell: &&kiln_compare::layout::Cell| {
            let task = layout.tasks[cell.task].name.as_deref();
            let of_another = matches!(cell.length, Length::ModelsOf(_));
            let counts = layout.study.arm[cell.arm].ngram.is_some();
            plan.asks(task) && !of_another && !counts
        };
        writeln!(
            out,
            "costs       {} models measured for {} each",
            layout.cells.iter().filter(measured).count(),
            format::duration(plan.seconds)
        )?;
    }
    if let Err(error) = check_runs(layout) {
        writeln!(out, "missing     {error}")?;
    }
    match seconds_left(layout, &state) {
        Some(seconds) => writeln!(
            out,
            "time left   {} one after the other, going by the finished runs",
            format::duration(seconds)
        )?,
        None => writeln!(out, "time        unknown before the first run is finished")?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What ends the runs of a cell, where that is time.
fn time_words(layout: &Layout, cell: usize) -> String {
    match layout.cells[cell].length {
        Length::Seconds(seconds) => format!("  {seconds} s"),
        Length::TimeOf(of) => format!("  as long as {}", layout.cells[of].title),
        Length::Whole => "  the text once".into(),
        Length::Loaded => "  a finished run, scored".into(),
        Length::ModelsOf(of) => format!("  models of {}, scored", layout.cells[of].title),
        Length::Recipe | Length::Tokens(_) | Length::Flops(_) => String::new(),
    }
}

fn finish(layout: &Layout, done: &Execution) -> Result<ExitCode, CommandError> {
    let shown = match done.state.finished.is_empty() {
        true => ExitCode::SUCCESS,
        false => report(layout, &done.state)?,
    };
    let mut err = io::stderr();
    for failure in &done.failures {
        let log = failure.log.display();
        writeln!(
            err,
            "failed: {} ({}), see {log}",
            failure.title, failure.how
        )?;
    }
    if done.interrupted {
        writeln!(err, "stopped as asked; the same command goes on")?;
        return Ok(ExitCode::from(130));
    }
    Ok(match done.failures.is_empty() {
        true => shown,
        false => ExitCode::FAILURE,
    })
}

/// Writes both files and shows the verdicts.
fn report(
    layout: &Layout,
    state: &kiln_compare::protocol::State,
) -> Result<ExitCode, CommandError> {
    // Without it the command is the one that makes the runs.
    let words = std::env::args_os().skip(1);
    let words = words.filter(|word| word != "--report-only");
    let words = words.map(|word| word.to_string_lossy().into_owned());
    let command = ["cargo".into(), "xtask".into()].into_iter().chain(words);
    let results = Results::new(layout, state, command.collect())?;
    kiln_compare::report::write(layout, state, &results)?;
    let mut out = io::stdout().lock();
    let names = results.study.arm.iter();
    let width = names.map(|arm| arm.name.len()).max().unwrap_or(0);
    for task in &results.tasks {
        if let Some(name) = &task.name {
            writeln!(out, "{name}")?;
        }
        let indent = if task.name.is_some() { "  " } else { "" };
        for arm in &task.arms {
            let line = summary(&results, task, arm);
            writeln!(out, "{indent}{:width$}  {line}", arm.name)?;
        }
    }
    writeln!(
        out,
        "\nresults   {}",
        layout.out.join("results.md").display()
    )?;
    writeln!(
        out,
        "report    {}",
        layout.out.join("report.html").display()
    )?;
    Ok(ExitCode::SUCCESS)
}

/// `1.7710 ± 0.0080 nats/token   better`.
fn summary(results: &Results, task: &TaskResult, arm: &ArmResult) -> String {
    let Some(score) = arm.measured(task.measure) else {
        let (done, all) = (arm.seeds.len(), results.study.seeds.len());
        return format!("incomplete: {done} of {all} seeds");
    };
    let verdict = arm.against_first.map_or("", |found| found.verdict.text());
    format!("{score} {}   {verdict}", task.measure.unit())
}
