//! A run that starts from another's weights: what it takes, what it refuses, and that it resumes.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

mod common;

use std::fs;

use common::{Corner, with};
use kiln_run::Kind;

/// A rate below f32's resolution of the weights: what is evaluated is what the run started from.
const STILL: [&str; 2] = ["optimizer.learning_rate=1e-30", "train.steps=6"];

/// A corner with a finished run in `teacher`, and the setting that names it.
fn corner() -> (Corner, String) {
    let corner = Corner::cyclic();
    corner.start("teacher", &[]).unwrap();
    let from = format!("init.from={}", corner.path("teacher").display());
    (corner, from)
}

fn first_evaluation(corner: &Corner, run: &str) -> f64 {
    corner.series(run, Kind::Eval, "validation_loss")[0].1
}

fn refusal(corner: &Corner, changes: &[&str]) -> String {
    let error = corner.start("refused", changes).map(|_| ()).unwrap_err();
    assert!(
        !corner.path("refused").exists(),
        "{error}: a folder was made"
    );
    error.to_string()
}

#[test]
fn all_weights_are_the_runs() {
    let (corner, from) = corner();
    corner.start("copy", &with(&STILL, &[&from])).unwrap();
    let teacher = corner.series("teacher", Kind::Eval, "validation_loss");
    assert_eq!(
        first_evaluation(&corner, "copy"),
        teacher[teacher.len() - 1].1
    );
    assert!(corner.weights("copy") == corner.weights("teacher"));
    let written = fs::read_to_string(corner.path("copy").join("recipe.toml")).unwrap();
    let config = fs::read_to_string(corner.path("teacher").join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let weights = format!("weights = {}", config["weights"]);
    assert!(written.contains(&weights), "{written}");
}

#[test]
fn chosen_layers_and_other_mixers_start_better_than_chance() {
    let (corner, from) = corner();
    let half = ["model.backbone.n_layers=1", "init.layers=[1]"];
    let fresh = ["model.backbone.n_layers=1"];
    let other = ["model.preset=resolvent-tiny", "model.resolvent.d_key=8"];
    let loss = |name: &str, changes: &[&str], from: &[&str]| {
        let changes = with(&with(&STILL, changes), from);
        corner.start(name, &changes).unwrap();
        first_evaluation(&corner, name)
    };
    // The embedding and the head of this text carry most of what there is to know.
    let half_taken = loss("half", &half, &[&from]);
    let half_fresh = loss("half-fresh", &fresh, &[]);
    assert!(half_taken < half_fresh - 0.3, "{half_taken} {half_fresh}");
    let taken = loss("other", &other, &[&from]);
    let random = loss("other-fresh", &other, &[]);
    assert!(taken < random - 0.3, "{taken} {random}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let (corner, from) = corner();
    let nowhere = format!("init.from={}", corner.path("nowhere").display());
    for (changes, expected) in [
        (
            vec![&nowhere[..]],
            "it cannot be opened as a finished run: ",
        ),
        (
            vec![&from, "init.weights=abcd"],
            "and the recipe asks for abcd: put the right run back, or leave `weights` out",
        ),
        (
            vec![&from, "model.backbone.n_layers=1"],
            "the model has 1 layers and the one it takes weights from has 2",
        ),
        (
            vec![&from, "model.backbone.d_hidden=32"],
            "`blocks.0.mlp.gate.weight` has the shape [32, 32] here and [32, 64] there",
        ),
        (
            vec![&from, "model.attention.heads=2"],
            "its attention has other `heads`",
        ),
        (
            vec![&from, "init.fresh=[\"head\"]"],
            "`fresh` names \"head\", of which the model has no weights",
        ),
        (
            vec![&from, "data.tokenizer=bytes"],
            "so the same id is another token",
        ),
    ] {
        let error = refusal(&corner, &changes);
        assert!(error.starts_with("recipe: `init.from` is "), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

/// Resumed, a run needs no other: its checkpoint has everything. Nor does it matter what stands there by then.
#[test]
fn stopped_and_resumed_without_the_other_run() {
    let (corner, from) = corner();
    let changes = with(&["seed=8"], &[&from]);
    corner.start("straight", &changes).unwrap();
    corner
        .start("resumed", &with(&changes, &["train.steps=12"]))
        .unwrap();
    fs::rename(corner.path("teacher"), corner.path("gone")).unwrap();
    corner.resume("resumed", &changes).unwrap();
    assert!(corner.weights("resumed") == corner.weights("straight"));
    let error = corner
        .resume("resumed", &with(&changes, &["init.fresh=[\"mlps\"]"]))
        .map(|_| ())
        .unwrap_err();
    assert!(
        error.to_string().starts_with("cannot resume: `init.fresh`"),
        "{error}"
    );
}

/// Adapters move trained weights; random ones, and those that become zero, have to move themselves.
#[test]
fn adapters_that_cannot_be_are_refused() {
    let corner = Corner::cyclic();
    corner.start("base", &[]).unwrap();
    let from = format!("init.from={}", corner.path("base").display());
    for (changes, message) in [
        (
            &["adapters.rank=4"][..],
            "name a run to start from in [init]",
        ),
        (
            &[&from, "adapters.rank=4", "prune.sparsity=0.5"],
            "prune first, or leave [adapters] out",
        ),
        (
            &[&from, "adapters.rank=4", "adapters.alpha=-1"],
            "`adapters.alpha` is -1, but must be above 0",
        ),
        (
            &[&from, "adapters.rank=4", "adapters.layers=[\"*.upp\"]"],
            "no layer with numbers to train fits it",
        ),
    ] {
        let error = corner.start("refused", changes).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        if corner.path("refused").exists() {
            fs::remove_dir_all(corner.path("refused")).unwrap();
        }
    }
    // Grafted weights have adapters as those of a model that is taken whole.
    corner
        .start("adapted", &[&from, "adapters.rank=4"])
        .unwrap();
}
