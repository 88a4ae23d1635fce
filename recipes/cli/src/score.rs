//! `kiln score`: a finished run scored as a run of a recipe would be, for a comparison.

use std::io::{self, Write};
use std::process::ExitCode;

use kiln_run::{Mode, RunFolder, format, recipe};
use kiln_train::{ScoreRequest, TrainError};

use crate::args::Score;
use crate::commands::{CommandError, open};
use crate::place;

/// Scores a run and says where the scores are.
pub fn score(args: Score) -> Result<ExitCode, CommandError> {
    let recipe = recipe::load(&place::book(), &args.recipe, &args.overrides);
    let recipe = recipe.map_err(TrainError::from)?;
    let default = || RunFolder::default_path(&recipe.name);
    let out = args.out.unwrap_or_else(default);
    let scored = kiln_train::score(ScoreRequest {
        recipe,
        original: kiln_compress::figures::original_of(&args.run)?,
        run: args.run,
        out: out.clone(),
        device: &open(&args.compute)?,
        data: &place::data(&args.folders),
        source: &place::workspace(),
        versions: place::versions(),
        view: if args.plain { Mode::Plain } else { Mode::Auto },
    })?;
    let (run, size) = (scored.run.display(), format::bytes(scored.bytes));
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{run}: {size} on disk")?;
    writeln!(stdout, "everything is in {}", out.display())?;
    Ok(ExitCode::SUCCESS)
}
