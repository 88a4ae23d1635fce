//! Stages that train otherwise than by moving all weights: with more and more zeros, and by adapters.

use kiln_compress::{LowRank, Matrix, Spectrum, estimate};
use kiln_run::{Kind, RunFolder, metrics};
use kiln_train::Stored;

use crate::common::Corner;
use crate::recover::{HALF, INT4, MAGNITUDE, integers, stored};

/// Zeros that come one after the other while the model is trained: as many as asked for, fewer lost than at once, and a compression that
/// was stopped in between is that which was not.
#[test]
fn zeros_come_one_after_the_other() {
    let corner = Corner::new("transformer");
    let at_once = "kind = \"prune\"\nmethod = \"magnitude\"\nsparsity = 0.8";
    let gradual = "kind = \"gradual\"\nsparsity = 0.8\nsteps = 120\nevery = 5\nlearning_rate = 2e-3\nexcept = [\"head\"]";
    let sizes = estimate(&corner.recipe(&[gradual], &[]).value, &corner.open("run")).unwrap();
    let plain = corner.compress("plain", &[at_once]).unwrap().compression;
    let compression = corner
        .compress("small", &[gradual, HALF])
        .unwrap()
        .compression;
    let [before, after] =
        [&plain, &compression].map(|all| all.stages[0].quality.loss - all.original.quality.loss);
    assert!(after < 0.2 * before, "{after} of {before}");
    let first = stored(&corner, "small/stages/1-gradual");
    assert_eq!(sizes[1].bytes, first.bytes());
    let last = stored(&corner, "small");
    let mut sparse = 0;
    for (name, stored) in &last.tensors {
        if let Stored::Sparse(matrix) = stored {
            let zeros = matrix.dense().iter().filter(|value| **value == 0.0).count();
            let all = matrix.format().d_input * matrix.format().d_output;
            // Halves may be zero where the numbers of 32 bits were not.
            let wanted = (0.8 * all as f64).round() as usize;
            assert!(
                (wanted..wanted + 3).contains(&zeros),
                "{name}: {zeros} of {all}"
            );
            sparse += 1;
        }
    }
    assert!(sparse >= 10, "{sparse}");
    let training = RunFolder::open(corner.path("small/stages/1-gradual-training")).unwrap();
    let records = metrics::read(&training.metrics()).unwrap();
    let best = records
        .iter()
        .rfind(|record| record.kind == Kind::Final)
        .unwrap();
    assert_eq!(best.values["best_step"], 120.0);
    let none = gradual.replace("[\"head\"]", "[\"*\"]");
    let error = corner.compress("none", &[&none]).err().unwrap().to_string();
    assert!(
        error.contains("no layer with numbers to prune fits it"),
        "{error}"
    );
}

/// Adapters win back some of what pruning lost; the file is as large as without them, zeros stay zeros, and what has no adapter and is no
/// vector is as it was. Where all is dense, matrices have moved by no more than the rank.
#[test]
fn adapters_are_merged_back() {
    let corner = Corner::new("bk");
    let adapters = "kind = \"recover\"\nsteps = 60\nlearning_rate = 5e-3\nrank = 4";
    let stages = [MAGNITUDE, adapters, HALF];
    let compression = corner.compress("small", &stages).unwrap().compression;
    let loss = |at: usize| compression.stages[at].quality.loss - compression.original.quality.loss;
    assert!(loss(1) < 0.6 * loss(0), "{} of {}", loss(1), loss(0));
    let [pruned, trained] =
        ["1-prune", "2-recover"].map(|stage| stored(&corner, &format!("small/stages/{stage}")));
    assert_eq!(pruned.table(), trained.table());
    assert_eq!(pruned.tensors["tokens"], trained.tensors["tokens"]);
    let mut moved = 0;
    for (name, before) in &pruned.tensors {
        if let Stored::Sparse(_) = before {
            let after = trained.tensors[name].values();
            moved += usize::from(before.values() != after);
            let mut all = before.values().into_iter().zip(after);
            assert!(
                all.all(|(before, after)| before != 0.0 || after == 0.0),
                "{name}"
            );
        }
    }
    assert!(moved >= 10, "{moved}");
    corner.compress("dense", &[adapters]).unwrap();
    let [before, after] = ["run", "dense"]
        .map(|name| stored(&corner, name).tensors["blocks.0.mlp.up.weight"].clone());
    let shape = before.shape();
    let gone = before.values().into_iter().zip(after.values());
    let gone = gone.map(|(before, after)| after - before).collect();
    let gone = Matrix::new(shape[0], shape[1], gone).unwrap();
    let spectrum = Spectrum::plain(&gone).unwrap();
    let size: f64 = gone
        .values()
        .iter()
        .map(|value| f64::from(*value).powi(2))
        .sum();
    let LowRank { first, second } = spectrum.truncate(4).unwrap();
    let mut left = 0.0;
    for row in 0..shape[0] {
        for column in 0..shape[1] {
            let product = (0..4)
                .map(|k| first.values()[row * 4 + k] * second.values()[k * shape[1] + column]);
            let exact = gone.values()[row * shape[1] + column];
            left += f64::from(exact - product.sum::<f32>()).powi(2);
        }
    }
    assert!(size > 0.0 && left < 1e-8 * size, "{left} of {size}");
    let rounded = integers(2) + "\nrank = 8";
    let all = corner.compress("rounded", &[&rounded]).unwrap().compression;
    let plain = INT4.replace("bits = 4", "bits = 2");
    let plain = corner.compress("plain", &[&plain]).unwrap().compression;
    assert!(all.last().quality.loss < plain.last().quality.loss);
    assert!(stored(&corner, "rounded").tensors["blocks.0.mlp.up.weight"].is_packed());
}

/// Weights that are left go back to the original's step 20 and are trained from there: the zeros are those of the stage before, and the
/// training makes up for them.
#[test]
fn a_ticket_is_trained_from_the_originals_checkpoint() {
    for kind in ["transformer", "bk"] {
        let corner = Corner::new(kind);
        let prune = "kind = \"prune\"\nmethod = \"magnitude\"\nsparsity = 0.7";
        let rewind = "kind = \"rewind\"\nto = 20";
        let sizes = estimate(
            &corner.recipe(&[prune, rewind], &[]).value,
            &corner.open("run"),
        );
        let stages = [prune, rewind, HALF];
        let compression = corner.compress("small", &stages).unwrap().compression;
        let loss =
            |at: usize| compression.stages[at].quality.loss - compression.original.quality.loss;
        assert!(
            loss(1) < 0.5 * loss(0),
            "{kind}: {} of {}",
            loss(1),
            loss(0)
        );
        let [pruned, trained] =
            ["1-prune", "2-rewind"].map(|stage| stored(&corner, &format!("small/stages/{stage}")));
        assert_eq!(pruned.table(), trained.table());
        assert_eq!(sizes.unwrap()[2].bytes, trained.bytes());
        let mut sparse = 0;
        for (name, before) in &pruned.tensors {
            let after = trained.tensors[name].values();
            assert_ne!(before.values(), after, "{name}");
            if let Stored::Sparse(_) = before {
                let mut both = before.values().into_iter().zip(after);
                assert!(
                    both.all(|(before, after)| (before == 0.0) == (after == 0.0)),
                    "{name}"
                );
                sparse += 1;
            }
        }
        assert!(sparse >= 6, "{sparse}");
        let training = RunFolder::open(corner.path("small/stages/2-rewind-training")).unwrap();
        let records = metrics::read(&training.metrics()).unwrap();
        let steps: Vec<u64> = records.iter().map(|record| record.step).collect();
        assert!(
            steps.iter().all(|step| (21..=60).contains(step)),
            "{steps:?}"
        );
    }
}

#[test]
fn what_was_never_in_the_training_does_not_go_back() {
    let corner = Corner::new("transformer");
    let said = |out: &str, stages: &[&str]| corner.compress(out, stages).err().unwrap().to_string();
    let rewind = "kind = \"rewind\"\nto = 20";
    let codes = said("codes", &[INT4, rewind]);
    assert!(
        codes.contains("find no such weights in the original's training"),
        "{codes}"
    );
    let narrow = "kind = \"structured\"\npart = \"mlp\"\nmethod = \"magnitude\"\nshare = 0.5";
    let narrow = said("narrow", &[narrow, rewind]);
    assert!(narrow.contains("of another shape"), "{narrow}");
    let missing = said("missing", &["kind = \"rewind\"\nto = 40"]);
    assert!(
        missing.contains("or train it again with --set train.keep_at=[40]"),
        "{missing}"
    );
}
