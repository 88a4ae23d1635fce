//! What cannot be compressed is told by name, and nothing is lost.

use std::fs;

use burn::tensor::Device;
use kiln_run::Interrupt;
use kiln_train::{Run, Stored, hash_file};

use crate::common::Corner;

const INT4: &str = "kind = \"quantize\"\nmethod = \"rtn\"\nbits = 4\ngroup = 32";
const GPTQ: &str = "kind = \"quantize\"\nmethod = \"gptq\"\nbits = 4\ngroup = 32";
const PRUNE: &str = "kind = \"prune\"\nmethod = \"magnitude\"\nsparsity = 0.5";

pub fn refused(corner: &Corner, stages: &[&str], sets: &[&str]) -> String {
    match corner.start("small", false, stages, sets, Interrupt::none()) {
        Ok(_) => panic!("{stages:?} {sets:?} went through"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn settings_that_cannot_be() {
    let corner = Corner::new("transformer");
    for (sets, message) in [
        (
            "calibration.windows=0",
            "`calibration.windows` is 0, but must be at least 1",
        ),
        ("measure.decode_seconds=-1", "must lie in [0, 3600]"),
        (
            "from=",
            "`from` is empty, but a run folder is needed: --set from=RUN",
        ),
        ("from=nowhere", "nowhere holds no run"),
        ("calibration.corpus=text:/nowhere/at/all", "/nowhere/at/all"),
    ] {
        let words = refused(&corner, &[GPTQ], &[sets]);
        assert!(words.contains(message), "{words}");
        if corner.path("small").exists() {
            fs::remove_dir_all(corner.path("small")).unwrap();
        }
    }
}

#[test]
fn stages_that_cannot_follow_leave_those_before() {
    let corner = Corner::new("transformer");
    let before = fs::read(corner.path("run/model.safetensors")).unwrap();
    let words = refused(&corner, &[INT4, PRUNE], &[]);
    assert!(
        words.contains("is quantized already, and pruning it now"),
        "{words}"
    );
    assert!(corner.path("small/stages/1-quantize/stage.json").is_file());
    corner.open("small/stages/1-quantize");
    assert!(Run::open(&corner.path("small"), &Device::flex()).is_err());
    assert_eq!(
        fs::read(corner.path("run/model.safetensors")).unwrap(),
        before
    );
    // The folder is taken now.
    let words = refused(&corner, &[INT4], &[]);
    assert!(
        words.contains("already holds a run or other files"),
        "{words}"
    );
}

/// A group that divides no layer's inputs, or that there is no storage for; a calibration of a text that is too short, or not there.
#[test]
fn groups_and_texts_that_do_not_fit() {
    let corner = Corner::new("transformer");
    let before = fs::read(corner.path("run/model.safetensors")).unwrap();
    let short = corner.path("short.txt");
    fs::write(&short, "the").unwrap();
    let short = format!("calibration.corpus=text:{}", short.display());
    let empty = corner.path("empty.txt");
    fs::write(&empty, "").unwrap();
    let empty = format!("calibration.corpus=text:{}", empty.display());
    let group = |group: &str| GPTQ.replace("group = 32", group);
    for (stage, sets, message) in [
        (
            group("group = 48"),
            &[][..],
            "`group` = 48 does not divide it",
        ),
        (group("group = 16"), &[], "multiple of 32"),
        (
            GPTQ.into(),
            &[&short[..]],
            "it must have windows of 32 tokens, as the run was trained on",
        ),
        (GPTQ.into(), &[&empty[..]], "empty.txt"),
    ] {
        let words = refused(&corner, &[&stage], sets);
        assert!(words.contains(message), "{words}");
        assert!(Run::open(&corner.path("small"), &Device::flex()).is_err());
        fs::remove_dir_all(corner.path("small")).unwrap();
    }
    let after = fs::read(corner.path("run/model.safetensors")).unwrap();
    assert_eq!(before, after);
}

#[test]
fn text_without_variety_is_no_calibration() {
    let corner = Corner::new("transformer");
    let text = corner.path("same.txt");
    fs::write(&text, "e".repeat(5000)).unwrap();
    let corpus = format!("calibration.corpus=text:{}", text.display());
    let before = fs::read(corner.path("run/model.safetensors")).unwrap();
    let words = refused(&corner, &[GPTQ], &[&corpus]);
    assert!(
        words.contains("the calibration windows are all the same token"),
        "{words}"
    );
    let after = fs::read(corner.path("run/model.safetensors")).unwrap();
    assert_eq!(before, after);
}

#[test]
fn a_damaged_artifact_is_not_opened() {
    let corner = Corner::new("transformer");
    corner.compress("small", &[INT4]).unwrap();
    let (weights, config) = (
        corner.path("small/model.safetensors"),
        corner.path("small/config.json"),
    );
    let (bytes, text) = (
        fs::read(&weights).unwrap(),
        fs::read_to_string(&config).unwrap(),
    );
    let said = || {
        let error = Run::open(&corner.path("small"), &Device::flex())
            .err()
            .unwrap();
        error.to_string()
    };
    let mut flipped = bytes.clone();
    let last = flipped.len() - 3;
    flipped[last] ^= 1;
    fs::write(&weights, flipped).unwrap();
    assert!(
        said().contains("it is damaged or of another run"),
        "{}",
        said()
    );
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    assert!(
        said().contains("it is damaged or of another run"),
        "{}",
        said()
    );
    fs::write(&weights, &bytes).unwrap();
    for (from, to, message) in [
        (
            "\"version\":2",
            "\"version\":6",
            "its version is 6, and this Kiln reads 1 to 5",
        ),
        (
            "\"version\":2",
            "\"version\":1",
            "its version is 1, with this `storage`, which does not go together",
        ),
        (
            "\"layout\":1",
            "\"layout\":7",
            "have layout 7, and this Kiln reads 1",
        ),
        ("\"packed-rows\"", "\"folded\"", "unknown variant `folded`"),
        (
            "\"tokens\":{",
            "\"other\":{",
            "the part `other.words` is missing",
        ),
    ] {
        assert!(text.contains(from), "{from}");
        fs::write(&config, text.replace(from, to)).unwrap();
        assert!(said().contains(message), "{}", said());
    }
    fs::write(&config, &text).unwrap();
    corner.open("small");
}

/// A weight that is no number is told with its tensor, before a folder is made.
#[test]
fn a_model_of_weights_that_are_no_numbers_is_refused() {
    let corner = Corner::new("transformer");
    let run = corner.open("run");
    let mut stored = run.stored().unwrap();
    match stored.tensors.get_mut("blocks.0.mlp.up.weight") {
        Some(Stored::Float { values, .. }) => values[3] = f32::NAN,
        other => panic!("{other:?}"),
    }
    let weights = corner.path("run/model.safetensors");
    stored.write(&weights).unwrap();
    let hash = hash_file(&weights).unwrap();
    let config = fs::read_to_string(corner.path("run/config.json")).unwrap();
    fs::write(
        corner.path("run/config.json"),
        config.replace(&run.config.weights, &hash),
    )
    .unwrap();
    let before = fs::read(&weights).unwrap();
    let words = refused(&corner, &[INT4], &[]);
    assert!(
        words.contains("`blocks.0.mlp.up.weight` of ") && words.contains("NaN at place 3"),
        "{words}"
    );
    assert!(!corner.path("small").exists());
    assert_eq!(fs::read(&weights).unwrap(), before);
}
