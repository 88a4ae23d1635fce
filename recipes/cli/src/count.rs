//! `kiln count`: an n-gram model of a recipe's text, as a run.

use std::io::{self, Write};
use std::process::ExitCode;

use kiln_run::{Mode, RunFolder, format, recipe};
use kiln_train::{NgramRequest, TrainError};

use crate::args::Count;
use crate::commands::CommandError;
use crate::place;

/// Counts, scores and says what the table takes.
pub fn count(args: Count) -> Result<ExitCode, CommandError> {
    let recipe = recipe::load(&place::book(), &args.recipe, &args.overrides);
    let recipe = recipe.map_err(TrainError::from)?;
    let default = || RunFolder::default_path(&recipe.name);
    let out = args.out.unwrap_or_else(default);
    let run = kiln_train::count(NgramRequest {
        recipe,
        order: args.order as usize,
        out: out.clone(),
        data: &place::data(&args.folders),
        source: &place::workspace(),
        versions: place::versions(),
        view: if args.plain { Mode::Plain } else { Mode::Auto },
    })?;
    let mut stdout = io::stdout().lock();
    writeln!(
        stdout,
        "{} tokens of {}, grams of {} and fewer: {} counts, {} with their contexts",
        run.tokens,
        run.corpus,
        run.counted_order,
        run.counts,
        format::bytes(run.bytes)
    )?;
    writeln!(stdout, "everything is in {}", out.display())?;
    Ok(ExitCode::SUCCESS)
}
