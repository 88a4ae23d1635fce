//! Stages that put another model in the place of the one before.

use kiln_compress::estimate;
use kiln_run::Interrupt;
use kiln_train::Stored;
use kiln_zoo::MixerKind;

use crate::common::Corner;
use crate::recover::{HALF, INT4, MAGNITUDE, stored};
use crate::refused::refused;

/// Half of the run's depth, from its second layer.
const SHALLOW: &str = "kind = \"distill\"\nstudent = { preset = \"transformer-tiny\", backbone = { d_model = 64, d_hidden = 96, n_layers = 1 } }\ninit_layers = [1]\nsteps = 60\nlearning_rate = 5e-3";
/// Its size with other mixers.
const OTHER: &str = "kind = \"distill\"\nstudent = { preset = \"resolvent-tiny\", backbone = { d_model = 64, d_hidden = 96, n_layers = 2 } }\nsteps = 60\nlearning_rate = 5e-3";
const NARROWER: &str =
    "kind = \"structured\"\npart = \"mlp\"\nmethod = \"taylor\"\nshare = 0.3\nmultiple = 32";
const RECOVER: &str = "kind = \"recover\"\nsteps = 20\nlearning_rate = 3e-3\ndistill = 0.5";

/// A student, made narrower, recovered and packed: the file has all of it, with the size that was foretold.
#[test]
fn a_student_is_the_first_of_four_stages() {
    let corner = Corner::new("transformer");
    let stages = [SHALLOW, NARROWER, RECOVER, INT4];
    let sizes = estimate(&corner.recipe(&stages, &[]).value, &corner.open("run")).unwrap();
    let made = corner.compress("small", &stages).unwrap().compression;
    let losses: Vec<f64> = made
        .stages
        .iter()
        .map(|stage| stage.quality.loss - made.original.quality.loss)
        .collect();
    assert!(losses[0] < 0.3 && losses[3] < 0.3, "{losses:?}");
    let run = corner.open("small");
    assert_eq!(run.config.model.backbone.n_layers, 1);
    assert!(run.config.model.backbone.d_hidden < 96);
    let small = stored(&corner, "small");
    assert_eq!(sizes[4].bytes, small.bytes());
    assert_eq!(
        sizes[1].bytes,
        stored(&corner, "small/stages/1-distill").bytes()
    );
    let up = &small.tensors["blocks.0.mlp.up.weight"];
    assert!(matches!(up, Stored::Packed(_)), "{:?}", up.storage());
    let gone = made.stages[0]
        .layers
        .iter()
        .filter(|layer| layer.form == "gone");
    assert!(
        gone.clone().count() > 0
            && gone
                .clone()
                .all(|layer| layer.layer.starts_with("blocks.0.")),
        "{:?}",
        made.stages[0].layers
    );
}

/// What fits of the model before is where it starts, so few steps do; the same from nothing is behind.
#[test]
fn other_mixers_learn_from_the_original() {
    let corner = Corner::new("transformer");
    let taught = corner.compress("small", &[OTHER]).unwrap().compression;
    let alone = "distill=0.0";
    let sets = [
        format!("stage.0.{alone}"),
        "stage.0.fresh=[\"embedding\", \"mixers\", \"mlps\", \"norms\"]".into(),
    ];
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let control = corner
        .start("alone", false, &[OTHER], &sets, Interrupt::none())
        .unwrap()
        .compression;
    let quality = |made: &kiln_compress::Compression| made.stages[0].quality.clone();
    assert!(
        quality(&taught).divergence < quality(&control).divergence,
        "{:?} {:?}",
        quality(&taught),
        quality(&control)
    );
    let run = corner.open("small");
    assert_eq!(run.config.model.pattern, [MixerKind::Resolvent]);
    assert_eq!(
        run.config.model.backbone.max_seq,
        corner.open("run").config.model.backbone.max_seq
    );
}

#[test]
fn students_that_cannot_be() {
    let corner = Corner::new("transformer");
    for (stages, set, message) in [
        (
            vec![MAGNITUDE, OTHER],
            "stage.1.steps=5",
            "is pruned already, and putting a student in the place of it now would undo that",
        ),
        (
            vec![HALF, OTHER],
            "stage.1.steps=5",
            "is in 16 bits already",
        ),
        (
            vec![OTHER],
            "stage.0.student.preset=resolvent-tinny",
            "`model.preset` is resolvent-tinny, but the presets are ",
        ),
        (
            vec![OTHER],
            "stage.0.student.backbone.d_modle=64",
            "d_modle",
        ),
        (
            vec![SHALLOW],
            "stage.0.init_layers=[0, 1]",
            "`stage.init_layers` is [0, 1], but the student has 1 layers and the model before it 2: name one of 0 to 1 for each",
        ),
        (
            vec![SHALLOW],
            "stage.0.init_layers=[2]",
            "`stage.init_layers` is [2]",
        ),
    ] {
        let words = refused(&corner, &stages, &[set]);
        assert!(words.contains(message), "{set}: {words}");
        if corner.path("small").exists() {
            std::fs::remove_dir_all(corner.path("small")).unwrap();
        }
    }
}
