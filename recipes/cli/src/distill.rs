//! `kiln distill`: training with a teacher.
//!
//! It is `kiln train` that insists on one: the loop, the run folder and every option are the same, and `kiln train` of a recipe
//! with a `[distill]` section does the same.

use std::process::ExitCode;

use crate::args::Distill;
use crate::commands::{CommandError, load, train};

/// Trains a student.
pub fn distill(mut args: Distill) -> Result<ExitCode, CommandError> {
    if let Some(teacher) = &args.teacher {
        let name = teacher.display();
        // Quoted, so that a folder whose name is a number stays text; with a quote in it, it is no TOML, and so text as well.
        let set = match name.to_string().contains('\'') {
            true => format!("distill.teacher={name}"),
            false => format!("distill.teacher='{name}'"),
        };
        args.train.overrides.push(set);
    }
    let recipe = load(&args.train)?;
    if recipe.value.distill.is_none() {
        return Err(CommandError::Usage(format!(
            "`{}` has no [distill] section: name the teacher's run folder with --teacher, or train it by itself with `cargo xtask train`",
            recipe.name
        )));
    }
    train(args.train, recipe)
}
