use super::*;
use crate::fairness::testing::layout;

#[test]
fn the_command_says_everything_and_reads_in_a_shell() {
    let mut layout = layout(
        "seeds = [4]\nset = { 'model.bk.grad_rule' = { blend = 0.5 } }",
        &["a"],
    );
    let folder = tempfile::tempdir().unwrap();
    layout.out = folder.path().into();
    let launch = Launch {
        program: "kiln".into(),
        arguments: vec!["--backend".into(), "flex".into()],
        data: vec!["--data-dir".into(), "d".into()],
        jobs: 2,
        devices: vec![1],
        cores: 5,
        interrupt: kiln_run::Interrupt::none(),
    };
    let run = RunId {
        cell: 0,
        point: 0,
        seed: 4,
    };
    let shown = || {
        line(&command(&layout, run, &launch, 1)).replace(&*folder.path().to_string_lossy(), "OUT")
    };
    let expected = "RAYON_NUM_THREADS=2 kiln train tiny --backend flex --device 1 --data-dir d --set \
                    'model.bk.grad_rule={ blend = 0.5 }' --set seed=4 --plain --out OUT/runs/a/default/seed-4";
    assert_eq!(shown(), expected);
    let run_folder = layout.folder(run);
    fs::create_dir_all(&run_folder).unwrap();
    fs::write(run_folder.join("recipe.toml"), "").unwrap();
    assert_eq!(shown(), format!("{expected} --resume"));
    assert_eq!(quoted("it's"), r"'it'\''s'");
    let plan: CostPlan =
        toml::from_str("lengths = [64, 256]\nbatches = [1, 8]\nseconds = 2.5").unwrap();
    let cost = line(&cost_command(&layout, run, &plan, &launch, 1));
    assert_eq!(
        cost.replace(&*folder.path().to_string_lossy(), "OUT"),
        "RAYON_NUM_THREADS=5 kiln cost OUT/runs/a/default/seed-4 --backend flex --device 1 --lengths 64,256 --batches 1,8 \
         --seconds 2.5 --out OUT/runs/a/default/seed-4 --json OUT/runs/a/default/seed-4/cost.json"
    );
}

/// Each of two processes notes that it was asked, takes a while, and notes its end.
#[cfg(unix)]
#[test]
fn all_runs_are_asked_to_stop_before_one_is_waited_for() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (notes, program) = (folder.path().join("notes"), folder.path().join("run.sh"));
    let note = |word: &str| format!("echo {word} >> '{}'", notes.display());
    let script = format!(
        "#!/bin/sh\ntrap '' HUP\ntrap \"{}; sleep 1; {}; exit 130\" INT\n{}\nwhile :; do sleep 0.02; done\n",
        note("asked"),
        note("ended"),
        note("started")
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut layout = layout("seeds = [4, 5]", &["a"]);
    layout.out = folder.path().into();
    let launch = Launch {
        program,
        arguments: Vec::new(),
        data: Vec::new(),
        jobs: 2,
        devices: vec![1],
        cores: 2,
        interrupt: kiln_run::Interrupt::none(),
    };
    let mut jobs = Jobs::default();
    for run in layout.all() {
        jobs.0.push(Job::start(&layout, run, &launch, 0).unwrap());
    }
    let noted = || fs::read_to_string(&notes).unwrap_or_default();
    let start = Instant::now();
    while noted().lines().count() < 2 {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", noted());
        std::thread::sleep(Duration::from_millis(5));
    }
    // Asked twice, as after Ctrl-C and then an error: each still gets one signal.
    jobs.ask_to_stop();
    drop(jobs);
    let words = noted();
    let words: Vec<_> = words.lines().collect();
    assert_eq!(
        words,
        ["started", "started", "asked", "asked", "ended", "ended"]
    );
}

#[test]
fn progress_is_the_newest_whole_record_of_training() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    assert!(newest_record(&path).is_none());
    let line = |step: u64, kind: &str, name: &str| {
        format!(
            "{{\"step\":{step},\"tokens\":1,\"time_s\":1.0,\"kind\":\"{kind}\",\"values\":{{\"{name}\":2.5}}}}\n"
        )
    };
    let many: String = (1..200).map(|step| line(step, "train", "loss")).collect();
    let more = [
        line(199, "train", "gradient_cosine"),
        line(200, "eval", "validation_loss"),
    ];
    fs::write(&path, many + &more.concat() + "{\"step\":201,\"tok").unwrap();
    let found = newest_record(&path).unwrap();
    assert_eq!((found.step, found.values["loss"]), (199, 2.5));
}

#[test]
fn a_tail_is_the_end_of_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("x.log");
    let lines: Vec<_> = (0..5000).map(|n| format!("line {n}")).collect();
    fs::write(&log, lines.join("\n\n")).unwrap();
    let tail = tail(&log);
    assert_eq!(
        (tail.lines().count(), tail.lines().last()),
        (12, Some("line 4999"))
    );
}
