//! The operations against a dense inverse, double-precision scans, finite differences, and each other.
//!
//! `KILN_TEST_BACKEND` picks the device (`flex` when unset; `vulkan` with that feature), so that one set of tests serves
//! every backend.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests stop at the first surprise and print what they measured"
)]

mod arguments;
mod attention;
mod attention_oracle;
mod common;
mod cube;
mod cube_born;
mod cube_solve;
mod diagonal;
mod energies;
mod left;
mod long;
mod oracle;
mod properties;
mod recorded;
mod rows;
mod solve;
mod solve_chain;
mod solve_oracle;
mod solve_properties;
