//! What a model costs.
//!
//! [`Cost`] holds time, state, memory and energy of one model on one device, by length and batch, beside what it was measured
//! with; a run folder keeps it as `cost.json`.
//!
//! | module | job |
//! |---|---|
//! | [`cost`] | the figures, written and read |
//! | [`subject`] | what is measured: a run's model, a recipe's, a preset's |
//! | [`settings`] | lengths, batches and time |
//! | [`mod@measure`] | the measurement: a training step, then row by row |
//! | [`mod@decoding`] | decoding from a run's folder on, cold and warm |
//! | [`mod@crossover`] | the length from which one model is cheaper than another |
//! | [`page`] | tables, and `cost.html` |
//! | [`ops`] | times of single operations |
//! | [`mod@step`] | where the time of a training step goes |
//!
//! Nothing here prints.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod clock;
pub mod cost;
pub mod crossover;
pub mod decoding;
mod error;
pub mod measure;
mod meters;
pub mod ops;
pub mod page;
pub mod settings;
pub mod step;
pub mod subject;
mod trouble;

pub use cost::{
    COST_VERSION, Cost, Energy, Files, Outcome, Pace, Parameters, Row, RowCost, Settings, Spread,
    TrainingCost, Weights,
};
pub use crossover::{Crossover, Figure, crossover};
pub use decoding::{ColdStart, Decoding, decoding};
pub use error::CostError;
pub use measure::{Bench, measure};
pub use meters::EnergyMeter;
pub use subject::{Lesson, Subject};
