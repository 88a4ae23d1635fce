//! Weights that go before the first update (SNIP), and runs that go back to another one's checkpoint with zeros that were found later.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

mod common;

use burn::tensor::Device;
use common::{BK, Corner, with};
use kiln_train::{Run, Stored, StoredModel};

fn stored(corner: &Corner, run: &str) -> StoredModel {
    let run = Run::open(&corner.path(run), &Device::flex()).unwrap();
    run.stored().unwrap()
}

/// Zeros and entries of every matrix that is stored with its zeros left out.
fn zeros(model: &StoredModel) -> Vec<(usize, usize)> {
    let sparse = model.tensors.values().filter_map(|stored| match stored {
        Stored::Sparse(matrix) => Some(matrix.dense()),
        _ => None,
    });
    let count = |values: Vec<f32>| {
        let zeros = values.iter().filter(|value| **value == 0.0).count();
        (zeros, values.len())
    };
    sparse.map(count).collect()
}

/// As many of all weights as asked for, from layers in unlike shares; and no training brings one back, since the zeros after one update
/// are those after all.
#[test]
fn snip_takes_weights_once_and_over_all_layers() {
    // More of so small a ResNet-BK would leave one of its gates without weights.
    for (model, share) in [(&[][..], 0.7), (&BK[..], 0.5)] {
        let corner = Corner::cyclic();
        let sparsity = format!("prune.sparsity={share}");
        let snip = with(model, &["prune.method=snip", &sparsity]);
        corner.start("run", &snip).unwrap();
        let found = zeros(&stored(&corner, "run"));
        let all: usize = found.iter().map(|(_, entries)| entries).sum();
        let gone: usize = found.iter().map(|(zeros, _)| zeros).sum();
        assert_eq!(gone, (share * all as f64).round() as usize);
        let shares = found.iter().map(|(zeros, all)| *zeros as f64 / *all as f64);
        let (least, most) = shares.fold((1.0_f64, 0.0_f64), |(least, most), share| {
            (least.min(share), most.max(share))
        });
        assert!(most - least > 0.05, "{least} {most}");
        corner
            .start(
                "one",
                &with(&snip, &["train.steps=1", "train.eval_every=1"]),
            )
            .unwrap();
        let [one, run] = ["one", "run"].map(|name| stored(&corner, name));
        let mut moved = 0;
        for (name, first) in &one.tensors {
            let last = run.tensors[name].values();
            moved += usize::from(first.values() != last);
            if matches!(first, Stored::Sparse(_)) {
                let mut both = first.values().into_iter().zip(last);
                assert!(
                    both.all(|(first, last)| (first == 0.0) == (last == 0.0)),
                    "{name}"
                );
            }
        }
        assert!(moved > 5, "{moved}");
    }
}

/// Layers that are left out keep all weights.
#[test]
fn snip_spares_what_it_is_told_to() {
    let corner = Corner::cyclic();
    let snip = [
        "prune.method=snip",
        "prune.sparsity=0.5",
        "prune.except=[\"*.down\"]",
        "prune.batches=2",
    ];
    corner.start("run", &snip).unwrap();
    let model = stored(&corner, "run");
    let down = &model.tensors["blocks.0.mlp.down.weight"];
    assert!(matches!(down, Stored::Float { .. }));
    assert!(matches!(
        model.tensors["blocks.0.mlp.up.weight"],
        Stored::Sparse(_)
    ));
    // The other method may be said as well as left out.
    let plain = [
        "prune.method=magnitude",
        "prune.sparsity=0.5",
        "train.steps=2",
    ];
    corner.start("plain", &plain).unwrap();
    let found = zeros(&stored(&corner, "plain"));
    assert!(
        found.iter().all(|(zeros, all)| 2 * zeros == *all),
        "{found:?}"
    );
    let said = |changes: &[&str]| {
        corner
            .start("no", changes)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let all = said(&["prune.method=snip", "prune.sparsity=0.9999"]);
    assert!(
        all.contains("would be left, and nothing would pass it"),
        "{all}"
    );
    let two = corner.train_on(2, "two", false, &snip, kiln_run::Interrupt::none());
    let two = two.map(|_| ()).unwrap_err().to_string();
    assert!(two.contains("weights are measured on one device"), "{two}");
}

/// The settings of a run that goes back to step 12 of `dense`, with the zeros of another.
fn back(corner: &Corner, ticket: &str) -> [String; 4] {
    [
        format!("init.from={}", corner.path(ticket).display()),
        "init.as_stored=true".into(),
        format!("rewind.from={}", corner.path("dense").display()),
        "rewind.step=12".into(),
    ]
}

/// With nothing to leave out, to go back is to train again: to the bit, as weights, moments, rate and data are those of the checkpoint.
#[test]
fn a_ticket_of_all_weights_is_the_run_itself() {
    for model in [&[][..], &BK[..], &["train.order=shuffled"][..]] {
        let corner = Corner::cyclic();
        let model = with(
            model,
            &[
                "schedule.kind=cosine",
                "train.keep_at=[12]",
                "train.keep_checkpoints=1",
            ],
        );
        corner.start("dense", &model).unwrap();
        let settings = back(&corner, "dense");
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        corner.start("again", &with(&model, &settings)).unwrap();
        let [dense, again] = ["dense", "again"].map(|name| stored(&corner, name));
        assert_eq!(dense.tensors, again.tensors);
        let losses = |run: &str| {
            let mut all = corner.series(run, kiln_run::Kind::Train, "loss");
            all.retain(|(step, _)| *step > 12);
            all
        };
        assert_eq!(losses("dense"), losses("again"));
        assert_eq!(losses("again").len(), 12);
    }
}

/// Before its first update a ticket has the checkpoint's weights where it has any, whatever they became later; after its last one it has
/// the same zeros and other weights.
#[test]
fn weights_go_back_and_zeros_stay() {
    let corner = Corner::cyclic();
    corner
        .start("dense", &["train.keep_at=[12]", "train.keep_checkpoints=1"])
        .unwrap();
    // The dense run as it was: the same recipe, ended there.
    corner.start("then", &["train.steps=12"]).unwrap();
    let from = format!("init.from={}", corner.path("dense").display());
    let prune = [
        from.as_str(),
        "init.as_stored=true",
        "prune.sparsity=0.6",
        "prune.end=0",
    ];
    corner
        .start("pruned", &with(&prune, &["train.steps=6"]))
        .unwrap();
    let settings = back(&corner, "pruned");
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    corner
        .start("start", &with(&settings, &["train.steps=12"]))
        .unwrap();
    corner.start("ticket", &settings).unwrap();
    let [then, pruned, start, ticket] =
        ["then", "pruned", "start", "ticket"].map(|name| stored(&corner, name));
    let mut sparse = 0;
    for (name, before) in &then.tensors {
        let mask = &pruned.tensors[name];
        let is_sparse = matches!(mask, Stored::Sparse(_));
        sparse += usize::from(is_sparse);
        let kept: Vec<bool> = mask
            .values()
            .iter()
            .map(|value| !is_sparse || *value != 0.0)
            .collect();
        let expected: Vec<f32> = before
            .values()
            .into_iter()
            .zip(&kept)
            .map(|(value, kept)| if *kept { value } else { 0.0 })
            .collect();
        assert_eq!(start.tensors[name].values(), expected, "{name}");
        let after = ticket.tensors[name].values();
        assert_ne!(after, expected, "{name} was not trained");
        assert!(
            !is_sparse
                || after
                    .iter()
                    .zip(&kept)
                    .all(|(value, kept)| (*value != 0.0) == *kept),
            "{name}"
        );
    }
    assert!(sparse >= 6, "{sparse}");
    // Stopped and resumed, it is the same.
    corner
        .start("resumed", &with(&settings, &["train.steps=18"]))
        .unwrap();
    corner.resume("resumed", &settings).unwrap();
    assert_eq!(corner.weights("resumed"), corner.weights("ticket"));
}

#[test]
fn what_cannot_be_gone_back_to_is_told() {
    let corner = Corner::cyclic();
    corner
        .start("dense", &["train.keep_checkpoints=1"])
        .unwrap();
    let settings = back(&corner, "dense");
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let said = |changes: &[&str]| {
        corner
            .start("no", changes)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let gone = said(&settings);
    assert!(
        gone.contains("train it again with --set train.keep_at=[12]"),
        "{gone}"
    );
    std::fs::remove_dir_all(corner.path("no")).unwrap();
    for (changes, message) in [
        (
            &settings[2..],
            "no weights are said to be zero: name the pruned run in [init]",
        ),
        (
            &[settings[0], settings[2], settings[3]],
            "set `init.as_stored = true`",
        ),
        (
            &with(&settings, &["rewind.step=0"]),
            "begin there without [rewind]",
        ),
        (
            &with(&settings, &["rewind.step=25"]),
            "this run ends after 24 updates",
        ),
        (
            &with(&settings, &["prune.sparsity=0.5"]),
            "[quantize], [prune] and [adapters] begin at the first update",
        ),
        (&["train.keep_at=[25]"], "the run has updates 1 to 24"),
    ] {
        let found = said(changes);
        assert!(found.contains(message), "{found}");
    }
}
