//! One contract that every preset of the zoo keeps: shapes, causality, `forward` == `step`, gradients, counts, files, seeds,
//! dropout, errors, and all of it with packed weights and in half precision. A new preset is tested by being in `presets()`.
//!
//! `KILN_TEST_BACKEND` picks the device (`flex` when unset; `vulkan` with that feature).

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

mod common;
mod errors;
mod packed;
mod precision;
mod sequence;
mod sizes;
mod training;
mod weights;
