//! Which models are compressions of one original.

use super::task::{ArmResult, chosen_runs};
use crate::Layout;
use crate::protocol::State;

/// Names, of every arm that was compressed, the arm of its original; where the study does not have that, the first arm that was
/// compressed of the same.
pub(super) fn note(layout: &Layout, state: &State, task: usize, arms: &mut [ArmResult]) {
    let firsts = layout.cells_of(task).map(|cell| {
        let first = chosen_runs(layout, state, cell).into_iter().next();
        first.map(|run| (run.weights.clone(), run.original.clone()))
    });
    let known: Vec<_> = firsts.map(Option::unwrap_or_default).collect();
    let roots: Vec<_> = (0..known.len()).map(|arm| root(&known, arm)).collect();
    let names: Vec<_> = arms.iter().map(|arm| arm.name.clone()).collect();
    for (number, arm) in arms.iter_mut().enumerate() {
        let first = (0..known.len()).find(|other| roots[*other] == roots[number]);
        let of = known
            .iter()
            .position(|(weights, _)| *weights == roots[number]);
        let of = of.or(first).filter(|of| *of != number);
        arm.compressed_of = of
            .filter(|_| known[number].1.is_some())
            .map(|of| names[of].clone());
    }
}

type Hash = Option<String>;

/// The weights that an arm's were made of in the end: an original may be a compression itself.
fn root(known: &[(Hash, Hash)], arm: usize) -> Hash {
    let (mut weights, mut original) = known[arm].clone();
    // Files that name each other in a circle are of no use, and must not take forever.
    for _ in 0..known.len() {
        let Some(next) = original else {
            break;
        };
        let earlier = known
            .iter()
            .find(|(weights, _)| *weights == Some(next.clone()));
        original = earlier.and_then(|(_, original)| original.clone());
        weights = Some(next);
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fairness::testing::layout;
    use crate::figures::testing::figures;
    use crate::results::Results;

    #[test]
    fn compressions_are_traced_to_their_original() {
        let layout = layout("seeds = [7]", &["a", "a8", "a8-4", "b", "c8", "c4"]);
        let lineage = [
            ("1", None),
            ("2", Some("1")),
            ("3", Some("2")),
            ("4", None),
            ("5", Some("9")),
            ("6", Some("9")),
        ];
        let mut state = State::default();
        for (run, (weights, original)) in layout.all().zip(lineage) {
            let mut made = figures(&layout, run, 1.0);
            made.weights = Some(weights.into());
            made.original = original.map(String::from);
            state.finished.insert(run, made);
        }
        let results = Results::new(&layout, &state, Vec::new()).unwrap();
        let arms = results.tasks[0].arms.iter();
        let of: Vec<_> = arms.map(|arm| arm.compressed_of.as_deref()).collect();
        assert_eq!(of, [None, Some("a"), Some("a"), None, None, Some("c8")]);
        // Arms that say nothing of their weights are not of one original for that.
        let mut state = State::default();
        for run in layout.all() {
            state.finished.insert(run, figures(&layout, run, 1.0));
        }
        let results = Results::new(&layout, &state, Vec::new()).unwrap();
        assert!(
            results.tasks[0]
                .arms
                .iter()
                .all(|arm| arm.compressed_of.is_none())
        );
    }
}
