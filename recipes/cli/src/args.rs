//! The command line.

mod count;
mod devices;
mod score;

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand};
use kiln_text::TokenizerConfig;
use kiln_zoo::Precision;

pub use count::Count;
pub use devices::Devices;
use devices::devices;
pub use score::Score;

/// Train, evaluate and sample efficient sequence models.
#[derive(Debug, Parser)]
#[command(
    name = "kiln",
    bin_name = "cargo xtask",
    version,
    disable_help_subcommand = true
)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the recipes of the book
    Recipes,
    /// Train a model as a recipe says
    Train(Train),
    /// Count n-grams of a recipe's text in place of training its model, and score its windows
    Count(Count),
    /// Train a student as a recipe says, which learns from a teacher
    Distill(Distill),
    /// Make a finished run smaller, stage by stage as a recipe says
    Compress(Compress),
    /// Run a study: several arms under one protocol, over a grid and seeds
    Compare(Compare),
    /// Write the pages of committed results
    Leaderboard(Leaderboard),
    /// Score a finished run on held-out text
    Eval(Eval),
    /// Score a finished run as a run of a recipe would be, into a folder of its own
    Score(Score),
    /// Measure what a model costs: time, state, memory and energy by length
    Cost(Cost),
    /// Time the parts of what Kiln does
    #[command(subcommand)]
    Bench(Bench),
    /// Continue a prompt with a finished run's model
    Generate(Generate),
    /// List, prepare or import corpora
    #[command(subcommand)]
    Data(Data),
    /// Say which devices answer
    Doctor,
}

#[derive(Debug, Group)]
pub struct Compute {
    /// Backend to compute with: flex, wgpu, vulkan, webgpu, metal, cuda or rocm
    #[arg(long, default_value = "flex", value_name = "NAME")]
    pub backend: String,
    /// Number of the device
    #[arg(
        long,
        default_value_t = 0,
        value_name = "N",
        allow_negative_numbers = true
    )]
    pub device: usize,
}

#[derive(Debug, Group)]
pub struct Folders {
    /// Folder to look for corpora in before anything is downloaded (also: KILN_DATA)
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub struct Train {
    /// A recipe's name, or the path of a TOML file
    pub recipe: String,
    #[command(flatten)]
    pub compute: Compute,
    /// Devices that share every batch, from --device on; on flex, replicas on one processor
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub devices: u32,
    /// Device of the same backend on which the teacher of a recipe with `[distill]` computes; the default is --device
    #[arg(long, value_name = "N")]
    pub teacher_device: Option<usize>,
    #[command(flatten)]
    pub folders: Folders,
    /// Run folder; the default is runs/RECIPE-TIME
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on from the newest checkpoint in --out
    #[arg(long, requires = "out")]
    pub resume: bool,
    /// Change a key of the recipe, such as train.steps=100
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Show the resolved recipe and its costs, and train nothing
    #[arg(long, conflicts_with = "resume")]
    pub dry_run: bool,
    /// Print plain lines even on a terminal
    #[arg(long)]
    pub plain: bool,
}

#[derive(Debug, Group)]
pub struct Compress {
    /// Name of a compression recipe, or the path of a TOML file
    pub recipe: String,
    #[command(flatten)]
    pub compute: Compute,
    #[command(flatten)]
    pub folders: Folders,
    /// Folder of the smaller run, with the stages below; the default is runs/RECIPE-TIME
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on with the first stage in --out that was not finished
    #[arg(long, requires = "out")]
    pub resume: bool,
    /// Change a key of the recipe, such as from=runs/quickstart
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Compress once for every value of a key, such as calibration.windows=16,64,256, each into a folder of its own in --out; several
    /// keys make every combination
    #[arg(long, value_name = "KEY=A,B,C", conflicts_with = "dry_run")]
    pub vary: Vec<String>,
    /// Show the resolved recipe and the size after every stage, and compress nothing
    #[arg(long, conflicts_with = "resume")]
    pub dry_run: bool,
    /// Print plain lines even on a terminal
    #[arg(long)]
    pub plain: bool,
}

#[derive(Debug, Group)]
pub struct Distill {
    #[command(flatten)]
    pub train: Train,
    /// Run folder of the teacher; the default is the recipe's `distill.teacher`
    #[arg(long, value_name = "RUN")]
    pub teacher: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub struct Compare {
    /// A study's name, or the path of a TOML file; without one, the studies are listed
    pub study: Option<String>,
    /// Backend to compute with: flex, wgpu, vulkan, webgpu, metal, cuda or rocm
    #[arg(long, default_value = "flex", value_name = "NAME")]
    pub backend: String,
    /// Numbers of the devices that runs are dealt to, such as 0 or 0,2 or 0-7
    #[arg(long, default_value = "0", value_name = "LIST", value_parser = devices)]
    pub device: Devices,
    #[command(flatten)]
    pub folders: Folders,
    /// Folder of runs and results; the default is runs/compare-STUDY. Finished runs in it are kept, interrupted ones resumed
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Runs at once on each device; each gets its share of the processor's threads
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs: u32,
    /// List the runs, the parameters of every arm and the costs, and train nothing
    #[arg(long, conflicts_with = "report_only")]
    pub dry_run: bool,
    /// Write the results anew from the run folders, which may come from another machine
    #[arg(long)]
    pub report_only: bool,
    /// Print plain lines even on a terminal
    #[arg(long)]
    pub plain: bool,
}

#[derive(Debug, Group)]
pub struct Leaderboard {
    /// Folder of results, one NAME.json a study
    pub results: PathBuf,
    /// Folder of pages: NAME.md for each, and index.md
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Write nothing, and fail if a page is not what it should be
    #[arg(long)]
    pub check: bool,
}

#[derive(Debug, Group)]
pub struct Eval {
    /// Run folder
    pub run: PathBuf,
    #[command(flatten)]
    pub compute: Compute,
    #[command(flatten)]
    pub folders: Folders,
    /// Corpus to score on; the default is the one the run was trained on
    #[arg(long, value_name = "NAME")]
    pub data: Option<String>,
    /// Split to score on: train, validation or test
    #[arg(long, default_value = "validation")]
    pub split: String,
    /// Sequences of one forward pass; the result does not depend on it
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// Tokens of a window; the default is the length the run was trained at
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub seq: Option<u32>,
    /// Most windows to score; 0 is all
    #[arg(long, default_value_t = 0)]
    pub windows: usize,
    /// Loss against context: tokens of windows that slide over the split, every target once at each length
    #[arg(long, value_name = "N,...", value_delimiter = ',', conflicts_with_all = ["seq", "windows"])]
    pub contexts: Vec<usize>,
    /// Tokens from one sliding window to the next; 0 is half of each length
    #[arg(long, default_value_t = 0, value_name = "N", requires = "contexts")]
    pub stride: usize,
    /// Compute in f32, bf16 or f16; the default is what the run was trained in
    #[arg(long, value_name = "NAME")]
    pub precision: Option<Precision>,
}

#[derive(Debug, Group)]
pub struct Cost {
    /// Run folder; or a preset's or recipe's name, whose model is measured with its initial weights
    pub model: String,
    /// Measure these too, and set them beside the first
    #[arg(long, value_name = "MODEL", num_args = 1..)]
    pub against: Vec<String>,
    #[command(flatten)]
    pub compute: Compute,
    #[command(flatten)]
    pub folders: Folders,
    /// Tokens before decoding
    #[arg(
        long,
        default_value = "64,256,1024",
        value_name = "N,...",
        value_delimiter = ','
    )]
    pub lengths: Vec<usize>,
    /// Sequences side by side
    #[arg(
        long,
        default_value = "1,8",
        value_name = "N,...",
        value_delimiter = ','
    )]
    pub batches: Vec<usize>,
    /// Seconds for each model, divided among its rows
    #[arg(
        long,
        default_value_t = 60.0,
        value_name = "S",
        allow_negative_numbers = true
    )]
    pub seconds: f64,
    /// Folder of the page, and of what has no run folder; the default is the run folder, or runs/cost-NAME
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// File of the figures; the default is cost.json of the run
    #[arg(long, value_name = "FILE", conflicts_with = "against")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Time the training step of a recipe on random tokens: warm-up, throughput, and part by part
    Step(BenchStep),
    /// Time the operations that models are made of, forward and with their gradients
    Ops(BenchOps),
}

#[derive(Debug, Group)]
pub struct BenchStep {
    /// A recipe's name, or the path of a TOML file
    pub recipe: String,
    #[command(flatten)]
    pub compute: Compute,
    /// Steps of the throughput pass
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// Change a key of the recipe, such as train.batch=8
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Write the figures to a file as well
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub struct BenchOps {
    #[command(flatten)]
    pub compute: Compute,
    /// Only operations that have this in their names
    #[arg(long, value_name = "NAME")]
    pub filter: Option<String>,
    /// What models compute in: f32, bf16 or f16; a GPU's default is bf16, if it has that
    #[arg(long, value_name = "NAME")]
    pub precision: Option<Precision>,
    /// Small shapes and few runs: whether all of it runs, and not how fast
    #[arg(long)]
    pub quick: bool,
    /// Write the figures to a file as well
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub struct Generate {
    /// Run folder
    pub run: PathBuf,
    #[command(flatten)]
    pub compute: Compute,
    /// Text to continue
    #[arg(long)]
    pub prompt: String,
    /// Tokens to add
    #[arg(long, default_value_t = 300)]
    pub tokens: usize,
    /// Divides the scores; 0 takes the likeliest token every time
    #[arg(long, default_value_t = 0.8, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Draw from the likeliest K tokens only; 0 is all
    #[arg(long, default_value_t = 0, value_name = "K")]
    pub top_k: usize,
    /// Draw from the likeliest tokens that together reach this probability; 1 is all
    #[arg(
        long,
        default_value_t = 0.95,
        value_name = "P",
        allow_negative_numbers = true
    )]
    pub top_p: f64,
    /// Seed of the draws
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Compute in f32, bf16 or f16; the default is what the run was trained in
    #[arg(long, value_name = "NAME")]
    pub precision: Option<Precision>,
}

/// A corpus as tokens.
#[derive(Debug, Group)]
pub struct TokenizedCorpus {
    /// rust-deps, tiny-shakespeare or text:PATH
    pub name: String,
    /// Tokenizer: bytes, chars, bpe:VOCAB or file:PATH
    #[arg(long, default_value = "bytes")]
    pub tokenizer: TokenizerConfig,
    /// Most bytes of source text
    #[arg(long)]
    pub max_bytes: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub enum Data {
    /// List the corpora and what there is of them
    List {
        #[command(flatten)]
        folders: Folders,
    },
    /// Prepare the data of a corpus: download, train the tokenizer, write shards
    Prepare {
        #[command(flatten)]
        corpus: TokenizedCorpus,
        #[command(flatten)]
        folders: Folders,
    },
    /// Score n-gram models of a corpus, with Kneser-Ney smoothing: what counting alone predicts
    Ngram {
        #[command(flatten)]
        corpus: TokenizedCorpus,
        /// Tokens of the longest gram; every order up to it is scored
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=32))]
        order: u32,
        #[command(flatten)]
        folders: Folders,
    },
    /// Copy a corpus from a local path into the cache, after checking it
    Import {
        /// Name of the corpus
        name: String,
        /// File or folder that has it
        path: PathBuf,
        #[command(flatten)]
        folders: Folders,
    },
}
