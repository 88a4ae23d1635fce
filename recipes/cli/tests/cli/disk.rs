//! Disks that are full or read-only. Such disks are made by mounting, which needs Linux and its root; elsewhere these tests
//! say that they were skipped.

#![cfg(target_os = "linux")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Corner;

/// A small disk in memory, unmounted with the value.
struct Disk(PathBuf);

impl Disk {
    /// None, with the reason on standard error, where mounting is not permitted.
    fn mount(at: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let args = ["-t", "tmpfs", "-o", options, "tmpfs"];
        let output = Command::new("mount").args(args).arg(at).output();
        match output {
            Ok(output) if output.status.success() => Some(Self(at.to_path_buf())),
            Ok(output) => skip(&String::from_utf8_lossy(&output.stderr)),
            Err(error) => skip(&error.to_string()),
        }
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let status = Command::new("mount")
            .args(["-o", &options])
            .arg(&self.0)
            .status();
        assert!(status.unwrap().success());
    }
}

fn skip(why: &str) -> Option<Disk> {
    eprintln!("skipped: no disk could be mounted ({})", why.trim());
    None
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_ends_the_run_and_leaves_the_checkpoint_before() {
    let corner = Corner::new();
    let Some(disk) = Disk::mount(&corner.path("disk"), "size=1m") else {
        return;
    };
    let grow = [
        "--set",
        "train.checkpoint_every=1",
        "--set",
        "train.keep_checkpoints=1000",
    ];
    let said = corner.train("disk/run", &grow);
    let said = said.expect(
        1,
        &[
            "error: ",
            "disk/run/checkpoints/step-",
            "Free some space there, or choose another folder with --out",
        ],
    );
    let checkpoints = kiln_run::CheckpointStore::new(corner.path("disk/run/checkpoints"));
    let steps = checkpoints.list().unwrap();
    let newest = *steps
        .last()
        .unwrap_or_else(|| panic!("no checkpoint fitted: {said:?}"));
    assert!((1..30).contains(&newest), "{steps:?}");
    checkpoints.load(newest).unwrap();
    // No torn file is left behind, and with more space the run goes on from there.
    let hidden = fs::read_dir(checkpoints.path()).unwrap();
    let hidden = hidden.filter(|entry| {
        entry
            .as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with('.')
    });
    assert_eq!(hidden.count(), 0);
    disk.remount("size=64m");
    let resume: Vec<&str> = grow.into_iter().chain(["--resume"]).collect();
    let resuming = format!("resuming after step {newest}");
    corner
        .train("disk/run", &resume)
        .expect(0, &[&resuming, "validation"]);
}

/// The weights are written by a library whose errors wrap the system's: what helps must be told all the same.
#[test]
fn a_disk_without_space_for_the_weights_says_what_helps() {
    let corner = Corner::new();
    let Some(_disk) = Disk::mount(&corner.path("disk"), "size=1m") else {
        return;
    };
    let large = [
        "--set",
        "model.backbone.d_model=512",
        "--set",
        "model.backbone.n_layers=6",
    ];
    corner.train("disk/run", &large).expect(
        1,
        &[
            "error: cannot write disk/run/checkpoints/step-00000010/model.safetensors: No space left on device",
            "Free some space there, or choose another folder with --out",
        ],
    );
}

#[test]
fn a_read_only_folder_is_named() {
    let corner = Corner::new();
    let Some(disk) = Disk::mount(&corner.path("disk"), "size=1m") else {
        return;
    };
    disk.remount("ro");
    corner.train("disk/run", &[]).expect(
        1,
        &[
            "error: cannot create disk/run: ",
            "Choose another folder with --out",
        ],
    );
}
