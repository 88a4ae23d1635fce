//! `kiln data`: what corpora there are, and what counting alone makes of them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kiln_run::{Mode, View};
use kiln_text::{DataConfig, Ngram, Prepared, prepare};
use kiln_train::{TrainError, show_preparation};

use crate::args::{Data, Folders, TokenizedCorpus};
use crate::commands::CommandError;
use crate::place;

/// Lists, prepares, imports and counts.
pub fn data(command: Data) -> Result<ExitCode, CommandError> {
    let mut out = io::stdout().lock();
    match command {
        Data::List { folders } => {
            for info in kiln_text::list(&place::data(&folders)) {
                writeln!(out, "{:18} {}", info.name, info.description)?;
                writeln!(out, "{:18} {}", "", info.state)?;
            }
        }
        Data::Prepare { corpus, folders } => {
            let prepared = prepare_corpus(corpus, &folders)?;
            let manifest = &prepared.manifest;
            writeln!(
                out,
                "corpus      {} ({})",
                manifest.corpus, manifest.corpus_hash
            )?;
            writeln!(out, "vocabulary  {}", manifest.vocab_size)?;
            let splits = [
                ("train", Some(&manifest.train)),
                ("validation", Some(&manifest.validation)),
                ("test", manifest.test.as_ref()),
            ];
            for (name, split) in splits {
                if let Some(split) = split {
                    writeln!(
                        out,
                        "{name:11} {} tokens, {} bytes, {} documents",
                        split.tokens, split.bytes, split.documents
                    )?;
                }
            }
            writeln!(out, "folder      {}", prepared.path.display())?;
        }
        Data::Ngram {
            corpus,
            order,
            folders,
        } => ngram(&mut out, &prepare_corpus(corpus, &folders)?, order as usize)?,
        Data::Import {
            name,
            path,
            folders,
        } => {
            let kept = import(&name, &path, &folders)?;
            writeln!(out, "{name} is in {}", kept.display())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prepares a corpus, telling what it does on standard error.
fn prepare_corpus(corpus: TokenizedCorpus, folders: &Folders) -> Result<Prepared, TrainError> {
    let defaults = DataConfig::default();
    let config = DataConfig {
        name: corpus.name,
        tokenizer: corpus.tokenizer,
        max_bytes: corpus.max_bytes.unwrap_or(defaults.max_bytes),
    };
    let mut view = View::new(0, Mode::Plain);
    Ok(prepare(&config, &place::data(folders), &mut |progress| {
        show_preparation(&mut view, &progress);
    })?)
}

/// One line for each order, until one does not fit into memory.
fn ngram(out: &mut impl Write, prepared: &Prepared, most: usize) -> Result<(), CommandError> {
    writeln!(out, "order  nats/token  bits/byte   (validation)")?;
    for order in 1..=most {
        let model = Ngram::fit(&prepared.train, order).map_err(TrainError::from)?;
        if model.order() < order {
            writeln!(
                out,
                "{order:5}  its table would not fit: the last order is {}",
                model.order()
            )?;
            break;
        }
        if let Some(report) = model.evaluate(&prepared.validation) {
            let (nats, bits) = (report.nats_per_token, report.bits_per_byte);
            writeln!(out, "{order:5}  {nats:10.4}  {bits:9.4}")?;
        }
    }
    Ok(())
}

fn import(name: &str, path: &Path, folders: &Folders) -> Result<PathBuf, CommandError> {
    Ok(kiln_text::import(name, path, &place::data(folders)).map_err(TrainError::from)?)
}
