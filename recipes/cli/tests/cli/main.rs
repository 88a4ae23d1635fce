//! The binary as a user meets it: what it writes where, which status it ends with, and what it says when it cannot.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests stop at the first surprise and say why they were skipped"
)]

mod bench;
mod common;
mod compare;
mod compress;
mod cost;
mod disk;
mod distill;
mod folders;
mod loaded;
mod recipes;
mod synthetic;
mod tasks;
mod work;
