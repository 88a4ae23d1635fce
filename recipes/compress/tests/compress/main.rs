//! A trained run, made smaller.

#![allow(clippy::unwrap_used)]

mod common;
mod embedding;
mod forms;
mod integer;
mod pipeline;
mod recover;
mod refused;
mod signs;
mod structured;
mod student;
mod training;
