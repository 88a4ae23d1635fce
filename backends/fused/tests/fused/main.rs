//! Every kernel against its equation: values and all gradients, odd sizes and single elements; and the promises of
//! causality and reproducibility to the bit.

#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod attention;
mod common;
mod half;
mod operations;
