//! `kiln eval`: a finished run scored on held-out data.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use kiln_loader::Split;
use kiln_text::{TokenStore, words};
use kiln_train::{Contexts, Evaluator, Run, Score, Source, Text, TrainError, TrainRecipe};

use crate::args::Eval;
use crate::commands::{CommandError, open, open_source};

/// Scores a run.
pub fn eval(args: &Eval) -> Result<ExitCode, CommandError> {
    let device = open(&args.compute)?.device;
    let run = Run::open_in(&args.run, &device, args.precision)?;
    let seq = args.seq.map_or(run.config.seq, |seq| seq as usize);
    let source = open_source(&scored_recipe(args, &run, seq)?, &args.folders)?;
    note_other_text(&run, &source)?;
    let split = split(args)?;
    let evaluator = Evaluator {
        objective: run.config.objective,
        vocab: run.config.model.backbone.vocab_size,
        device: &device,
    };
    if !args.contexts.is_empty() {
        return eval_contexts(args, &run, &source, split, &evaluator);
    }
    let name = source.name()?;
    let windows = source
        .windows(split, seq)?
        .ok_or_else(|| no_split(&name, split))?;
    let scores = evaluator.sequential(&run.model, &windows, [args.batch as usize, args.windows])?;
    let score = Score::total(&scores);
    let mut out = io::stdout().lock();
    writeln!(out, "data        {name} ({split})")?;
    writeln!(out, "targets     {}", score.tokens)?;
    writeln!(out, "loss        {:.6} nats/token", score.loss())?;
    writeln!(out, "perplexity  {:.4}", score.perplexity())?;
    if let Some((text, store)) = text_of(&source, split)
        && args.windows == 0
        && score.tokens + 1 == store.len()
    {
        let words = words(store, &text.tokenizer).map_err(TrainError::from)?;
        let perplexity = (score.nats / words as f64).exp();
        writeln!(out, "per word    {perplexity:.4} ({words} words)")?;
    }
    writeln!(out, "accuracy    {:.6}", score.accuracy())?;
    if let Some((_, store)) = text_of(&source, split) {
        writeln!(out, "bits/byte   {:.6}", score.bits_per_byte(store))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One line for each length of context.
fn eval_contexts(
    args: &Eval,
    run: &Run,
    source: &Source,
    split: Split,
    evaluator: &Evaluator<'_>,
) -> Result<ExitCode, CommandError> {
    let name = source.name()?;
    if source.text().is_none() {
        let why = format!(
            "--contexts: this run was trained on the task `{name}`, whose examples have one length"
        );
        return Err(CommandError::Usage(why));
    }
    let (_, store) = text_of(source, split).ok_or_else(|| no_split(&name, split))?;
    let contexts = Contexts {
        lengths: args.contexts.clone(),
        stride: args.stride,
        most: 0,
    };
    contexts
        .validate("--contexts", "--stride")
        .map_err(|error| match error {
            TrainError::Setting { key, value, why } => {
                CommandError::Usage(format!("{key} is {value}, but {why}"))
            }
            error => error.into(),
        })?;
    let tokens = args.batch as usize * run.config.seq;
    let scores = evaluator.contexts(&run.model, store, &contexts, tokens)?;
    let mut out = io::stdout().lock();
    writeln!(out, "data        {name} ({split}), sliding windows")?;
    writeln!(
        out,
        "{:>7} {:>7} {:>9}  nats/token  perplexity  bits/byte  accuracy",
        "context", "least", "targets"
    )?;
    for found in scores {
        let score = found.score;
        writeln!(
            out,
            "{:7} {:7} {:9}  {:10.6}  {:10.4}  {:9.6}  {:8.6}",
            found.context,
            found.least,
            score.tokens,
            score.loss(),
            score.perplexity(),
            score.bits_per_byte(store),
            score.accuracy()
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text_of(source: &Source, split: Split) -> Option<(&Text, &Arc<TokenStore>)> {
    let text = source.text()?;
    Some((text, text.store(split)?))
}

fn split(args: &Eval) -> Result<Split, CommandError> {
    let mut all = Split::ALL.into_iter();
    all.find(|split| split.name() == args.split).ok_or_else(|| {
        CommandError::Usage(format!(
            "no split `{}`; the splits are train, validation and test",
            args.split
        ))
    })
}

fn no_split(name: &str, split: Split) -> CommandError {
    CommandError::Usage(format!(
        "corpus `{name}` has no {split} split; use --split validation"
    ))
}

/// Says on standard error that a corpus is not what a run was trained on any more.
fn note_other_text(run: &Run, source: &Source) -> Result<(), CommandError> {
    let (name, hash) = (source.name()?, source.hash()?.to_string());
    let trained = &run.config;
    if source.text().is_some() && name == trained.corpus && hash != trained.corpus_hash {
        writeln!(
            io::stderr(),
            "note: `{}` is not the text this run was trained on any more ({} then, {hash} now); its splits may overlap with the training text",
            trained.corpus,
            trained.corpus_hash,
        )?;
    }
    Ok(())
}

/// The recipe of a run with the data that a command line asks it to be scored on.
fn scored_recipe(args: &Eval, run: &Run, seq: usize) -> Result<TrainRecipe, CommandError> {
    if let (Some(name), true) = (&args.data, run.config.tokenizer.is_none()) {
        let why = format!(
            "--data {name}: this run was trained on the task `{}`, whose examples are drawn; leave --data out",
            run.config.corpus
        );
        return Err(CommandError::Usage(why));
    }
    let mut recipe = run.data_recipe(args.data.as_deref())?;
    recipe.task = recipe.task.map(|task| task.with_seq(seq));
    Ok(recipe)
}
