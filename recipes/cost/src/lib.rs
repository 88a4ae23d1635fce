//! What a model costs.
//!
//! [`Cost`] holds time, state, memory and energy of one model on one device, by length and batch, beside what it was measured
//! with; a run folder keeps it as `cost.json`.
//!
//! | module | job |
//! |---|---|
//! | [`cost`] | the figures, written and read |
//!
//! Nothing here prints.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cost;
mod error;

pub use cost::{
    COST_VERSION, Cost, Energy, Files, Outcome, Pace, Parameters, Row, RowCost, Settings, Spread,
    TrainingCost, Weights,
};
pub use error::CostError;
