//! What a model and its teacher take, apart from each other.

use kiln_run::{format, hardware};
use kiln_zoo::LanguageModel;

use crate::tutor::Tutor;

/// Memory of the model and of its teacher, each by itself as far as it can be counted, and of the process, which has both.
pub(super) fn facts(model: &LanguageModel, tutor: Option<&Tutor>) -> Vec<(String, String)> {
    let weights = ("weights", format::bytes(model.weight_bytes()));
    let teacher = tutor.map(Tutor::cost).into_iter().flat_map(|cost| {
        let text = format!(
            "{}: {} parameters, {} forward FLOPs a token, in {}",
            cost.path.display(),
            format::count(cost.params as f64),
            format::count(cost.flops_per_token as f64),
            cost.precision.name()
        );
        [
            ("teacher", text),
            ("weights of the teacher", format::bytes(cost.weight_bytes)),
        ]
    });
    let whose = match tutor {
        Some(_) => ", of both models and the data",
        None => "",
    };
    let peak = hardware::memory().peak.map(|bytes| {
        let text = format!("{} since it was started last{whose}", format::bytes(bytes));
        ("most memory of the process", text)
    });
    [weights]
        .into_iter()
        .chain(teacher)
        .chain(peak)
        .map(|(name, text)| (name.to_string(), text))
        .collect()
}
