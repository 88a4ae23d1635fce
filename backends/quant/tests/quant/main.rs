//! What packed weights promise: the same levels back, and products as of the matrix they stand for.
//!
//! `KILN_TEST_BACKEND` picks the device (`flex` when unset; `vulkan` with that feature), so that one set of tests serves all.

mod common;
mod integers;
mod packing;
mod products;
mod signs;
mod sparse;
