//! What packed weights promise: the same levels back, and products as of the matrix they stand for.

mod common;
mod packing;
mod products;
mod sparse;
