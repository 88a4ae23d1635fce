//! `kiln bench`: where time goes.

use std::io::{self, Write};
use std::process::ExitCode;

use kiln_cost::Outcome;
use kiln_cost::ops::{self, OpsBench, bench_ops};
use kiln_cost::step::{StepBench, bench_step, check, tables};
use kiln_run::hardware::{Hardware, Provenance};
use kiln_run::recipe;
use kiln_train::{Resolved, TrainError, TrainRecipe, known_vocab};

use crate::args::{Bench, BenchOps, BenchStep};
use crate::commands::{CommandError, open};
use crate::place;

/// Tokens where the vocabulary follows from a text that is not read.
const STAND_IN_VOCAB: usize = 256;

/// Runs a benchmark.
pub fn bench(args: &Bench) -> Result<ExitCode, CommandError> {
    match args {
        Bench::Step(args) => step(args),
        Bench::Ops(args) => ops(args),
    }
}

/// Times the training step of a recipe.
fn step(args: &BenchStep) -> Result<ExitCode, CommandError> {
    let recipe = recipe::load::<TrainRecipe>(&place::book(), &args.recipe, &args.overrides);
    let recipe = recipe.map_err(TrainError::from)?;
    check(&recipe.value)?;
    let vocab = vocabulary(&recipe.value)?;
    let resolved = Resolved::new(recipe, vocab)?;
    let device = open(&args.compute)?;
    if let Some(shortcoming) = device.shortcoming() {
        writeln!(io::stderr(), "note: {shortcoming}")?;
    }
    let hardware = Hardware::detect(Some(device.name.clone()));
    let seed = resolved.recipe.value.seed;
    let cost = bench_step(StepBench {
        resolved: &resolved,
        device: &device,
        steps: args.steps as usize,
        provenance: Provenance::gather(&place::workspace(), hardware, place::versions(), seed),
    })?;
    if let Some(path) = &args.json {
        cost.write(path)?;
    }
    let mut out = io::stdout().lock();
    for table in tables(&cost) {
        writeln!(out, "{}", table.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Times the catalogue of operations. Some that failed are told in the table, and by the exit code.
fn ops(args: &BenchOps) -> Result<ExitCode, CommandError> {
    let device = open(&args.compute)?;
    let hardware = Hardware::detect(Some(device.name.clone()));
    let cost = bench_ops(OpsBench {
        device: &device,
        precision: args.precision,
        filter: args.filter.clone(),
        quick: args.quick,
        provenance: Provenance::gather(&place::workspace(), hardware, place::versions(), 0),
    })?;
    if let Some(path) = &args.json {
        cost.write(path)?;
    }
    writeln!(io::stdout().lock(), "{}", ops::table(&cost).text())?;
    let failed = |op: &ops::OpCost| matches!(op.figures, Outcome::Failed { .. });
    Ok(match cost.operations.iter().any(failed) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// Tokens of the tokenizer: what the recipe says, else as many as the model is said to have, else as many as there are bytes.
fn vocabulary(recipe: &TrainRecipe) -> Result<usize, CommandError> {
    if let Some(vocab) = known_vocab(recipe)? {
        return Ok(vocab);
    }
    let stated = recipe.model.backbone.get("vocab_size");
    let stated = stated.and_then(|size| usize::try_from(size.as_integer()?).ok());
    if let Some(stated) = stated.filter(|size| *size > 0) {
        return Ok(stated);
    }
    writeln!(
        io::stderr(),
        "note: the vocabulary follows from the text, which is not read: the model gets {STAND_IN_VOCAB} tokens; --set model.backbone.vocab_size=N gives it another number"
    )?;
    Ok(STAND_IN_VOCAB)
}
