//! Signals, for real: the test runs itself as a child that waits to be interrupted.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kiln_run::Interrupt;

const MODE: &str = "KILN_RUN_TEST_INTERRUPT";

/// Not a test of its own: without the variable it does nothing. "clean" leaves when asked to,
/// "stubborn" never does.
#[test]
fn child_waits_for_a_signal() {
    let Ok(mode) = env::var(MODE) else { return };
    let interrupt = Interrupt::install().unwrap();
    assert!(
        Interrupt::install().is_err(),
        "a second handler must be refused"
    );
    eprintln!("ready");
    let start = Instant::now();
    while mode == "stubborn" || !interrupt.requested() {
        assert!(start.elapsed() < Duration::from_secs(60), "no signal came");
        thread::sleep(Duration::from_millis(1));
    }
    std::process::exit(7);
}

fn start(mode: &str) -> (Child, impl Iterator<Item = String>) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "child_waits_for_a_signal", "--nocapture"])
        .env(MODE, mode)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(lines.any(|line| line == "ready"));
    (child, lines)
}

fn signal(child: &Child, name: &str) {
    assert!(
        Command::new("kill")
            .args([name, &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn the_first_signal_asks_for_a_clean_stop() {
    for name in ["-INT", "-TERM"] {
        let (mut child, _lines) = start("clean");
        signal(&child, name);
        assert_eq!(child.wait().unwrap().code(), Some(7), "{name}");
    }
}

#[test]
fn the_second_signal_leaves_at_once() {
    let (mut child, mut lines) = start("stubborn");
    signal(&child, "-INT");
    assert!(lines.any(|line| line.starts_with("stopping after this step")));
    signal(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
