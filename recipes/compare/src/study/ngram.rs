//! Arms that count n-grams.

use super::{Arm, Quality, Study, Task, repeated};
use crate::CompareError;

/// Checks the orders of an arm that counts.
///
/// # Errors
/// [`CompareError::Setting`] naming what cannot be counted.
pub(super) fn validate(study: &Study, arm: &Arm) -> Result<(), CompareError> {
    const MOST: u32 = 32;
    let Some(orders) = &arm.ngram else {
        return Ok(());
    };
    let refused = |value: String, why: &str| Err(CompareError::setting("arm.ngram", value, why));
    if orders.is_empty() || orders.iter().any(|order| !(1..=MOST).contains(order)) {
        return refused(format!("{orders:?}"), "it is a list of orders from 1 to 32");
    }
    if let Some(order) = repeated(orders) {
        return refused(order.to_string(), "it is there twice");
    }
    let by_accuracy = |task: &&Task| arm.runs(task) && task.measure == Quality::Accuracy;
    if let Some(task) = study.task.iter().find(by_accuracy) {
        let why = format!(
            "`{}` is measured by accuracy, which is not counted: name other tasks in the arm's `tasks`",
            task.name
        );
        return refused(format!("{orders:?}"), &why);
    }
    if arm.grid.is_some() || arm.time_of.is_some() {
        let why = "nothing is trained: leave `grid` and `time_of` of the arm out";
        return refused(format!("{orders:?}"), why);
    }
    Ok(())
}
