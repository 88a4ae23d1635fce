//! Arms whose runs were made before.

use super::{Arm, Study, repeated};
use crate::CompareError;

/// Checks the runs of an arm that trains nothing.
///
/// # Errors
/// [`CompareError::Setting`] naming what cannot be loaded.
pub(super) fn validate(study: &Study, arm: &Arm) -> Result<(), CompareError> {
    let Some(runs) = &arm.runs else {
        return Ok(());
    };
    let refused = |value: String, why: &str| Err(CompareError::setting("arm.runs", value, why));
    if runs.len() != study.seeds.len() {
        let (found, wanted) = (runs.len(), study.seeds.len());
        let why = format!("the study has {wanted} seeds: name one run for each, in their order");
        return refused(format!("a list of {found}"), &why);
    }
    if let Some(path) = repeated(runs) {
        return refused(path.display().to_string(), "it is there twice");
    }
    if arm.grid.is_some() || arm.time_of.is_some() || arm.ngram.is_some() {
        let why = "nothing is trained: leave `grid`, `time_of` and `ngram` of the arm out";
        return refused(format!("stated of `{}`", arm.name), why);
    }
    let tasks = study.task.iter().filter(|task| arm.runs(task));
    if tasks.count() > 1 {
        let why = "a run was trained on one task: name it in the arm's `tasks`";
        return refused(format!("stated of `{}`", arm.name), why);
    }
    Ok(())
}
