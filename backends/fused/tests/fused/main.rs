//! On the backend of `KILN_TEST_BACKEND`, every kernel against its equation: values and all gradients, odd sizes and single elements; and the promises of
//! causality and reproducibility to the bit.

#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod attention;
mod common;
mod half;
mod head;
mod heads;
mod operations;
mod problem;
mod shapes;
mod update;
