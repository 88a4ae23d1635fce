//! A tiny seeded run of each model against committed losses: a change of any number on the way from text to update shows.
//!
//! After a change that is meant to move them, `KILN_UPDATE_GOLDEN=1 cargo test -p kiln-train --test golden` writes the
//! files anew; the reason belongs in the commit.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

mod common;

use std::fs;
use std::path::Path;

use common::{BK, Corner};
use kiln_run::Kind;

/// Losses from the same weights and batches. Backends and processors sum f32 in different orders, which moves the first
/// losses by about 1e-7. For the Transformer it stays at that over 20 steps; for ResNet-BK it doubles with every step
/// (measured between two orders of summation: 2e-7 at step 7, 9e-6 at step 12, 7e-5 at step 19), hence fewer steps there.
/// A wrong gradient moves the second loss by more than 1e-3.
const TOLERANCE: f64 = 1e-4;

fn check(name: &str, steps: usize, model: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let text = fs::read_to_string(folder.join("text.txt")).unwrap();
    let corner = Corner::new(&text);
    let length = format!("train.steps={steps}");
    let run = [&length, "train.eval_every=6", "train.seq=32"];
    corner.start("run", &common::with(model, &run)).unwrap();
    let mut found = corner.series("run", Kind::Train, "loss");
    assert_eq!(found.len(), steps);
    found.extend(corner.series("run", Kind::Eval, "validation_loss"));
    let path = folder.join(format!("{name}.json"));
    if std::env::var_os("KILN_UPDATE_GOLDEN").is_some() {
        let mut json = serde_json::to_string(&found)
            .unwrap()
            .replace("],[", "],\n [");
        json.push('\n');
        fs::write(&path, json).unwrap();
    }
    let expected: Vec<(u64, f64)> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(found.len(), expected.len());
    for ((step, loss), (expected_step, expected)) in found.iter().zip(&expected) {
        assert_eq!(step, expected_step);
        assert!(
            (loss / expected - 1.0).abs() <= TOLERANCE,
            "{name}, step {step}: loss {loss}, committed {expected}"
        );
    }
}

#[test]
fn transformer() {
    check("transformer", 20, &[]);
}

#[test]
fn resnet_bk() {
    check("resnet-bk", 12, &BK);
}
