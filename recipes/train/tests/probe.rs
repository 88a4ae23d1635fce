//! The gradient probe: what it says of each rule, and that training does not notice it.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{BK, Corner, with};
use kiln_run::Kind;

/// Dropout is drawn by the CPU backend's generator, of which the process has one: these tests take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

const DROPOUT: &str = "model.backbone.dropout=0.2";

/// Cosines over all parameters and over the potentials, of a run with two layers and two micro-batches.
fn cosines(rule: &str) -> Vec<[f64; 2]> {
    let _turn = alone();
    let corner = Corner::cyclic();
    let rule = format!("model.bk.grad_rule={rule}");
    let changes = [
        &rule,
        DROPOUT,
        "train.gradient_probe_every=5",
        "train.accumulate=2",
        "train.final_sweep=false",
    ];
    corner.start("run", &with(&BK, &changes)).unwrap();
    let mut records = corner.records("run", Kind::Train);
    records.retain(|record| record.values.contains_key("gradient_cosine"));
    let steps: Vec<_> = records.iter().map(|record| record.step).collect();
    assert_eq!(steps, [5, 10, 15, 20]);
    let value = |record: &kiln_run::Record, name: &str| record.values[name];
    for record in &records {
        for of in ["", "_potential"] {
            assert!(value(record, &format!("gradient_norm{of}")) > 0.0);
            assert!(value(record, &format!("gradient_norm_exact{of}")) > 0.0);
        }
        let part = value(record, "gradient_norm_exact_potential");
        assert!(part < value(record, "gradient_norm_exact"));
    }
    records
        .iter()
        .map(|record| ["", "_potential"].map(|of| value(record, &format!("gradient_cosine{of}"))))
        .collect()
}

#[test]
fn the_exact_rule_agrees_with_itself_and_the_others_do_not() {
    // Equal gradients give equal sums, so only the square root rounds.
    for [all, potential] in cosines("exact") {
        assert!(
            (all - 1.0).abs() < 1e-12 && (potential - 1.0).abs() < 1e-12,
            "{all} {potential}"
        );
    }
    // Without the sweep the potential's gradient misses every later position, which is far more than rounding.
    for [all, potential] in cosines("local") {
        assert!(all < 0.9999 && potential < 0.99, "{all} {potential}");
        assert!(all > 0.0, "{all}");
    }
}

#[test]
fn training_does_not_notice_the_probe() {
    let _turn = alone();
    let corner = Corner::cyclic();
    let rule = with(&BK, &["model.bk.grad_rule=local", DROPOUT]);
    corner.start("without", &rule).unwrap();
    let probing = with(&rule, &["train.gradient_probe_every=1"]);
    corner.start("with", &probing).unwrap();
    let losses = |run: &str| {
        let mut records = corner.records(run, Kind::Train);
        records.retain(|record| record.values.contains_key("loss"));
        let value = |record: &kiln_run::Record| record.values["loss"].to_bits();
        records.iter().map(value).collect::<Vec<_>>()
    };
    assert_eq!(losses("without"), losses("with"));
    assert_eq!(corner.weights("without"), corner.weights("with"));
    // A resumed run may probe otherwise than it did before.
    corner
        .resume(
            "with",
            &with(&rule, &["train.steps=30", "train.gradient_probe_every=0"]),
        )
        .unwrap();
}

#[test]
fn a_model_without_rules_is_refused() {
    let corner = Corner::cyclic();
    let error = corner
        .start("run", &["train.gradient_probe_every=5"])
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "recipe: `train.gradient_probe_every` is 5, but the model has no BK layer, and no other layer has a gradient rule: \
         leave the key out"
    );
}
