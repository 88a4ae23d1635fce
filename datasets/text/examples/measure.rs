//! Prepares a corpus and prints its sizes, the time taken, the bigram and n-gram baselines and the loader's speed.
//!
//! `cargo run --release -p kiln-text --example measure -- rust-deps bpe 4096`

#![allow(clippy::print_stdout)]

use std::env;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use kiln_loader::{Loader, LoaderConfig, Order};
use kiln_text::{
    Bigram, DataConfig, DataEnv, Ngram, Progress, TextWindows, TokenizerConfig, prepare,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let argument = |index: usize, default: &str| {
        arguments
            .get(index)
            .map_or(default, String::as_str)
            .to_owned()
    };
    let tokenizer = match argument(1, "bytes").as_str() {
        "bytes" => TokenizerConfig::Bytes,
        "chars" => TokenizerConfig::Chars,
        "bpe" => TokenizerConfig::Bpe {
            vocab_size: argument(2, "1024").parse()?,
        },
        path => TokenizerConfig::File { path: path.into() },
    };
    let config = DataConfig {
        name: argument(0, "rust-deps"),
        tokenizer,
        ..DataConfig::default()
    };
    let start = Instant::now();
    let mut stage = String::new();
    let prepared = prepare(&config, &DataEnv::from_environment(), &mut |event| {
        let name = match event {
            Progress::Tokenizing { split, .. } => format!("tokenizing {split}"),
            Progress::Reading { .. } => "reading".to_owned(),
            Progress::Downloading { .. } => "downloading".to_owned(),
            other => format!("{other:?}"),
        };
        if name != stage {
            println!("{:7.2} s  {name}", start.elapsed().as_secs_f64());
            stage = name;
        }
    })?;
    println!(
        "{:7.2} s  prepared in {}",
        start.elapsed().as_secs_f64(),
        prepared.path.display()
    );
    println!("{}", serde_json::to_string_pretty(&prepared.manifest)?);
    let start = Instant::now();
    let report = Bigram::fit(&prepared.train).evaluate(&prepared.validation);
    println!(
        "bigram in {:.2} s: {report:?}",
        start.elapsed().as_secs_f64()
    );
    for order in 1..=10 {
        let start = Instant::now();
        let ngram = Ngram::fit(&prepared.train, order)?;
        let counted = start.elapsed().as_secs_f64();
        let report = ngram.evaluate(&prepared.validation);
        let scored = start.elapsed().as_secs_f64() - counted;
        println!("order {order} in {counted:.2} + {scored:.2} s: {report:?}");
    }
    let config = LoaderConfig {
        batch: 32,
        order: Order::Shuffled,
        seed: 0,
    };
    let mut loader = Loader::new(
        Arc::new(TextWindows::new(Arc::new(prepared.train), 256)?),
        config,
    )?;
    let start = Instant::now();
    let tokens: usize = (0..2000)
        .filter_map(|_| loader.next_batch())
        .map(|batch| batch.num_tokens())
        .sum();
    let rate = tokens as f64 / start.elapsed().as_secs_f64() / 1e6;
    println!("loader: {rate:.0} million tokens/s on one thread");
    Ok(())
}
