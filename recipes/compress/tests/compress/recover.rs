//! Stages that train: what they win back, and what they leave as it was.

use std::fs;
use std::thread;
use std::time::Duration;

use kiln_compress::estimate;
use kiln_quant::{Encoding, FloatType};
use kiln_run::{Interrupt, Kind, RunFolder, metrics};
use kiln_train::{Stored, StoredModel};

use crate::common::Corner;

pub const MAGNITUDE: &str = "kind = \"prune\"\nmethod = \"magnitude\"\npattern = \"2:4\"";
const SMALL: &str = "kind = \"structured\"\npart = \"mlp\"\nmethod = \"magnitude\"\nshare = 0.6";
const THIN: &str = "kind = \"low-rank\"\nmethod = \"svd\"\nkeep = 0.4";
pub const HALF: &str = "kind = \"half\"";
pub const INT4: &str = "kind = \"quantize\"\nmethod = \"rtn\"\nbits = 4\ngroup = 32";
const RECOVER: &str = "kind = \"recover\"\nsteps = 40\nlearning_rate = 3e-3";
const TAUGHT: &str = "kind = \"recover\"\nsteps = 40\nlearning_rate = 3e-3\ndistill = 0.7";

fn qat(levels: &str) -> String {
    format!("kind = \"qat\"\n{levels}\ngroup = 32\nsteps = 40\nlearning_rate = 3e-3")
}

pub fn integers(bits: u8) -> String {
    qat(&format!("method = \"integer\"\nbits = {bits}"))
}

pub fn stored(corner: &Corner, run: &str) -> StoredModel {
    corner.open(run).stored().unwrap()
}

/// Smaller, thinner and sparser models learn most of what they lost, in the form that they have.
#[test]
fn what_was_lost_is_learned_again() {
    for (kind, stage, recover) in [
        ("transformer", SMALL, RECOVER),
        ("transformer", MAGNITUDE, TAUGHT),
        ("transformer", THIN, RECOVER),
        ("bk", MAGNITUDE, RECOVER),
    ] {
        let corner = Corner::new(kind);
        let stages = [stage, recover];
        let sizes = estimate(&corner.recipe(&stages, &[]).value, &corner.open("run")).unwrap();
        let compression = corner.compress("small", &stages).unwrap().compression;
        let loss =
            |at: usize| compression.stages[at].quality.loss - compression.original.quality.loss;
        assert!(
            loss(0) > 0.02,
            "{kind}, {stage}: nothing was lost, {}",
            loss(0)
        );
        assert!(
            loss(1) < 0.5 * loss(0),
            "{kind}, {stage}: {} of {}",
            loss(1),
            loss(0)
        );
        let [before, after] = [&compression.stages[0], &compression.stages[1]];
        assert_eq!(before.memory_bytes, after.memory_bytes, "{kind}, {stage}");
        let recovered = stored(&corner, "small");
        assert_eq!(sizes[2].bytes, recovered.bytes(), "{kind}, {stage}");
        let first = fs::read_dir(corner.path("small/stages")).unwrap();
        let first = first.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let first = first
            .into_iter()
            .find(|name| name.starts_with("1-"))
            .unwrap();
        let pruned = stored(&corner, &format!("small/stages/{first}"));
        let (mut moved, mut sparse) = (0, 0);
        for (name, before) in &pruned.tensors {
            let after = &recovered.tensors[name];
            assert_eq!(before.storage(), after.storage(), "{name}");
            moved += usize::from(before != after);
            if let Stored::Sparse(_) = before {
                sparse += 1;
                for (before, after) in before.values().iter().zip(after.values()) {
                    assert!(*before != 0.0 || after == 0.0, "{name}");
                }
            }
        }
        assert!(
            moved > 10 && (sparse >= 10) == (stage == MAGNITUDE),
            "{moved} {sparse}"
        );
    }
}

/// Numbers of 16 bits are trained in 32, and are of 16 again.
#[test]
fn halves_stay_halves() {
    let corner = Corner::new("transformer");
    corner.compress("small", &[HALF, RECOVER]).unwrap();
    for (name, stored) in &stored(&corner, "small").tensors {
        let Stored::Float { kind, values, .. } = stored else {
            panic!("{name}")
        };
        assert_eq!(*kind, FloatType::F16, "{name}");
        assert!(
            values
                .iter()
                .all(|value| FloatType::F16.round(*value) == *value)
        );
    }
}

/// Rounded weights that were trained so lose less than those that were not, and what was scored in training is what the packed
/// model scores.
#[test]
fn weights_are_packed_as_they_were_trained() {
    let corner = Corner::new("transformer");
    let rtn = |bits: u8| INT4.replace("bits = 4", &format!("bits = {bits}"));
    let loss = |name: &str, stage: &str| {
        let sizes = estimate(&corner.recipe(&[stage], &[]).value, &corner.open("run")).unwrap();
        let compression = corner.compress(name, &[stage]).unwrap().compression;
        assert_eq!(sizes[1].bytes, stored(&corner, name).bytes(), "{name}");
        compression.last().quality.loss
    };
    let plain = [2, 3].map(|bits| loss(&format!("rtn-{bits}"), &rtn(bits)));
    let trained = [2, 3].map(|bits| loss(&format!("qat-{bits}"), &integers(bits)));
    let original = corner
        .compress("same", &[HALF])
        .unwrap()
        .compression
        .original
        .quality
        .loss;
    for (plain, trained) in plain.iter().zip(trained) {
        let [lost, left] = [plain - original, trained - original];
        assert!(left < lost / 3.0, "{left} of {lost}");
    }
    for (name, stage) in [
        ("clipped", integers(2) + "\nclip = \"mse\""),
        ("ternary", qat("method = \"ternary\"")),
        ("sign", qat("method = \"sign\"\nexcept = [\"tokens\"]")),
        (
            "learned",
            integers(2) + "\nsymmetric = true\nlearned = true",
        ),
        (
            "mixed",
            qat("method = \"ternary\"")
                + "\nsymmetric = true\nlearned = true\nbits_of = { tokens = 4 }",
        ),
    ] {
        let found = loss(name, &stage);
        assert!(found < plain[0], "{name}: {found} {}", plain[0]);
    }
    let Stored::PackedRows(rows) = &stored(&corner, "mixed").tensors["tokens"] else {
        panic!("tokens")
    };
    assert_eq!(rows.format().encoding, Encoding::Int4);
    for name in [
        "qat-2", "qat-3", "clipped", "ternary", "sign", "learned", "mixed",
    ] {
        let training =
            RunFolder::open(corner.path(&format!("{name}/stages/1-qat-training"))).unwrap();
        let records = metrics::read(&training.metrics()).unwrap();
        let of = |kind: Kind| {
            let mut found = records.iter().filter(|record| record.kind == kind);
            found.next_back().unwrap().values["validation_loss"]
        };
        let [rounded, packed] = [of(Kind::Eval), of(Kind::Final)];
        // Sums of the same products in another order.
        assert!(
            (rounded / packed - 1.0).abs() < 1e-5,
            "{name}: {rounded} {packed}"
        );
        let quantized = stored(&corner, name);
        let quantized = quantized
            .tensors
            .values()
            .filter(|stored| stored.is_packed());
        assert!(quantized.count() > 8, "{name}");
    }
}

/// Training alone is a stage too: what as many updates give the model as it is.
#[test]
fn the_control_is_trained_on_alone() {
    let corner = Corner::new("transformer");
    let compression = corner.compress("control", &[RECOVER]).unwrap().compression;
    let [before, after] = ["run", "control"].map(|name| stored(&corner, name));
    assert_eq!(before.table(), after.table());
    assert_ne!(before, after);
    let [first, last] = [&compression.original, compression.last()];
    assert_eq!(first.memory_bytes, last.memory_bytes);
    assert!(last.quality.loss < first.quality.loss);
}

/// Pruned weights stay zero when they are rounded in training, and codes can be trained on from as numbers.
#[test]
fn stages_that_train_follow_each_other() {
    let corner = Corner::new("bk");
    let stages = [MAGNITUDE, RECOVER, &integers(4), HALF];
    let compression = corner.compress("small", &stages).unwrap().compression;
    let last = stored(&corner, "small");
    let pruned = stored(&corner, "small/stages/1-prune");
    for (name, before) in &pruned.tensors {
        if let Stored::Sparse(_) = before {
            let after = &last.tensors[name];
            assert!(matches!(after, Stored::Packed(_)), "{name}");
            for (before, after) in before.values().iter().zip(after.values()) {
                assert!(*before != 0.0 || after == 0.0, "{name}");
            }
        }
    }
    assert!(compression.last().memory_ratio(&compression.original) < 0.25);
    let int2 = INT4.replace("bits = 4", "bits = 2");
    let packed = corner
        .compress("packed", &[&int2, &integers(2)])
        .unwrap()
        .compression;
    let [rounded, trained] = [0, 1].map(|at| packed.stages[at].quality.loss);
    assert!(trained < rounded, "{trained} {rounded}");
}

#[test]
fn codes_are_not_trained_without_being_asked_for() {
    let corner = Corner::new("transformer");
    let some = integers(4) + "\nlayers = [\"*.up\"]";
    for stages in [[INT4, RECOVER], [INT4, &some]] {
        let error = corner
            .compress("refused", &stages)
            .err()
            .unwrap()
            .to_string();
        let message = "is quantized already, and codes are not trained; put this stage before";
        assert!(error.contains(message), "{error}");
        fs::remove_dir_all(corner.path("refused")).unwrap();
        let error = estimate(&corner.recipe(&stages, &[]).value, &corner.open("run")).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
    let sign = qat("method = \"sign\"");
    let error = corner
        .compress("refused", &[MAGNITUDE, &sign])
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .contains("no sign is zero: take `ternary`"),
        "{error}"
    );
}

/// Stopped in the middle of a training and resumed, it is the compression that was not stopped.
#[test]
fn a_training_goes_on_where_it_was_stopped() {
    let corner = Corner::new("transformer");
    let long = RECOVER.replace("40", "160");
    let stages = [MAGNITUDE, &long];
    corner.compress("straight", &stages).unwrap();
    let interrupt = Interrupt::none();
    let checkpoints = corner.path("small/stages/2-recover-training/checkpoints");
    let watch = {
        let interrupt = interrupt.clone();
        thread::spawn(move || {
            // A minute at most: a training that does not begin is told by the assertion below.
            for _ in 0..6000 {
                let mut found = fs::read_dir(&checkpoints).into_iter().flatten().flatten();
                if found.any(|entry| entry.path().is_dir()) {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            interrupt.request();
        })
    };
    let stopped = corner
        .start("small", false, &stages, &[], interrupt)
        .unwrap();
    watch.join().unwrap();
    assert!(
        stopped.interrupted,
        "the training was over before it was stopped"
    );
    assert_eq!(stopped.compression.stages.len(), 1);
    let resumed = corner
        .start("small", true, &stages, &[], Interrupt::none())
        .unwrap();
    assert!(!resumed.interrupted);
    let weights = |run: &str| fs::read(corner.path(run).join("model.safetensors")).unwrap();
    assert!(weights("small") == weights("straight"));
}
