//! `kiln compress`: a finished run made smaller.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kiln_compress::vary::{self, Point, Setting};
use kiln_compress::{CompressError, CompressRecipe, Outcome, Request, estimate, page};
use kiln_run::recipe::Recipe;
use kiln_run::report::Table;
use kiln_run::{Interrupt, Mode, RunFolder, format, recipe};
use kiln_train::{OpenDevice, Run};

use crate::args::Compress;
use crate::commands::{CommandError, open};
use crate::place;

/// Compresses a run, or shows what that would give.
pub fn compress(args: &Compress) -> Result<ExitCode, CommandError> {
    let recipe =
        recipe::load::<CompressRecipe>(&place::compressions(), &args.recipe, &args.overrides)
            .map_err(CompressError::from)?;
    if args.dry_run {
        return dry_run(&recipe.value, args);
    }
    let default = || RunFolder::default_path(&recipe.name);
    let out = args.out.clone().unwrap_or_else(default);
    let device = open(&args.compute)?;
    let interrupt = Interrupt::install()?;
    if !args.vary.is_empty() {
        return vary(args, &out, &device, &interrupt);
    }
    let outcome = run(args, recipe, out, args.resume, &device, &interrupt)?;
    show(&outcome)?;
    Ok(match outcome.interrupted {
        true => ExitCode::from(130),
        false => ExitCode::SUCCESS,
    })
}

fn run(
    args: &Compress,
    recipe: Recipe<CompressRecipe>,
    out: PathBuf,
    resume: bool,
    device: &OpenDevice,
    interrupt: &Interrupt,
) -> Result<Outcome, CommandError> {
    Ok(kiln_compress::compress(Request {
        out,
        recipe,
        resume,
        device,
        data: &place::data(&args.folders),
        source: &place::workspace(),
        versions: place::versions(),
        view: if args.plain { Mode::Plain } else { Mode::Auto },
        interrupt: interrupt.clone(),
    })?)
}

/// A compression for every setting of `--vary`, and a table of all.
fn vary(
    args: &Compress,
    out: &Path,
    device: &OpenDevice,
    interrupt: &Interrupt,
) -> Result<ExitCode, CommandError> {
    let settings = vary::settings(&args.vary)?;
    if !args.resume {
        RunFolder::check_free(out).map_err(CompressError::from)?;
    }
    let load = |setting: &Setting| {
        let overrides = [&args.overrides[..], &setting.overrides()].concat();
        recipe::load::<CompressRecipe>(&place::compressions(), &args.recipe, &overrides)
    };
    // All of them, before the first takes its time.
    let recipes: Result<Vec<_>, _> = settings.iter().map(load).collect();
    let recipes = recipes.map_err(CompressError::from)?;
    let mut points = Vec::new();
    for (setting, recipe) in settings.into_iter().zip(recipes) {
        let folder = out.join(&setting.folder);
        let resume = args.resume && folder.exists();
        let outcome = run(args, recipe, folder, resume, device, interrupt)?;
        if outcome.interrupted {
            show(&outcome)?;
            return Ok(ExitCode::from(130));
        }
        points.push(Point {
            values: setting.values,
            compression: outcome.compression,
        });
    }
    let mut output = io::stdout().lock();
    writeln!(output, "{}", vary::table(&points).text())?;
    vary::write(points, out)?;
    writeln!(output, "runs      {}", out.display())?;
    writeln!(output, "report    {}/report.html", out.display())?;
    Ok(ExitCode::SUCCESS)
}

fn show(outcome: &Outcome) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    let (compression, folder) = (&outcome.compression, outcome.folder.display());
    writeln!(out, "{}", page::stages(compression).text())?;
    if let Some(decoding) = page::decoding(compression) {
        writeln!(out, "{}", decoding.text())?;
    }
    if outcome.interrupted {
        let stages = compression.stages.len();
        writeln!(
            out,
            "stopped after stage {stages}; go on with --out {folder} --resume"
        )?;
        return Ok(());
    }
    writeln!(out, "run       {folder}")?;
    writeln!(out, "report    {folder}/report.html")?;
    writeln!(out, "evaluate  cargo xtask eval {folder}")?;
    Ok(())
}

/// The resolved recipe, and the weights' bytes after every stage.
fn dry_run(recipe: &CompressRecipe, args: &Compress) -> Result<ExitCode, CommandError> {
    recipe.check()?;
    let run = Run::open(Path::new(&recipe.from), &open(&args.compute)?.device)?;
    let estimates = estimate(recipe, &run)?;
    let whole = estimates.first().map_or(1, |original| original.bytes);
    let columns = ["stage", "what", "layers", "weights", "of original"];
    let row = |(number, estimate): (usize, &kiln_compress::Estimate)| {
        vec![
            number.to_string(),
            estimate.what.clone(),
            estimate.layers.len().to_string(),
            format::bytes(estimate.bytes),
            format!("{:.3}x", estimate.bytes as f64 / whole as f64),
        ]
    };
    let table = Table {
        title: "Sizes".into(),
        columns: columns.map(String::from).to_vec(),
        rows: estimates.iter().enumerate().map(row).collect(),
        ..Table::default()
    };
    let mut out = io::stdout().lock();
    let text = recipe::to_toml(recipe).map_err(CompressError::from)?;
    writeln!(out, "{text}")?;
    for line in table.text().lines() {
        writeln!(out, "# {line}")?;
    }
    Ok(ExitCode::SUCCESS)
}
