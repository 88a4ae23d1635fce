//! Several arms under one protocol.
//!
//! A [`Study`] names arms, each a recipe and what differs from it, and may name tasks. On every task every arm runs its grid
//! with the first seed; the best point runs with the remaining seeds; means over seeds are compared with the first arm's.
//!
//! | module | job |
//! |---|---|
//! | [`study`] | the study file and its grids |
//! | [`layout`] | every run there is: its recipe, its folder |
//! | [`budget`] | what arms may spend, as settings of their recipes |
//! | [`fairness`] | refuses arms of unequal data, length, scoring or parameters |
//! | [`protocol`] | which runs are wanted, given those that are done |
//! | [`mod@execute`], [`events`] | runs them as child processes, stops and resumes them; what happens meanwhile |
//! | [`costs`] | which chosen models are to be measured, and what was measured |
//! | [`figures`] | what a run folder says, and whether it is the study's run |
//! | [`statistics`] | means, deviations, Welch's interval; beside it a bootstrap over evaluation windows |
//! | [`results`], [`tables`], [`page`] | `results.json` and `results.md` |
//! | [`report`] | `report.html` and `results.csv` |
//! | [`leaderboard`] | committed results as pages of the book |
//!
//! Nothing here prints: progress goes to the caller's callback as [`Event`] values.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bootstrap;
pub mod budget;
mod child;
pub mod costs;
mod curves;
pub mod error;
pub mod events;
pub mod execute;
pub mod fairness;
pub mod figures;
pub mod layout;
pub mod leaderboard;
pub mod page;
pub mod protocol;
pub mod report;
pub mod results;
pub mod statistics;
pub mod study;
pub mod tables;

pub use budget::Length;
pub use error::CompareError;
pub use events::{Event, Failure, Running, Standing};
pub use execute::{DIVERGED_STATUS, Execution, Launch, execute};
pub use fairness::{CellCost, Facts};
pub use figures::Figures;
pub use layout::{Layout, RunId};
pub use results::{RESULTS_FILE, Results};
pub use study::{Difference, Study};
