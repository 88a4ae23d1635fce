//! Tasks of a study: what every arm is trained and scored on, one after the other.

use serde::{Deserialize, Serialize};

use super::{
    Budget, Difference, Grid, Settings, Study, check_grid, check_name, check_settings, check_share,
    repeated,
};
use crate::CompareError;

/// One task of a study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Name in tables and folders, as an arm's.
    pub name: String,
    /// Keys of every arm on this task; they win over those of the study, and an arm's over them.
    #[serde(default)]
    pub set: Settings,
    /// Another task, whose arms' chosen models are scored on this one as well: nothing is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Replaces the study's grid on this task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<Grid>,
    /// What arms are chosen and compared by.
    #[serde(default)]
    pub measure: Quality,
    /// Differences between arms that are not refused on this task, beside those of the study.
    #[serde(default)]
    pub allow: Vec<Difference>,
    /// Replaces the study's bound on the difference in trainable parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters_within: Option<f64>,
    /// Replaces the study's budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Tokens of a sequence, where tasks of one family differ in it: their names begin alike, up to the first `-`. The report
    /// then has a map of quality over lengths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
}

impl Task {
    /// The name up to its first `-`: what tasks of several lengths share.
    pub fn family(&self) -> &str {
        self.name.split('-').next().unwrap_or(&self.name)
    }
}

/// What tells a good run from a bad one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quality {
    /// Validation loss: less is better.
    #[default]
    Loss,
    /// Share of target tokens whose likeliest prediction is right: more is better.
    Accuracy,
}

/// Checks a study's tasks, and the tasks that its arms name.
///
/// # Errors
/// [`CompareError::Setting`] naming the first key that cannot be used.
pub(super) fn validate(study: &Study) -> Result<(), CompareError> {
    let names: Vec<_> = study.task.iter().map(|task| &task.name).collect();
    if let Some(name) = repeated(&names) {
        return Err(CompareError::setting(
            "task.name",
            name,
            "it is there twice",
        ));
    }
    for task in &study.task {
        check_name("task.name", &task.name)?;
        check_settings("task.set", &task.set)?;
        if let Some(grid) = &task.grid {
            check_grid("task.grid", grid)?;
        }
        if let Some(share) = task.parameters_within {
            check_share("task.parameters_within", share)?;
        }
        check_of(study, task)?;
        if !study.arm.iter().any(|arm| arm.runs(task)) {
            let why = "no arm runs it; leave it out, or name it in the `tasks` of an arm";
            return Err(CompareError::setting("task.name", &task.name, why));
        }
    }
    for arm in &study.arm {
        let own = arm.tasks.as_deref();
        if own.is_some_and(<[String]>::is_empty) {
            let why = "the arm would run nothing; leave the key out for all tasks";
            return Err(CompareError::setting("arm.tasks", "[]", why));
        }
        if let Some(name) = own.and_then(repeated) {
            return Err(CompareError::setting(
                "arm.tasks",
                name,
                "it is there twice",
            ));
        }
        let unknown = own.unwrap_or_default();
        if let Some(name) = unknown.iter().find(|name| !names.contains(name)) {
            let known: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
            let why = match known.is_empty() {
                true => "the study has no [[task]]".to_string(),
                false => format!("the study's tasks are {}", known.join(", ")),
            };
            return Err(CompareError::setting("arm.tasks", name, why));
        }
    }
    Ok(())
}

/// Checks a task that scores the models of another one.
fn check_of(study: &Study, task: &Task) -> Result<(), CompareError> {
    let Some(name) = &task.of else {
        return Ok(());
    };
    let refused = |why: String| Err(CompareError::setting("task.of", name, why));
    let Some(other) = study.task.iter().find(|other| other.name == *name) else {
        return refused(format!(
            "`{}` would score its models, and there is no such task",
            task.name
        ));
    };
    if other.of.is_some() {
        return refused(format!(
            "it trains nothing that `{}` could score",
            task.name
        ));
    }
    if task.grid.is_some() || task.budget.is_some() {
        let why = format!(
            "`{}` trains nothing: leave `grid` and `budget` of the task out",
            task.name
        );
        return refused(why);
    }
    for arm in study.arm.iter().filter(|arm| arm.runs(task)) {
        let why = match (arm.trains(), arm.runs(other)) {
            (false, _) => "trains no model",
            (true, false) => "does not run it",
            (true, true) => continue,
        };
        let named = &task.name;
        return refused(format!(
            "arm `{}` {why}: leave `{named}` out of the arm's `tasks`",
            arm.name
        ));
    }
    Ok(())
}
