//! A run that was stopped and resumed is the run that was not: same weights to the bit, same losses in its log.
//!
//! In a binary of its own, one test at a time: dropout draws from the CPU backend's generator, which is one for the process.

#![allow(
    clippy::unwrap_used,
    reason = "tests stop at the first surprise and say where"
)]

mod common;

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::{BK, Corner, TINY, records, with};
use kiln_run::{Interrupt, Kind};
use kiln_train::{Stop, TrainError};

/// Set in the child that is to be killed: the corner's folder.
const CHILD: &str = "KILN_TRAIN_TEST_KILL";

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

const DROPOUT: [&str; 1] = ["model.backbone.dropout=0.2"];

/// What decides the next updates, without what the clock decides.
fn log(run: &Path) -> Vec<(u64, u64, Vec<u64>)> {
    let number = |value: &f64| value.to_bits();
    records(run)
        .iter()
        .filter(|record| matches!(record.kind, Kind::Train | Kind::Eval))
        .map(|record| {
            let values = ["loss", "grad_norm", "learning_rate", "validation_loss"]
                .iter()
                .filter_map(|name| record.values.get(*name).map(number));
            (record.step, record.tokens, values.collect())
        })
        .collect()
}

fn assert_same_run(corner: &Corner, what: &str, found: &str) {
    assert!(
        log(&corner.path(found)) == log(&corner.path("straight")),
        "{what}: the log of the resumed run is another"
    );
    assert!(
        corner.weights(found) == corner.weights("straight"),
        "{what}: the weights of the resumed run are others"
    );
}

#[test]
fn stopped_at_a_step_and_resumed() {
    let _alone = alone();
    for (what, model) in [
        ("transformer", &[][..]),
        ("transformer with dropout", &DROPOUT[..]),
        ("bk", &BK[..]),
        ("bk with dropout", &with(&BK, &DROPOUT)[..]),
        ("muon", &["optimizer.kind=muon"]),
        ("accumulated", &["train.accumulate=3"]),
        ("rounded", &["quantize.encoding=int4", "quantize.group=32"]),
        (
            "learned",
            &[
                "quantize.encoding=int4",
                "quantize.symmetric=true",
                "quantize.learned=true",
            ],
        ),
        ("shuffled", &["train.order=shuffled"]),
        ("snip", &["prune.method=snip", "prune.sparsity=0.6"]),
        (
            "frozen",
            &["model.preset=resnet-bk-tiny", "model.bk.learn_energy=false"],
        ),
        (
            "masked",
            &[
                "model.preset=resnet-bk-masked",
                "objective.kind=masked-token",
            ],
        ),
    ] {
        let corner = Corner::cyclic();
        corner.start("straight", model).unwrap();
        let first = corner.start("resumed", &with(model, &["train.steps=12"]));
        assert_eq!(first.unwrap().step, 12);
        let second = corner.resume("resumed", model).unwrap();
        assert_eq!((second.step, second.stop), (24, Stop::Finished));
        assert_same_run(&corner, what, "resumed");
    }
}

/// The whole of a schedule follows from the step, wherever the run was interrupted: also between two checkpoints, and between two times
/// that weights become zero.
#[test]
fn interrupted_by_request_and_resumed() {
    let _alone = alone();
    let pruned = ["prune.sparsity=0.6", "prune.every=4"];
    for (what, model) in [
        ("dropout", &DROPOUT[..]),
        ("pruned", &pruned[..]),
        (
            "pruned and rounded",
            &with(&pruned, &["quantize.encoding=ternary"])[..],
        ),
    ] {
        interrupted(&Corner::cyclic(), what, model);
    }
}

#[test]
fn adapters_go_on_too() {
    let _alone = alone();
    let corner = Corner::cyclic();
    corner.start("base", &[]).unwrap();
    let from = format!("init.from={}", corner.path("base").display());
    let model = [&from, "init.as_stored=true", "adapters.rank=3"];
    interrupted(&corner, "adapters", &model);
}

fn interrupted(corner: &Corner, what: &str, model: &[&str]) {
    let changes = with(
        model,
        &[
            "train.steps=60",
            "train.checkpoint_every=1000",
            "schedule.kind=cosine",
        ],
    );
    corner.start("straight", &changes).unwrap();
    let interrupt = Interrupt::none();
    let (run, request) = (corner.path("resumed"), interrupt.clone());
    let watcher = thread::spawn(move || {
        wait_until(|| last_step(&run) >= 7);
        request.request();
    });
    let stopped = corner.train("resumed", false, &changes, interrupt).unwrap();
    watcher.join().unwrap();
    assert_eq!(stopped.stop, Stop::Interrupted);
    assert!(stopped.result.is_none());
    assert!((7..60).contains(&stopped.step), "{}", stopped.step);
    let checkpoint = format!("checkpoints/step-{:08}", stopped.step);
    assert!(corner.path("resumed").join(checkpoint).is_dir());
    assert!(!corner.path("resumed").join("model.safetensors").exists());
    corner.resume("resumed", &changes).unwrap();
    assert_same_run(corner, what, "resumed");
}

fn last_step(run: &Path) -> u64 {
    kiln_run::metrics::read(&run.join("metrics.jsonl"))
        .ok()
        .and_then(|records| records.last().map(|record| record.step))
        .unwrap_or(0)
}

fn wait_until(ready: impl Fn() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < Duration::from_secs(60), "it never came");
        thread::sleep(Duration::from_millis(1));
    }
}

const KILLED: [&str; 3] = [
    "train.steps=120",
    "train.checkpoint_every=5",
    "model.backbone.dropout=0.2",
];

/// Not a test of its own: without the variable it does nothing, with it it trains until it is killed.
#[test]
fn child_trains_until_killed() {
    let Some(folder) = env::var_os(CHILD) else {
        return;
    };
    let folder = Path::new(&folder);
    let text = format!("data.name=text:{}", folder.join("text.txt").display());
    let sets: Vec<String> = TINY
        .iter()
        .chain([&text.as_str()])
        .chain(&KILLED)
        .map(ToString::to_string)
        .collect();
    let file = folder.join("recipe.toml");
    let recipe = kiln_run::recipe::load(folder, &file.to_string_lossy(), &sets).unwrap();
    let out = folder.join("killed");
    let resume = out.join("recipe.toml").is_file();
    kiln_train::train(kiln_train::Request {
        recipe,
        resume,
        out,
        device: kiln_train::OpenDevice {
            device: burn::tensor::Device::flex(),
            name: "flex".into(),
        },
        beside: Vec::new(),
        teacher: None,
        data: &kiln_text::DataEnv {
            cache_dir: folder.join("cache"),
            data_dir: None,
            workspace_manifest: folder.join("Cargo.toml"),
        },
        source: folder,
        versions: Default::default(),
        view: kiln_run::Mode::Plain,
        interrupt: Interrupt::none(),
        energy: None,
    })
    .unwrap();
}

#[test]
fn killed_and_resumed() {
    let _alone = alone();
    let corner = Corner::cyclic();
    corner.start("straight", &KILLED).unwrap();
    let run = corner.path("killed");
    // Twice: at the first kill there may be no checkpoint yet, the second finds a resumed run.
    for at in [13, 57] {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "child_trains_until_killed", "--nocapture"])
            .env(CHILD, corner.path(""))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until(|| last_step(&run) >= at);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            !run.join("model.safetensors").exists(),
            "it was not killed in time"
        );
    }
    let outcome = corner.resume("killed", &KILLED).unwrap();
    assert_eq!(outcome.step, 120);
    assert_same_run(&corner, "killed", "killed");
}

/// Killed between writing a checkpoint and naming it the best, `best.json` names the one before.
#[test]
fn a_best_that_was_not_named_in_time_is_found_again() {
    let _alone = alone();
    let corner = Corner::cyclic();
    corner.start("straight", &["train.steps=12"]).unwrap();
    let evals = corner.series("straight", Kind::Eval, "validation_loss");
    assert!(
        evals[1].1 < evals[0].1,
        "the second evaluation is better: {evals:?}"
    );
    corner.start("resumed", &["train.steps=12"]).unwrap();
    let older = format!("{{\"step\":6,\"value\":{}}}", evals[0].1);
    let best = corner.path("resumed").join("checkpoints/best.json");
    std::fs::write(&best, older).unwrap();
    let outcome = corner.resume("resumed", &["train.steps=12"]).unwrap();
    assert_eq!(outcome.result.unwrap().best_step, 12);
    assert!(corner.weights("resumed") == corner.weights("straight"));
}

/// A best whose checkpoint is gone must not win every later comparison.
#[test]
fn a_best_that_is_gone_is_forgotten() {
    let _alone = alone();
    let corner = Corner::cyclic();
    // A learning rate below f32's resolution of the weights: no later evaluation is better than the one of step 6.
    let changes = ["optimizer.learning_rate=1e-30"];
    corner
        .start("run", &with(&changes, &["train.steps=12"]))
        .unwrap();
    let checkpoints = corner.path("run").join("checkpoints");
    let best = kiln_run::CheckpointStore::new(&checkpoints)
        .best()
        .unwrap()
        .unwrap();
    assert_eq!(best.step, 6);
    std::fs::remove_dir_all(checkpoints.join(format!("step-{:08}", best.step))).unwrap();
    let outcome = corner
        .resume("run", &with(&changes, &["train.steps=18"]))
        .unwrap();
    assert_eq!(
        outcome.result.unwrap().best_step,
        18,
        "the only evaluation that can be shown"
    );
}

#[test]
fn a_changed_recipe_is_refused_and_a_longer_one_is_not() {
    let _alone = alone();
    let corner = Corner::cyclic();
    corner.start("run", &["train.steps=6"]).unwrap();
    for (change, expected) in [
        (
            "seed=8",
            "cannot resume: `seed` was 7 when this run started and is 8 now; resume with the same recipe, or start anew with another --out",
        ),
        ("train.batch=5", "cannot resume: `train.batch` was 4 when"),
        (
            "model.backbone.n_layers=3",
            "cannot resume: `model.backbone.n_layers` was 2 when",
        ),
        (
            "optimizer.kind=muon",
            "cannot resume: `optimizer.kind` was \"adamw\" when this run started and is \"muon\" now",
        ),
    ] {
        let error = corner.resume("run", &[change]).map(|_| ()).unwrap_err();
        assert!(matches!(error, TrainError::RecipeChanged { .. }));
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    let outcome = corner
        .resume("run", &["train.steps=8", "sample.tokens=3"])
        .unwrap();
    assert_eq!(outcome.step, 8);
}

/// A run of a Kiln that did not have these keys yet: they have their defaults on both sides.
#[test]
fn keys_that_came_later_do_not_end_an_older_run() {
    let _alone = alone();
    let corner = Corner::cyclic();
    corner.start("run", &with(&BK, &["train.steps=6"])).unwrap();
    let path = corner.path("run").join("recipe.toml");
    let mut recipe: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    let model = recipe["model"].as_table_mut().unwrap();
    assert!(model.remove("resolvent").is_some() && model.remove("conv").is_some());
    let bk = model["bk"].as_table_mut().unwrap();
    assert!(bk.remove("control").is_some());
    let train = recipe["train"].as_table_mut().unwrap();
    assert!(train.remove("accumulate").is_some());
    std::fs::write(&path, recipe.to_string()).unwrap();
    // What the old recipe does say still counts, and so does the default of what it does not.
    for (change, key) in [
        ("model.bk.heads=12", "model.bk.heads"),
        ("train.accumulate=2", "train.accumulate"),
    ] {
        let changes = with(&BK, &["train.steps=8", change]);
        let error = corner.resume("run", &changes).map(|_| ()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("cannot resume: `{key}` was ")),
            "{error}"
        );
    }
    let outcome = corner.resume("run", &with(&BK, &["train.steps=8"]));
    assert_eq!(outcome.unwrap().step, 8);
    let written: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    assert!(written["model"]["bk"].get("control").is_some());
}
