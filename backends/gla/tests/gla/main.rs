//! The operation against double-precision sums and recurrences, finite differences, and itself in pieces and by strategy.
//!
//! `KILN_TEST_BACKEND` picks the device (`flex` when unset; `vulkan` with that feature), so that one set of tests serves
//! every backend.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests stop at the first surprise and print what they measured"
)]

mod arguments;
mod common;
mod forgotten;
mod long;
mod operands;
mod oracle;
mod recurrence;
mod values;
