//! What every arm may spend.

use serde::{Deserialize, Serialize};

use super::{Arm, Difference, Grid, Settings, Study};
use crate::CompareError;

/// The keys of a recipe that say how long it trains.
const LENGTH: [&str; 3] = ["train.steps", "train.tokens", "train.max_seconds"];

/// What a run of every arm may spend: how long it trains, by one of three measures, and how large its model is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Target tokens, up to a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Operations, forward and backward and a teacher's forward ones, down to a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flops: Option<f64>,
    /// Seconds of training with its evaluations and checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Trainable parameters, which arms may miss by `parameters_within`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
}

impl Budget {
    /// Whether it says how long runs are.
    pub fn has_length(&self) -> bool {
        self.tokens.is_some() || self.flops.is_some() || self.seconds.is_some()
    }

    /// In words, such as `1e13 operations`.
    pub fn words(&self) -> String {
        let parts = [
            self.tokens.map(|n| format!("{n} training tokens")),
            self.flops.map(|n| format!("{n:e} operations")),
            self.seconds.map(|n| format!("{n} seconds")),
            self.parameters.map(|n| format!("{n} parameters")),
        ];
        parts
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(" and ")
    }

    fn validate(&self, place: &str) -> Result<(), CompareError> {
        let refused = |key: &str, value: &dyn ToString, why: &str| {
            Err(CompareError::setting(
                format!("{place}.{key}"),
                value.to_string(),
                why,
            ))
        };
        let lengths = [
            self.tokens.is_some(),
            self.flops.is_some(),
            self.seconds.is_some(),
        ];
        match lengths.iter().filter(|stated| **stated).count() {
            0 if self.parameters.is_none() => {
                let why = "it says nothing: state one of tokens, flops, seconds and parameters, or leave it out";
                return Err(CompareError::setting(place, "{}", why));
            }
            0 | 1 => {}
            _ => {
                let why = "one of tokens, flops and seconds says how long a run is";
                return Err(CompareError::setting(place, self.words(), why));
            }
        }
        for (key, value) in [("tokens", self.tokens), ("parameters", self.parameters)] {
            if value == Some(0) {
                return refused(key, &0, "it must be at least 1");
            }
        }
        for (key, value) in [("flops", self.flops), ("seconds", self.seconds)] {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
                return refused(key, &value, "it must be a number above 0");
            }
        }
        Ok(())
    }
}

/// The first key of settings that says how long a run is.
fn length_of<V>(settings: &std::collections::BTreeMap<String, V>) -> Option<&str> {
    let keys = settings.keys().map(String::as_str);
    keys.into_iter()
        .find(|key| *key == "train" || LENGTH.contains(key))
}

/// Whether an arm says itself how long it trains.
pub(crate) fn has_own_length(arm: &Arm) -> bool {
    let of_grid = arm.grid.as_ref().and_then(length_of);
    arm.time_of.is_some() || length_of(&arm.set).or(of_grid).is_some()
}

/// Checks budgets, and that nothing else says how long runs are where one does.
///
/// # Errors
/// [`CompareError::Setting`] naming the first key that cannot be used.
pub(super) fn validate(study: &Study) -> Result<(), CompareError> {
    let tasks = || study.task.iter().filter_map(|task| task.budget.as_ref());
    let all = study.budget.iter().map(|of| ("budget", of));
    for (place, budget) in all.chain(tasks().map(|of| ("task.budget", of))) {
        budget.validate(place)?;
    }
    let allows = |allow: &[Difference]| allow.contains(&Difference::Budget);
    let has_length = study.budget.iter().chain(tasks()).any(Budget::has_length);
    let is_allowed = allows(&study.allow) || study.task.iter().any(|task| allows(&task.allow));
    if is_allowed && !has_length {
        let why = "no budget says how long a run is: state one, or leave it out; unequal tokens have the name `tokens`";
        return Err(CompareError::setting("allow", "budget", why));
    }
    check_time_of(study)?;
    if !has_length {
        return Ok(());
    }
    let mut shared: Vec<(&str, Option<&str>)> = vec![
        ("set", length_of(&study.set)),
        ("grid", length_of::<Vec<toml::Value>>(&study.grid)),
    ];
    for task in &study.task {
        shared.push(("task.set", length_of::<toml::Value>(&task.set)));
        shared.push((
            "task.grid",
            task.grid.as_ref().and_then(|grid: &Grid| length_of(grid)),
        ));
    }
    for (place, key) in shared {
        if let Some(key) = key {
            let why = "the budget says how long runs are: leave one of the two out";
            return Err(CompareError::setting(format!("{place}.{key}"), "set", why));
        }
    }
    for arm in &study.arm {
        let set: &Settings = &arm.set;
        let key = length_of(set).or_else(|| length_of(arm.grid.as_ref()?));
        if let Some(key) = key.filter(|_| !is_allowed) {
            let why = format!(
                "arm `{}` would have another budget than the others: leave the key out, or write allow = [\"budget\"] into the study",
                arm.name
            );
            return Err(CompareError::setting(format!("arm.set.{key}"), "set", why));
        }
    }
    Ok(())
}

/// An arm that takes as long as another one needs it to have runs of its own on every task, and to wait for no third.
fn check_time_of(study: &Study) -> Result<(), CompareError> {
    for arm in &study.arm {
        let Some(name) = &arm.time_of else {
            continue;
        };
        let refused = |why: String| Err(CompareError::setting("arm.time_of", name, why));
        let Some(other) = study.arm.iter().find(|other| other.name == *name) else {
            return refused(format!(
                "arm `{}` waits for it, and there is no such arm",
                arm.name
            ));
        };
        if other.time_of.is_some() {
            let own = if name == &arm.name {
                "itself"
            } else {
                "an arm that waits as well"
            };
            return refused(format!("arm `{}` would wait for {own}", arm.name));
        }
        if !other.trains() {
            return refused(format!(
                "arm `{}` waits for it, and it trains nothing",
                arm.name
            ));
        }
        let missing = study
            .task
            .iter()
            .find(|task| arm.runs(task) && !other.runs(task));
        if let Some(task) = missing {
            return refused(format!(
                "it does not run `{}`, which arm `{}` does",
                task.name, arm.name
            ));
        }
        let of_grid = arm.grid.as_ref().and_then(length_of);
        if let Some(key) = length_of(&arm.set).or(of_grid) {
            return refused(format!(
                "arm `{}` also states `{key}`: leave one of the two out",
                arm.name
            ));
        }
    }
    Ok(())
}
