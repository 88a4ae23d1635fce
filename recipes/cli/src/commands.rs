//! What each subcommand does.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;

use kiln_cost::EnergyMeter;
use kiln_run::recipe::{self, Recipe};
use kiln_run::{Interrupt, Mode, RunFolder, View, format};
use kiln_train::{
    Backend, DeviceError, EnergyCounter, HeldOut, OpenDevice, Outcome, Plan, Request, Resolved,
    Run, RunResult, SampleConfig, Source, Stop, TrainError, TrainRecipe, check_shared, generate,
    has_nccl, known_vocab,
};
use thiserror::Error;

use crate::args::{Args, Command, Compute, Folders, Generate, Train};
use crate::place;

/// A command that did not get done.
#[derive(Debug, Error)]
pub enum CommandError {
    /// Training, evaluation or generation failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The study cannot be run.
    #[error(transparent)]
    Compare(#[from] kiln_compare::CompareError),
    /// The run cannot be compressed.
    #[error(transparent)]
    Compress(#[from] kiln_compress::CompressError),
    /// The cost of a model cannot be measured.
    #[error(transparent)]
    Cost(#[from] kiln_cost::CostError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] kiln_run::FileError),
    /// An argument that no command line parser could check.
    #[error("{0}")]
    Usage(String),
    /// Ctrl-C cannot be caught.
    #[error(transparent)]
    Interrupt(#[from] kiln_run::interrupt::InterruptError),
    /// Standard output is closed.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

impl CommandError {
    /// The process's exit status.
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Train(TrainError::NonFinite { .. }) => kiln_compare::DIVERGED_STATUS,
            _ => 1,
        }
    }
}

/// Runs a command line.
pub fn run(args: Args) -> Result<ExitCode, CommandError> {
    match args.command {
        Command::Recipes => recipes(),
        Command::Train(args) => {
            let recipe = load(&args)?;
            train(args, recipe)
        }
        Command::Count(args) => crate::count::count(args),
        Command::Distill(args) => crate::distill::distill(args),
        Command::Compress(args) => crate::compress::compress(&args),
        Command::Compare(args) => crate::compare::compare(&args),
        Command::Leaderboard(args) => crate::compare::leaderboard(&args),
        Command::Eval(args) => crate::eval::eval(&args),
        Command::Score(args) => crate::score::score(args),
        Command::Cost(args) => crate::cost::cost(&args),
        Command::Bench(args) => crate::bench::bench(&args),
        Command::Generate(args) => continue_text(&args),
        Command::Data(args) => crate::data::data(args),
        Command::Doctor => doctor(),
    }
}

fn recipes() -> Result<ExitCode, CommandError> {
    let mut out = io::stdout().lock();
    let mut list = |book: &Path, use_one: &str| -> Result<(), CommandError> {
        for summary in recipe::list(book).map_err(TrainError::from)? {
            writeln!(out, "{:28} {}", summary.name, summary.description)?;
            for line in summary.header.lines() {
                writeln!(out, "{:28} {line}", "")?;
            }
            writeln!(out)?;
        }
        Ok(writeln!(out, "{use_one}\n")?)
    };
    list(
        &place::book(),
        "Train one with `cargo xtask train NAME`; `--dry-run` shows all its keys.",
    )?;
    list(
        &place::compressions(),
        "Make a run smaller with one of these: `cargo xtask compress NAME --set from=RUN`; `--dry-run` shows its keys and sizes.",
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the recipe of a command line.
pub fn load(args: &Train) -> Result<Recipe<TrainRecipe>, CommandError> {
    let recipe = recipe::load(&place::book(), &args.recipe, &args.overrides);
    Ok(recipe.map_err(TrainError::from)?)
}

/// Opens the device of a command line.
pub fn open(compute: &Compute) -> Result<OpenDevice, CommandError> {
    let backend = Backend::from_str(&compute.backend)
        .map_err(|error| CommandError::Usage(error.to_string()))?;
    Ok(backend.open(compute.device).map_err(TrainError::from)?)
}

/// Opens the devices of a training: as many as `--devices` says, from `--device` on. On the processor, which is one, all are that.
fn open_all(args: &Train) -> Result<Vec<OpenDevice>, CommandError> {
    let backend = Backend::from_str(&args.compute.backend)
        .map_err(|error| CommandError::Usage(error.to_string()))?;
    let first = args.compute.device;
    let number = |at| match backend {
        Backend::Flex => first,
        _ => first + at,
    };
    let open = |at| Ok(backend.open(number(at)).map_err(TrainError::from)?);
    (0..args.devices as usize).map(open).collect()
}

/// Opens the device of the teacher, if it has one of its own.
fn open_teacher(args: &Train, recipe: &TrainRecipe) -> Result<Option<OpenDevice>, CommandError> {
    let Some(number) = args.teacher_device else {
        return Ok(None);
    };
    if recipe.distill.is_none() {
        let why = "--teacher-device is for recipes with a [distill] section, and this one has no teacher: leave the option out";
        return Err(CommandError::Usage(why.into()));
    }
    if number == args.compute.device {
        return Ok(None);
    }
    let backend = Backend::from_str(&args.compute.backend)
        .map_err(|error| CommandError::Usage(error.to_string()))?;
    Ok(Some(backend.open(number).map_err(TrainError::from)?))
}

fn dry_run(args: &Train, recipe: Recipe<TrainRecipe>) -> Result<ExitCode, CommandError> {
    // How large a cache gets follows from the text.
    let is_cached = recipe.value.distill.as_ref().is_some_and(|it| it.cache);
    let (vocab, source) = match known_vocab(&recipe.value)? {
        Some(vocab) if !is_cached => (vocab, None),
        _ => {
            let source = open_source(&recipe.value, &args.folders)?;
            (source.vocab_size()?, Some(source))
        }
    };
    let resolved = Resolved::new(recipe, vocab)?;
    let devices = open_all(args)?;
    check_shared(&resolved.recipe.value, &devices)?;
    open_teacher(args, &resolved.recipe.value)?;
    let plan = Plan::new(&resolved, source.as_ref(), &devices[0].device)?;
    let mut out = io::stdout().lock();
    let written = resolved.written_out()?;
    write!(
        out,
        "{}",
        recipe::to_toml(&written.value).map_err(TrainError::from)?
    )?;
    writeln!(out)?;
    for (name, value) in plan.lines() {
        writeln!(out, "# {name:24} {value}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Trains what a recipe says, or shows it.
pub fn train(args: Train, recipe: Recipe<TrainRecipe>) -> Result<ExitCode, CommandError> {
    if args.dry_run {
        return dry_run(&args, recipe);
    }
    let mut devices = open_all(&args)?;
    let beside = devices.split_off(1);
    let device = devices.swap_remove(0);
    let teacher = open_teacher(&args, &recipe.value)?;
    let meter = EnergyMeter::open(&device.device);
    let out = args
        .out
        .unwrap_or_else(|| RunFolder::default_path(&recipe.name));
    let outcome = kiln_train::train(Request {
        recipe,
        out,
        resume: args.resume,
        device,
        beside,
        teacher,
        data: &place::data(&args.folders),
        source: &place::workspace(),
        versions: place::versions(),
        view: if args.plain { Mode::Plain } else { Mode::Auto },
        interrupt: Interrupt::install()?,
        energy: meter
            .joules()
            .is_some()
            .then(|| -> EnergyCounter { Box::new(move || meter.joules()) }),
    })?;
    show_outcome(&outcome)?;
    Ok(match outcome.stop {
        Stop::Interrupted => ExitCode::from(130),
        _ => ExitCode::SUCCESS,
    })
}

fn show_outcome(outcome: &Outcome) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    let folder = &outcome.folder;
    let Some(result) = &outcome.result else {
        writeln!(
            out,
            "stopped after step {}; everything is in {}",
            outcome.step,
            folder.display()
        )?;
        return Ok(());
    };
    match outcome.stop {
        Stop::OutOfTime => writeln!(
            out,
            "`train.max_seconds` passed after step {}",
            outcome.step
        )?,
        Stop::NoProgress => writeln!(
            out,
            "stopped early after step {}: no better evaluation",
            outcome.step
        )?,
        Stop::Reached => writeln!(
            out,
            "stopped at step {}: `train.target_accuracy` is reached",
            outcome.step
        )?,
        Stop::Finished | Stop::Interrupted => {}
    }
    show_result(&mut out, result)?;
    if let Some(sample) = result.sample.as_deref().filter(|text| !text.is_empty()) {
        writeln!(
            out,
            "\n--- sample ---\n{}\n--------------",
            sample.trim_end()
        )?;
    }
    let report = folder.join("report.html");
    writeln!(out, "\nreport    {}", report.display())?;
    if result.sample.is_some() {
        let folder = folder.display();
        writeln!(
            out,
            "generate  cargo xtask generate {folder} --prompt \"...\""
        )?;
    }
    Ok(())
}

fn show_result(out: &mut impl Write, result: &RunResult) -> io::Result<()> {
    let line = |held_out: &HeldOut| {
        let score = &held_out.score;
        let loss = format!("loss {:.4} nats/token", score.loss());
        match held_out.bits_per_byte {
            Some(bits) => format!("{bits:.4} bits/byte   {loss}"),
            None => format!("accuracy {:.4}   {loss}", score.accuracy()),
        }
    };
    writeln!(
        out,
        "validation  {} over {} tokens   (weights of step {})",
        line(&result.validation),
        result.validation.score.tokens,
        result.best_step
    )?;
    if let Some(beside) = &result.validation.teacher {
        writeln!(
            out,
            "teacher     loss {:.4} nats/token   the same best token at {:.2} % of them   KL {:.4} nats/token",
            beside.teacher.loss(),
            100.0 * beside.agreement(),
            beside.mean_divergence()
        )?;
    }
    if let Some(bigram) = &result.bigram {
        writeln!(
            out,
            "bigram      {:.4} bits/byte   loss {:.4} nats/token   (baseline on the same text)",
            bigram.bits_per_byte, bigram.nats_per_token
        )?;
    }
    if let Some(test) = &result.test {
        writeln!(out, "test        {}", line(test))?;
    }
    writeln!(out, "parameters  {}", format::count(result.params as f64))
}

fn continue_text(args: &Generate) -> Result<ExitCode, CommandError> {
    let device = open(&args.compute)?.device;
    let run = Run::open_in(&args.run, &device, args.precision)?;
    let config = SampleConfig {
        prompt: args.prompt.clone(),
        tokens: args.tokens,
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
    };
    let mut out = io::stdout().lock();
    config.validate()?;
    let tokenizer = run.tokenizer()?;
    write!(out, "{}", args.prompt)?;
    let mut failed = None;
    generate(&run.model, tokenizer, &config, &device, &mut |piece| {
        let shown = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
        failed = failed.take().or(shown.err());
    })?;
    match failed {
        Some(error) => Err(error.into()),
        None => {
            writeln!(out)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Opens the data of a recipe, telling what it does on standard error.
pub fn open_source(recipe: &TrainRecipe, folders: &Folders) -> Result<Source, TrainError> {
    let mut view = View::new(0, Mode::Plain);
    Source::open(recipe, &place::data(folders), &mut view)
}

/// Size of a recipe's vocabulary. Only one that follows from the text needs the text.
pub fn vocab_size(recipe: &TrainRecipe, folders: &Folders) -> Result<usize, TrainError> {
    match known_vocab(recipe)? {
        Some(vocab) => Ok(vocab),
        None => open_source(recipe, folders)?.vocab_size(),
    }
}

fn doctor() -> Result<ExitCode, CommandError> {
    let mut out = io::stdout().lock();
    for backend in Backend::ALL
        .into_iter()
        .filter(|backend| backend.is_compiled())
    {
        match backend.open(0) {
            Ok(device) => {
                let alone = (backend == Backend::Cuda && !has_nccl())
                    .then(|| format!("for several devices: {}", DeviceError::NoNccl));
                let shortcomings: Vec<_> = device.shortcoming().into_iter().chain(alone).collect();
                match shortcomings.is_empty() {
                    true => writeln!(out, "{:8} answers", backend.name())?,
                    false => {
                        let shortcomings = shortcomings.join("; ");
                        writeln!(out, "{:8} answers, but {shortcomings}", backend.name())?;
                    }
                }
            }
            Err(error) => writeln!(out, "{:8} {error}", backend.name())?,
        }
    }
    if io::stderr().is_terminal() {
        writeln!(out, "a live progress view is shown on this terminal")?;
    }
    Ok(ExitCode::SUCCESS)
}
