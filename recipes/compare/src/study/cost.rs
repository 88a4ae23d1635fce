//! What is measured of chosen models, beside their quality.

use kiln_cost::{Cost, CostError, Settings};
use serde::{Deserialize, Serialize};

use super::{Study, repeated};
use crate::CompareError;

/// The lengths, batches and time of a measurement, and what arms are held against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostPlan {
    /// Tokens of the prompt.
    #[serde(default = "default_lengths")]
    pub lengths: Vec<usize>,
    /// Sequences side by side.
    #[serde(default = "default_batches")]
    pub batches: Vec<usize>,
    /// Seconds for each model, divided among its lengths and batches: what is measured repeats until its share is used.
    #[serde(default = "default_seconds")]
    pub seconds: f64,
    /// The arm that crossovers are against; the first one unless stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The tasks whose models are measured; all of them unless stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<String>>,
}

fn default_lengths() -> Vec<usize> {
    Settings::default().lengths
}

fn default_batches() -> Vec<usize> {
    Settings::default().batches
}

fn default_seconds() -> f64 {
    Settings::default().seconds
}

impl CostPlan {
    /// What `kiln cost` is asked for.
    pub fn settings(&self) -> Settings {
        Settings {
            lengths: self.lengths.clone(),
            batches: self.batches.clone(),
            seconds: self.seconds,
        }
    }

    /// Whether models of a task are measured.
    pub fn asks(&self, task: Option<&str>) -> bool {
        let names = self.tasks.as_ref();
        names.is_none_or(|names| names.iter().any(|name| Some(name.as_str()) == task))
    }

    /// Whether a measurement is this one, and reached its end: its file is written after every row.
    pub fn is_met_by(&self, cost: &Cost) -> bool {
        let rows = self.lengths.len() * self.batches.len();
        cost.settings == self.settings() && cost.rows.len() == rows
    }
}

/// Checks what is measured, and the names of arm and tasks.
///
/// # Errors
/// [`CompareError::Setting`] naming the first key that cannot be used.
pub(super) fn validate(study: &Study) -> Result<(), CompareError> {
    let Some(plan) = &study.cost else {
        return Ok(());
    };
    plan.settings().validate().map_err(|error| match error {
        CostError::Setting { name, value, why } => {
            CompareError::setting(format!("cost.{name}"), value, why)
        }
        other => other.into(),
    })?;
    if let Some(name) = &plan.reference {
        let refused = |why: &str| Err(CompareError::setting("cost.reference", name, why));
        match study.arm.iter().find(|arm| arm.name == *name) {
            None => return refused("there is no such arm"),
            Some(arm) if arm.ngram.is_some() => {
                return refused("it counts n-grams, and there is no model to measure");
            }
            Some(_) => {}
        }
    }
    let named = plan.tasks.as_deref().unwrap_or_default();
    let refused = |name: &str, why: &str| Err(CompareError::setting("cost.tasks", name, why));
    if plan.tasks.as_ref().is_some_and(Vec::is_empty) {
        return refused(
            "[]",
            "nothing would be measured; leave the key out for all tasks",
        );
    }
    if let Some(name) = repeated(named) {
        return refused(name, "it is there twice");
    }
    let is_unknown = |name: &&String| study.task.iter().all(|task| task.name != **name);
    match named.iter().find(is_unknown) {
        Some(name) => refused(name, "the study has no such [[task]]"),
        None => Ok(()),
    }
}
