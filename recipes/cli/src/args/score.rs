//! Arguments of `kiln score`.

use std::path::PathBuf;

use clap::Args as Group;

use super::{Compute, Folders};

#[derive(Debug, Group)]
pub struct Score {
    /// Run folder
    pub run: PathBuf,
    /// A recipe's name, or the path of a TOML file: its data, its windows and its seed
    pub recipe: String,
    #[command(flatten)]
    pub compute: Compute,
    #[command(flatten)]
    pub folders: Folders,
    /// Folder of the scores; the default is runs/RECIPE-TIME
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Change a key of the recipe, such as train.seq=256
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Print plain lines even on a terminal
    #[arg(long)]
    pub plain: bool,
}
