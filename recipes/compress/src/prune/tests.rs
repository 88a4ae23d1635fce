use super::*;
use crate::toy;

const HALF: Pattern = Pattern::Unstructured { share: 0.5 };
const TWO_OF_FOUR: Pattern = Pattern::NofM { keep: 2, of: 4 };
const FOUR_OF_EIGHT: Pattern = Pattern::NofM { keep: 4, of: 8 };

fn config(pattern: Pattern) -> SparseGptConfig {
    SparseGptConfig {
        pattern,
        damping: 0.01,
    }
}

#[test]
fn sparsegpt_beats_wanda_beats_magnitude_with_outlier_features() {
    let weights = toy::weights(144, 40, 1);
    let gram = toy::correlated(144, 1000, &[5, 90], 2);
    for pattern in [HALF, TWO_OF_FOUR, FOUR_OF_EIGHT] {
        let error = |after: Matrix| gram.output_error(&weights, &after);
        let plain = error(magnitude(&weights, pattern).unwrap());
        let aware = error(wanda(&weights, &gram, pattern).unwrap());
        let compensated = error(sparsegpt(&weights, &gram, config(pattern)).unwrap());
        assert!(
            compensated < 0.7 * aware && aware < 0.7 * plain,
            "{pattern:?}: {compensated}, {aware}, {plain}"
        );
    }
}

#[test]
fn masks_are_what_was_asked_for() {
    // Wider than a block, and no multiple of it.
    let weights = toy::weights(136, 6, 3);
    let gram = toy::correlated(136, 300, &[], 4);
    for pattern in [TWO_OF_FOUR, FOUR_OF_EIGHT] {
        let Pattern::NofM { keep, of } = pattern else {
            unreachable!()
        };
        for after in [
            magnitude(&weights, pattern).unwrap(),
            wanda(&weights, &gram, pattern).unwrap(),
            sparsegpt(&weights, &gram, config(pattern)).unwrap(),
        ] {
            for output in 0..6 {
                for first in (0..136).step_by(of) {
                    let kept = (first..first + of).filter(|&input| after.row(input)[output] != 0.0);
                    assert_eq!(kept.count(), keep);
                }
            }
        }
    }
    for after in [
        magnitude(&weights, HALF).unwrap(),
        wanda(&weights, &gram, HALF).unwrap(),
        sparsegpt(&weights, &gram, config(HALF)).unwrap(),
    ] {
        assert_eq!(after.sparsity(), 0.5);
    }
}

#[test]
fn wanda_takes_as_many_of_every_output() {
    let weights = toy::weights(20, 5, 5);
    let gram = toy::correlated(20, 50, &[1], 6);
    let after = wanda(&weights, &gram, HALF).unwrap();
    for output in 0..5 {
        let gone = (0..20)
            .filter(|&input| after.row(input)[output] == 0.0)
            .count();
        assert_eq!(gone, 10);
    }
}

#[test]
fn what_was_pruned_before_stays_pruned_and_counts() {
    let weights = magnitude(
        &toy::weights(64, 8, 7),
        Pattern::Unstructured { share: 0.3 },
    )
    .unwrap();
    let gram = toy::correlated(64, 200, &[], 8);
    let after = sparsegpt(&weights, &gram, config(HALF)).unwrap();
    assert_eq!(after.sparsity(), 0.5);
    for (before, after) in weights.values().iter().zip(after.values()) {
        assert!(*before != 0.0 || *after == 0.0);
    }
}

#[test]
fn patterns_that_cannot_be_are_refused_by_name() {
    let weights = toy::weights(10, 2, 9);
    let said = |pattern| magnitude(&weights, pattern).unwrap_err().to_string();
    assert_eq!(
        said(Pattern::Unstructured { share: 1.0 }),
        "`share` is 1, but must lie in (0, 1)"
    );
    assert_eq!(
        said(Pattern::NofM { keep: 4, of: 4 }),
        "`pattern` is 4:4, but must keep at least one weight and fewer than all"
    );
    assert_eq!(
        said(TWO_OF_FOUR),
        "number of a layer's inputs is 10, but must be a multiple of 4; exclude this layer, or prune unstructured"
    );
    assert_eq!(
        wanda(&weights, &Gram::new(10), HALF).unwrap_err(),
        MethodError::NoTokens
    );
}
