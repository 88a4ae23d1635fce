//! Arguments of `kiln count`.

use std::path::PathBuf;

use clap::Args as Group;

use super::Folders;

#[derive(Debug, Group)]
pub struct Count {
    /// A recipe's name, or the path of a TOML file: its data, its windows and as many of its tokens as it trains on
    pub recipe: String,
    /// Tokens of the longest gram
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32))]
    pub order: u32,
    #[command(flatten)]
    pub folders: Folders,
    /// Run folder; the default is runs/RECIPE-TIME
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Change a key of the recipe, such as data.tokenizer=chars
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Print plain lines even on a terminal
    #[arg(long)]
    pub plain: bool,
}
