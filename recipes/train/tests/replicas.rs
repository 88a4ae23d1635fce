//! Several replicas make the run of one: the same losses, the same folder, resumed on another number of them.
//!
//! Here they are threads on one processor, which add up in its memory; everything else is what several devices do.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::{BK, Corner, with};
use kiln_run::{Interrupt, Kind};
use kiln_train::{Outcome, Stop, TrainError};

/// A run without replicas seeds the generator of the process, which the dropout of others draws from.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Twenty steps, every one of them logged.
const STEPS: [&str; 2] = ["train.steps=20", "train.eval_every=10"];

trait Replicated {
    fn start_on(&self, replicas: usize, out: &str, changes: &[&str])
    -> Result<Outcome, TrainError>;
    fn resume_on(
        &self,
        replicas: usize,
        out: &str,
        changes: &[&str],
    ) -> Result<Outcome, TrainError>;
}

impl Replicated for Corner {
    fn start_on(
        &self,
        replicas: usize,
        out: &str,
        changes: &[&str],
    ) -> Result<Outcome, TrainError> {
        self.train_on(replicas, out, false, changes, Interrupt::none())
    }

    fn resume_on(
        &self,
        replicas: usize,
        out: &str,
        changes: &[&str],
    ) -> Result<Outcome, TrainError> {
        self.train_on(replicas, out, true, changes, Interrupt::none())
    }
}

/// The largest relative difference of a series to that of the run `straight`.
fn difference(corner: &Corner, out: &str, kind: Kind, name: &str) -> f64 {
    let (found, expected) = [out, "straight"]
        .map(|run| corner.series(run, kind, name))
        .into();
    assert_eq!(found.len(), expected.len(), "{out}: {name}");
    let pairs = found.iter().zip(&expected);
    let relative = pairs.map(|(found, expected)| {
        assert_eq!(found.0, expected.0, "{out}: steps of {name}");
        (found.1 / expected.1 - 1.0).abs()
    });
    relative.fold(0.0, f64::max)
}

/// Differences are those of sums in another order, in single precision.
#[test]
fn losses_are_those_of_one_device() {
    let _alone = alone();
    for (what, changes, counts) in [
        ("transformer", &[][..], &[2, 4][..]),
        ("bk", &BK[..], &[2]),
        ("accumulated", &["train.accumulate=3"], &[2]),
        ("muon", &["optimizer.kind=muon"], &[2]),
        ("clipped", &["optimizer.clip_norm=0.05"], &[2]),
        ("shuffled", &["train.order=shuffled"], &[4]),
        (
            "rounded",
            &["quantize.encoding=int4", "quantize.group=32"],
            &[2],
        ),
        ("pruned", &["prune.sparsity=0.6", "prune.every=5"], &[2]),
        (
            "masked, so that lanes have unlike numbers of targets",
            &[
                "model.preset=resnet-bk-masked",
                "objective.kind=masked-token",
                "objective.mask_ratio=0.2",
            ],
            &[2, 4],
        ),
        ("task", &["task.mqar.pairs=2"], &[2]),
    ] {
        let corner = Corner::cyclic();
        let changes = with(&STEPS, changes);
        corner.start("straight", &changes).unwrap();
        for &count in counts {
            let out = format!("on-{count}");
            let outcome = corner.start_on(count, &out, &changes).unwrap();
            assert_eq!((outcome.step, outcome.stop), (20, Stop::Finished));
            let loss = difference(&corner, &out, Kind::Train, "loss");
            let norm = difference(&corner, &out, Kind::Train, "grad_norm");
            let held_out = difference(&corner, &out, Kind::Eval, "validation_loss");
            assert!(loss <= 1e-6, "{what} on {count}: losses differ by {loss}");
            assert!(norm <= 1e-4, "{what} on {count}: norms differ by {norm}");
            assert!(held_out <= 1e-6, "{what} on {count}: {held_out}");
            let tokens = |run| {
                let records = corner.records(run, Kind::Train);
                records.iter().map(|it| it.tokens).collect::<Vec<_>>()
            };
            assert_eq!(tokens(&out), tokens("straight"), "{what} on {count}");
        }
    }
}

#[test]
fn resumed_on_another_number_of_devices() {
    let _alone = alone();
    let corner = Corner::cyclic();
    corner.start("straight", &STEPS).unwrap();
    let (third, two_thirds) = (
        with(&STEPS, &["train.steps=6"]),
        with(&STEPS, &["train.steps=12"]),
    );
    corner.start_on(2, "run", &third).unwrap();
    corner.resume_on(1, "run", &two_thirds).unwrap();
    let outcome = corner.resume_on(2, "run", &STEPS).unwrap();
    assert_eq!((outcome.step, outcome.stop), (20, Stop::Finished));
    let loss = difference(&corner, "run", Kind::Train, "loss");
    assert!(loss <= 1e-6, "losses differ by {loss}");
}

/// With dropout, whose masks follow from step and replica: resumed on as many devices, the run is the same to the bit.
#[test]
fn resumed_on_as_many_devices_with_dropout() {
    let _alone = alone();
    let corner = Corner::cyclic();
    let changes = with(&STEPS, &["model.backbone.dropout=0.2"]);
    corner.start_on(2, "straight", &changes).unwrap();
    corner
        .start_on(2, "resumed", &with(&changes, &["train.steps=12"]))
        .unwrap();
    corner.resume_on(2, "resumed", &changes).unwrap();
    assert_eq!(difference(&corner, "resumed", Kind::Train, "loss"), 0.0);
    assert!(corner.weights("resumed") == corner.weights("straight"));
    // It does something: without it, losses are others.
    corner.start_on(2, "dry", &STEPS).unwrap();
    assert!(difference(&corner, "dry", Kind::Train, "loss") > 1e-3);
}

#[test]
fn interrupted_between_steps() {
    let _alone = alone();
    let corner = Corner::cyclic();
    let changes = ["train.steps=100000", "train.checkpoint_every=100000"];
    let interrupt = Interrupt::none();
    let (run, request) = (corner.path("run"), interrupt.clone());
    let watcher = thread::spawn(move || {
        let start = Instant::now();
        while common::try_records(&run).is_none_or(|records| records.len() < 5) {
            assert!(start.elapsed() < Duration::from_secs(60), "it never came");
            thread::sleep(Duration::from_millis(1));
        }
        request.request();
    });
    let stopped = corner
        .train_on(2, "run", false, &changes, interrupt)
        .unwrap();
    watcher.join().unwrap();
    assert_eq!(stopped.stop, Stop::Interrupted);
    let longer = format!("train.steps={}", stopped.step + 3);
    let changes = ["train.checkpoint_every=100000", &longer];
    let outcome = corner.resume_on(2, "run", &changes).unwrap();
    assert_eq!(outcome.step, stopped.step + 3);
}

/// All replicas leave the step out, and the run ends as that of one device does.
#[test]
fn what_is_not_finite_ends_all_of_them() {
    let _alone = alone();
    let corner = Corner::cyclic();
    let changes = ["model.backbone.init_std=1e38", "train.max_skipped=2"];
    let error = corner.start_on(2, "run", &changes).err().unwrap();
    assert!(
        matches!(error, TrainError::NonFinite { times: 3, .. }),
        "{error}"
    );
}

#[test]
fn what_cannot_be_shared_is_refused() {
    let _alone = alone();
    let corner = Corner::cyclic();
    let refused = |count: usize, changes: &[&str]| {
        let error = corner.start_on(count, "refused", changes).err().unwrap();
        assert!(!corner.path("refused").exists(), "nothing was written");
        error.to_string()
    };
    assert_eq!(
        refused(3, &[]),
        "recipe: `train.batch` is 4, but 3 devices share its sequences evenly: set it to 3 or 6, or take another number of --devices"
    );
    assert!(refused(8, &[]).contains("set it to 8, or"));
    let error = refused(2, &["distill.teacher=some/run"]);
    assert!(error.contains("a teacher answers one device"), "{error}");
}

/// The folder says on what it was trained; a full disk for the first replica ends all.
#[test]
fn one_folder_for_all() {
    let _alone = alone();
    let corner = Corner::cyclic();
    corner.start_on(2, "run", &STEPS).unwrap();
    let provenance = std::fs::read_to_string(corner.path("run").join("run.json")).unwrap();
    assert!(provenance.contains("flex, flex"), "{provenance}");
    let again = corner.start_on(2, "run", &STEPS).err().unwrap();
    assert!(matches!(again, TrainError::Folder(_)), "{again}");
    // The checkpoints' folder cannot be written into: rank 0 fails while the other waits for a job.
    let out = corner.path("blocked");
    corner
        .start_on(2, "blocked", &with(&STEPS, &["train.steps=10"]))
        .unwrap();
    let checkpoints = out.join("checkpoints");
    std::fs::rename(&checkpoints, out.join("kept")).unwrap();
    std::fs::write(&checkpoints, "no folder").unwrap();
    assert!(corner.resume_on(2, "blocked", &STEPS).is_err());
}
