//! `kill -9` in the middle of checkpointing, for real: the test runs itself as a child that writes
//! checkpoints in a loop, and kills it at uneven moments. After each kill the store must open with
//! a valid latest checkpoint, never an older one than before.
#![allow(clippy::unwrap_used)]

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kiln_run::{CheckpointStore, RunFolder};

const FOLDER: &str = "KILN_RUN_TEST_KILL_FOLDER";

/// Not a test of its own: without the variable it does nothing, with it it writes until it is
/// killed.
#[test]
fn child_writes_checkpoints_until_killed() {
    let Some(folder) = env::var_os(FOLDER) else {
        return;
    };
    let run = RunFolder::resume(folder).unwrap();
    let store = run.checkpoints();
    let mut step = store
        .recover()
        .unwrap()
        .checkpoint
        .map_or(0, |checkpoint| checkpoint.step);
    for turn in 0_u64.. {
        // Every third checkpoint is of the same step again, so that replacing is killed too.
        step += u64::from(turn % 3 != 2);
        write(&store, step);
        store.set_best(step, 1.0 / step as f64).unwrap();
        store.prune(2, &[]).unwrap();
    }
}

fn write(store: &CheckpointStore, step: u64) {
    let mut writer = store.begin(step).unwrap();
    for name in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        writer
            .write(name, |out| {
                (0..64).try_for_each(|_| out.write_all(&[step as u8; 4096]))
            })
            .unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn a_killed_run_always_has_a_valid_latest_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let run = RunFolder::create(root.path()).unwrap();
    std::fs::write(run.recipe(), "").unwrap();
    write(&run.checkpoints(), 1);
    drop(run);
    let mut newest = 1;
    for round in 0..12 {
        kill_after(
            root.path(),
            Duration::from_micros(3000 + 7919 * (round * round)),
        );
        let run = RunFolder::resume(root.path()).unwrap();
        let recovered = run.checkpoints().latest_valid().unwrap();
        assert!(
            recovered.damaged.is_empty(),
            "round {round}: {:?}",
            recovered.damaged
        );
        let step = recovered.checkpoint.unwrap().step;
        assert!(step >= newest, "round {round}: step {step} after {newest}");
        newest = step;
        let entries = std::fs::read_dir(run.checkpoints().path()).unwrap();
        let hidden = entries.filter(|entry| {
            entry
                .as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .starts_with('.')
        });
        assert_eq!(
            hidden.count(),
            0,
            "round {round}: leftovers of the killed process stay"
        );
        if let Some(best) = run.checkpoints().best().unwrap() {
            run.checkpoints().load(best.step).unwrap();
        }
    }
    assert!(newest > 12, "the children wrote only {newest} checkpoints");
}

/// Starts the child, waits until it holds the lock, lets it work for `life`, and kills it.
fn kill_after(folder: &Path, life: Duration) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "child_writes_checkpoints_until_killed",
            "--nocapture",
        ])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let lock = folder.join("run.lock");
    let holds =
        |pid: u32| std::fs::read_to_string(&lock).is_ok_and(|text| text.trim() == pid.to_string());
    while !holds(child.id()) {
        assert!(
            child.try_wait().unwrap().is_none(),
            "the child ended by itself"
        );
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "the child never took the lock"
        );
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(life);
    child.kill().unwrap();
    child.wait().unwrap();
}
