//! `kiln cost`: what a model costs on a backend, alone or against others.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kiln_cost::{Bench, Cost as Measured, Outcome, Row, Settings, Subject, measure, page};
use kiln_run::hardware::{Hardware, Provenance};
use kiln_run::{FileError, RunFolder, format, recipe};
use kiln_train::{OpenDevice, Resolved, TrainError, TrainRecipe};

use crate::args::Cost;
use crate::commands::{CommandError, open, vocab_size};
use crate::place;

/// The page beside `cost.json`.
const PAGE: &str = "cost.html";

/// Measures every model that is named, writes `cost.json` of each and one page of all.
pub fn cost(args: &Cost) -> Result<ExitCode, CommandError> {
    let settings = Settings {
        lengths: args.lengths.clone(),
        batches: args.batches.clone(),
        seconds: args.seconds,
    };
    settings.validate().map_err(usage)?;
    let device = open(&args.compute)?;
    let names: Vec<&str> = [&args.model]
        .into_iter()
        .chain(&args.against)
        .map(String::as_str)
        .collect();
    // A wrong name is told before others are measured for minutes. Then one at a time: peaks of memory are the process'.
    for name in &names {
        subject(name, args, &device)?;
    }
    let mut costs = Vec::new();
    let out = out_folder(args);
    for name in &names {
        let subject = subject(name, args, &device)?;
        let file = match &args.json {
            Some(file) => file.clone(),
            None => file(name, &subject, &out, names.len())?,
        };
        costs.push(measured(&subject, &settings, &device, &file)?);
    }
    std::fs::create_dir_all(&out).map_err(FileError::io("create", &out))?;
    page::write(&costs, &out.join(PAGE))?;
    let mut shown = io::stdout().lock();
    for table in page::tables(&costs) {
        writeln!(shown, "{}", table.text())?;
    }
    writeln!(shown, "page      {}", out.join(PAGE).display())?;
    Ok(ExitCode::SUCCESS)
}

/// A setting that is refused is wrong usage, whoever refuses it.
fn usage(error: kiln_cost::CostError) -> CommandError {
    match error {
        kiln_cost::CostError::Setting { .. } => CommandError::Usage(error.to_string()),
        other => other.into(),
    }
}

/// A folder is a run; other names are presets or recipes.
fn subject(name: &str, args: &Cost, device: &OpenDevice) -> Result<Subject, CommandError> {
    let device = &device.device;
    if Path::new(name).is_dir() {
        return Ok(Subject::of_run(Path::new(name), device)?);
    }
    if let Some(subject) = Subject::of_preset(name, device)? {
        return Ok(subject);
    }
    let recipe =
        recipe::load::<TrainRecipe>(&place::book(), name, &[]).map_err(TrainError::from)?;
    let vocab = vocab_size(&recipe.value, &args.folders)?;
    let resolved = Resolved::new(recipe, vocab)?;
    Ok(Subject::of_recipe(&resolved, device)?)
}

/// Where the page goes: the folder of the first model's run, if it is one.
fn out_folder(args: &Cost) -> PathBuf {
    let model = Path::new(&args.model);
    let name = model.file_stem().unwrap_or(model.as_os_str());
    match &args.out {
        Some(out) => out.clone(),
        None if model.is_dir() => model.into(),
        None => Path::new("runs").join(format!("cost-{}", name.to_string_lossy())),
    }
}

/// Where a model's `cost.json` goes: into its run, if it has one, else into a folder that is made.
fn file(name: &str, subject: &Subject, out: &Path, models: usize) -> Result<PathBuf, CommandError> {
    if Path::new(name).is_dir() {
        return Ok(RunFolder::open(name).map_err(TrainError::from)?.cost());
    }
    let folder = match models {
        1 => out.into(),
        _ => out.join(&subject.name),
    };
    std::fs::create_dir_all(&folder).map_err(FileError::io("create", &folder))?;
    Ok(folder.join("cost.json"))
}

/// Measures one model, writing what there is after every row: a process that the system ends for its memory leaves the rows
/// before.
fn measured(
    subject: &Subject,
    settings: &Settings,
    device: &OpenDevice,
    file: &Path,
) -> Result<Measured, CommandError> {
    let hardware = Hardware::detect(Some(device.name.clone()));
    let bench = Bench {
        device,
        settings,
        provenance: Provenance::gather(
            &place::workspace(),
            hardware,
            place::versions(),
            subject.seed,
        ),
    };
    let mut written = Ok(());
    let cost = measure(subject, bench, &mut |cost| {
        // A closed standard error must not end the measurement.
        let _ = writeln!(io::stderr(), "{}: {}", cost.name, progress(cost));
        if written.is_ok() {
            written = cost.write(file);
        }
    })?;
    written?;
    Ok(cost)
}

fn progress(cost: &Measured) -> String {
    let told = |reason: Option<&str>| reason.map_or(String::new(), |reason| format!(": {reason}"));
    match cost.rows.last() {
        None => format!("training step{}", told(cost.training.reason())),
        Some(Row {
            batch,
            length,
            outcome,
        }) => {
            let pace = match outcome {
                Outcome::Measured(row) => row.decode.unwrap_or(row.forward),
                _ => return format!("batch {batch}, length {length}{}", told(outcome.reason())),
            };
            format!(
                "batch {batch}, length {length}: {} tokens/s",
                format::count(pace.tokens_per_second)
            )
        }
    }
}
