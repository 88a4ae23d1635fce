//! `kiln compress`: a finished run made smaller.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use kiln_compress::{CompressError, CompressRecipe, Outcome, Request, estimate, page};
use kiln_run::report::Table;
use kiln_run::{Interrupt, Mode, RunFolder, format, recipe};
use kiln_train::Run;

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
    let device = open(&args.compute)?;
    let default = || RunFolder::default_path(&recipe.name);
    let outcome = kiln_compress::compress(Request {
        out: args.out.clone().unwrap_or_else(default),
        recipe,
        resume: args.resume,
        device: &device,
        data: &place::data(&args.folders),
        source: &place::workspace(),
        versions: place::versions(),
        view: if args.plain { Mode::Plain } else { Mode::Auto },
        interrupt: Interrupt::install()?,
    })?;
    show(&outcome)?;
    Ok(match outcome.interrupted {
        true => ExitCode::from(130),
        false => ExitCode::SUCCESS,
    })
}

fn show(outcome: &Outcome) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    let (compression, folder) = (&outcome.compression, outcome.folder.display());
    writeln!(out, "{}", page::stages(compression).text())?;
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
