//! Students: from a teacher's run folder to a report.

use std::fs;

use crate::common::Corner;

/// Arguments that make a student of the corner's recipe, smaller than its teacher.
fn distill<'a>(recipe: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["distill", recipe, "--out", out];
    args.extend(["--set", "seed=6", "--set", "model.bk.heads=4"]);
    args.extend(more);
    args
}

#[test]
fn a_student_is_made_shown_and_used() {
    let corner = Corner::trained();
    let recipe = corner.text("recipe.toml");
    let said = corner.kiln(&distill(&recipe, "student", &["--teacher", "run"]));
    said.expect(
        0,
        &[
            "validation",
            "teacher     loss",
            "KL",
            "agrees with the teacher on",
            "report",
        ],
    );
    let written = fs::read_to_string(corner.path("student/recipe.toml")).unwrap();
    for part in [
        "[distill]",
        "teacher = \"run\"",
        "temperature = 2.0",
        "weights = \"",
    ] {
        assert!(written.contains(part), "`{part}` is not in {written}");
    }
    let metrics = fs::read_to_string(corner.path("student/metrics.jsonl")).unwrap();
    for key in [
        "distill_loss",
        "teacher_tokens_per_s",
        "student_tokens_per_s",
        "validation_teacher_agreement",
        "validation_teacher_kl",
        "validation_teacher_loss",
    ] {
        assert!(metrics.contains(key), "{key}");
    }
    let report = fs::read_to_string(corner.path("student/report.html")).unwrap();
    for part in [
        "agreement with the teacher",
        "teacher, validation",
        "teacher alone",
    ] {
        assert!(report.contains(part), "`{part}` is not in the report");
    }
    // It is a run as any other, also for being a teacher; its own recipe says who taught it.
    let again = corner.text("student/recipe.toml");
    let said = corner.kiln(&["train", &again, "--out", "again"]);
    said.expect(0, &["teacher     loss"]);
    let weights = ["student", "again"].map(|run| corner.path(run).join("model.safetensors"));
    assert!(fs::read(&weights[0]).unwrap() == fs::read(&weights[1]).unwrap());
    corner.kiln(&["eval", "student"]).expect(0, &["perplexity"]);
}

#[test]
fn a_dry_run_counts_the_teacher_and_its_answers() {
    let corner = Corner::trained();
    let recipe = corner.text("recipe.toml");
    let kept = [
        "--dry-run",
        "--teacher",
        "run",
        "--set",
        "distill.cache=true",
        "--set",
        "distill.top_k=3",
        "--set",
        "train.order=fixed",
    ];
    // 1,760 characters, of which 90 % train: 98 windows of 16 positions, 28 bytes each.
    let said = corner.kiln(&distill(&recipe, "student", &kept));
    said.expect(
        0,
        &["# teacher ", "run: ", "# teacher's answers", "KiB on disk"],
    );
    let missing = ["--dry-run", "--teacher", "nowhere"];
    let said = corner.kiln(&distill(&recipe, "student", &missing));
    said.expect(
        0,
        &[
            "# missing",
            "`distill.teacher` is nowhere",
            "Train one with --out nowhere",
        ],
    );
    assert!(!corner.path("student").exists());
}

#[test]
fn without_a_teacher_there_is_no_student() {
    let corner = Corner::new();
    let recipe = corner.text("recipe.toml");
    let said = corner.kiln(&distill(&recipe, "student", &[]));
    said.expect(2, &["has no [distill] section", "--teacher"]);
    let said = corner.kiln(&distill(&recipe, "student", &["--teacher", "nowhere"]));
    said.expect(
        1,
        &[
            "`distill.teacher` is nowhere",
            "holds no run",
            "Train one with --out nowhere",
        ],
    );
    let apart = ["--teacher-device", "1"];
    let alone = [&["train", &recipe, "--out", "student"][..], &apart].concat();
    corner.kiln(&alone).expect(
        2,
        &["--teacher-device is for recipes with a [distill] section"],
    );
    for more in [
        &["--teacher", "run"][..],
        &["--teacher", "run", "--dry-run"],
    ] {
        let absent = [more, &apart].concat();
        let said = corner.kiln(&distill(&recipe, "student", &absent));
        said.expect(1, &["backend `flex` has no device 1 on this machine"]);
    }
    assert!(!corner.path("student").exists());
}

#[test]
fn a_student_that_was_stopped_goes_on() {
    let corner = Corner::trained();
    let recipe = corner.text("recipe.toml");
    let teacher = ["--teacher", "run"];
    corner
        .kiln(&distill(&recipe, "straight", &teacher))
        .expect(0, &[]);
    let first = ["--teacher", "run", "--set", "train.steps=10"];
    corner
        .kiln(&distill(&recipe, "student", &first))
        .expect(0, &[]);
    let second = ["--teacher", "run", "--resume"];
    corner
        .kiln(&distill(&recipe, "student", &second))
        .expect(0, &["resuming after step 10"]);
    let weights = ["student", "straight"].map(|run| corner.path(run).join("model.safetensors"));
    assert!(fs::read(&weights[0]).unwrap() == fs::read(&weights[1]).unwrap());
}

/// A study of a student needs its teacher's run, and shows how like the two are.
#[test]
fn a_student_is_an_arm_of_a_study() {
    let corner = Corner::trained();
    let study = |teacher: &str| {
        let text = format!(
            "# A test.\nseeds = [6]\n[[arm]]\nname = \"alone\"\nrecipe = \"recipe.toml\"\n[[arm]]\nname = \"student\"\nrecipe = \"recipe.toml\"\nset = {{ \"distill.teacher\" = \"{teacher}\" }}\n"
        );
        fs::write(corner.path("study.toml"), text).unwrap();
    };
    let file = corner.text("study.toml");
    let args = ["compare", &file, "--out", "out", "--plain"];
    study("nowhere");
    let why = "arm `student`, default: recipe: `distill.teacher` is nowhere, but it cannot be opened as a finished run";
    corner.kiln(&args).expect(1, &[why]);
    let dry = [&args[..], &["--dry-run"]].concat();
    corner.kiln(&dry).expect(0, &["missing     ", why]);
    study("run");
    corner.kiln(&args).expect(0, &["alone", "student"]);
    let page = fs::read_to_string(corner.path("out/results.md")).unwrap();
    for part in [
        "agreement with the teacher",
        "KL(teacher to arm), nats/token",
    ] {
        assert!(page.contains(part), "`{part}` is not in {page}");
    }
    // Its runs are those of that teacher, and of no other.
    fs::rename(corner.path("run"), corner.path("away")).unwrap();
    corner.train("run", &["--set", "seed=9"]).expect(0, &[]);
    corner.kiln(&args).expect(1, &["distill.weights"]);
}
