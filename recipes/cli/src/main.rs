//! `kiln`, the binary behind `cargo xtask train`, `distill`, `compress`, `compare`, `eval`, `cost`, `bench`, `generate`, `data` and `recipes`.
//!
//! Exit status: 0 done, 1 failed, 2 wrong usage, 3 diverged, 130 stopped by Ctrl-C with a checkpoint written.

mod args;
mod bench;
mod commands;
mod compare;
mod compress;
mod cost;
mod count;
mod data;
mod distill;
mod eval;
mod place;
mod score;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

/// Tensors on the CPU come and go by the hundred in a step. The system's allocator hands large ones back to the kernel at
/// once, which then clears every page anew; this one keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match commands::run(args::Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            // A closed standard error leaves nothing to tell; the status still says it failed.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(error.status())
        }
    }
}
