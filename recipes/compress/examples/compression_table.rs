//! One Markdown table of many compressions: the recipes of a grid on runs of several seeds.
//!
//! `cargo run --release -p kiln-compress --example compression_table -- OUT.json FOLDER...`
//!
//! Every FOLDER is what `cargo xtask compress --out FOLDER` wrote. Runs of one preset on one corpus are one model, and the seeds of a
//! model make the mean and the deviation of a row; a row is what the stages did. All figures but those of single layers go into
//! OUT.json, the table to standard output.
#![allow(
    clippy::print_stdout,
    reason = "a command that prints what it was asked to put together"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use kiln_compare::statistics::Summary;
use kiln_compress::{Compression, StageFigures};
use kiln_run::RunFolder;
use kiln_train::read_resolved;
use serde::Serialize;

/// A compression of one run.
#[derive(Serialize)]
struct Entry {
    /// Preset and corpus.
    model: String,
    seed: u64,
    folder: String,
    compression: Compression,
}

/// What a table groups by: the model, and what was done to it.
type Rows<'a> = BTreeMap<(String, String), Vec<&'a Entry>>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let out = args
        .next()
        .ok_or("give a file for the figures, and folders of compressions")?;
    let entries = args
        .map(|folder| entry(&folder))
        .collect::<Result<Vec<_>, _>>()?;
    let mut rows = Rows::new();
    for entry in &entries {
        let done: Vec<&str> = entry
            .compression
            .stages
            .iter()
            .map(|stage| stage.what.as_str())
            .collect();
        rows.entry((entry.model.clone(), done.join(" + ")))
            .or_default()
            .push(entry);
    }
    kiln_run::atomic_write(Path::new(&out), |file| {
        serde_json::to_writer_pretty(&mut *file, &entries).map_err(std::io::Error::from)
    })?;
    println!(
        "| model | stages | seeds | file | memory | bits/byte before | after | change, % | KL, nats | same top token, % | decoding | time |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for ((model, done), entries) in &rows {
        println!(
            "| {model} | {done} | {} | {} |",
            entries.len(),
            cells(entries).join(" | ")
        );
    }
    Ok(())
}

fn entry(folder: &str) -> Result<Entry, Box<dyn Error>> {
    let path = Path::new(folder);
    let text = std::fs::read(path.join("compress.json"))
        .map_err(|error| format!("{folder}/compress.json: {error}"))?;
    let mut compression: Compression = serde_json::from_slice(&text)?;
    compression.original.layers.clear();
    compression
        .stages
        .iter_mut()
        .for_each(|stage| stage.layers.clear());
    let recipe = read_resolved(&RunFolder::open(path)?)?.recipe.value;
    Ok(Entry {
        model: format!("{} on {}", recipe.model.preset, compression.corpus),
        seed: recipe.seed,
        folder: folder.into(),
        compression,
    })
}

/// Mean time of all stages together, without measuring: what recovery costs beside methods that train nothing.
fn time(entries: &[&Entry]) -> String {
    let seconds = |entry: &&Entry| -> f64 {
        let stages = entry.compression.stages.iter();
        stages.map(|stage| stage.seconds).sum()
    };
    let all: f64 = entries.iter().map(seconds).sum();
    kiln_run::format::duration(all / entries.len() as f64)
}

/// Means over the seeds, with deviations where there are several.
fn cells(entries: &[&Entry]) -> Vec<String> {
    let cell = |digits: usize, of: &dyn Fn(&StageFigures, &StageFigures) -> Option<f64>| {
        let values = entries
            .iter()
            .map(|entry| of(entry.compression.last(), &entry.compression.original));
        let values: Option<Vec<f64>> = values.collect();
        match values.and_then(|values| Summary::of(&values)) {
            None => kiln_run::format::NONE.into(),
            Some(Summary {
                mean, sd: Some(sd), ..
            }) => format!("{mean:.digits$} ± {sd:.digits$}"),
            Some(Summary { mean, .. }) => format!("{mean:.digits$}"),
        }
    };
    let loss = |stage: &StageFigures| stage.quality.bits_per_byte.unwrap_or(stage.quality.loss);
    let ratio = |text: String| format!("{text} x");
    vec![
        ratio(cell(3, &|last, first| Some(last.file_ratio(first)))),
        ratio(cell(3, &|last, first| Some(last.memory_ratio(first)))),
        cell(4, &|_, first| Some(loss(first))),
        cell(4, &|last, _| Some(loss(last))),
        cell(2, &|last, _| Some(100.0 * last.quality.change)),
        cell(4, &|last, _| Some(last.quality.divergence)),
        cell(2, &|last, _| Some(100.0 * last.quality.agreement)),
        ratio(cell(2, &|last, first| {
            Some(last.decode?.tokens_per_second / first.decode?.tokens_per_second)
        })),
        time(entries),
    ]
}
