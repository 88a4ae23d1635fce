//! `kiln compress`: a run made smaller, and what is refused.

use std::fs;

use crate::common::{Corner, flip};

const FROM: [&str; 6] = [
    "--set",
    "from=run",
    "--out",
    "small",
    "--set",
    "calibration.windows=8",
];

fn compress(recipe: &str, more: &[&str]) -> Vec<String> {
    ["compress", recipe]
        .iter()
        .chain(&FROM)
        .chain(more)
        .map(ToString::to_string)
        .collect()
}

fn kiln(corner: &Corner, args: &[String]) -> crate::common::Said {
    corner.kiln(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_compressed_run_is_a_run() {
    let corner = Corner::trained();
    let fast = ["--set", "measure.decode_seconds=0.2"];
    kiln(&corner, &compress("int8", &fast)).expect(
        0,
        &[
            "stage 1 of 2: rtn, 8 bits, scales by output",
            "original",
            "rest in 16 bits",
            "same top token",
            "run       small",
            "report    small/report.html",
        ],
    );
    corner
        .kiln(&["eval", "small", "--windows", "4"])
        .expect(0, &["bits/byte"]);
    corner
        .kiln(&["generate", "small", "--prompt", "the", "--tokens", "4"])
        .expect(0, &["the"]);
    let cost = [
        "cost",
        "small",
        "--lengths",
        "4",
        "--batches",
        "1",
        "--seconds",
        "1",
    ];
    corner.kiln(&cost).expect(0, &["small by length"]);
    let text = fs::read(corner.path("small/cost.json")).unwrap();
    let figures: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(figures["training"]["outcome"], "left-out");
    let text = fs::read(corner.path("small/compress.json")).unwrap();
    let compression: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        figures["weight_bytes"],
        compression["stages"][1]["memory_bytes"]
    );
    // The original is what it was.
    corner
        .kiln(&["eval", "run", "--windows", "4"])
        .expect(0, &["bits/byte"]);
    // A second start does not mix with it, and there is nothing to resume.
    kiln(&corner, &compress("int8", &fast)).expect(1, &["already holds a run"]);
    kiln(
        &corner,
        &compress("int8", &[&fast[..], &["--resume"]].concat()),
    )
    .expect(0, &["run       small"]);
    kiln(&corner, &compress("int4-rtn", &["--resume"])).expect(1, &["cannot resume: `"]);
    flip(&corner.path("small/model.safetensors"), 9);
    corner
        .kiln(&["eval", "small"])
        .expect(1, &["model.safetensors is not usable: its sha256 is"]);
}

/// One compression for each combination of values, told in one table; what was done is not done again.
#[test]
fn settings_are_compared() {
    let corner = Corner::trained();
    let vary = [
        "--set",
        "measure.decode_seconds=0",
        "--vary",
        "calibration.windows=2,8",
        "--vary",
        "calibration.seed=1,2",
    ];
    let said = kiln(&corner, &compress("int4-gptq", &vary));
    let said = said.expect(
        0,
        &[
            "calibration.windows",
            "calibration tokens",
            "runs      small",
        ],
    );
    assert!(said.out.contains("report    small/report.html"));
    let text = fs::read(corner.path("small/vary.json")).unwrap();
    let figures: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let points = figures["points"].as_array().unwrap();
    assert_eq!(points.len(), 4);
    let seen = |at: usize| points[at]["compression"]["stages"][0]["calibration_tokens"].as_u64();
    assert_eq!(seen(2).unwrap(), 4 * seen(0).unwrap());
    for folder in ["1-2-1", "2-2-2", "3-8-1", "4-8-2"] {
        let run = format!("small/{folder}");
        corner
            .kiln(&["eval", &run, "--windows", "2"])
            .expect(0, &["bits/byte"]);
    }
    let report = fs::read_to_string(corner.path("small/report.html")).unwrap();
    assert!(report.contains("Divergence over calibration.windows"));
    kiln(&corner, &compress("int4-gptq", &vary)).expect(1, &["already holds a run"]);
    let time = |file: &str| fs::metadata(corner.path(file)).unwrap().modified().unwrap();
    let stage = "small/1-2-1/stages/1-quantize/stage.json";
    let before = time(stage);
    let resumed = [&vary[..], &["--resume"]].concat();
    kiln(&corner, &compress("int4-gptq", &resumed)).expect(0, &["runs      small"]);
    assert_eq!(time(stage), before);
    for (vary, message) in [
        ("calibration.windows=4", "a single value goes to --set"),
        ("calibration.window=4,8", "calibration.window"),
    ] {
        let said = kiln(
            &corner,
            &compress("int4-gptq", &["--vary", vary, "--resume"]),
        );
        said.expect(1, &[message]);
    }
}

/// Every recipe of the book says what it would give for a ResNet-BK.
#[test]
fn the_books_recipes_resolve_and_know_their_sizes() {
    let corner = Corner::trained();
    let book = concat!(env!("CARGO_MANIFEST_DIR"), "/../book/compress");
    let mut names: Vec<String> = fs::read_dir(book)
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    assert!(names.len() >= 8, "{names:?}");
    let listed = corner
        .kiln(&["recipes"])
        .expect(0, &["Make a run smaller with one of these"]);
    for name in names {
        assert!(listed.out.contains(&name), "{name}");
        let mut more = vec!["--dry-run"];
        if name == "hundredfold" {
            // Of a single layer half can not go.
            more.extend([
                "--set",
                "stage.0.part=mlp",
                "--set",
                "stage.0.method=taylor",
            ]);
            more.extend(["--set", "stage.0.multiple=8", "--set", "stage.2.multiple=8"]);
        }
        if name.starts_with("structured-") || name == "twentyfold" {
            // The model has 32 channels, of which no multiple of 32 can go.
            more.extend(["--set", "stage.0.multiple=8"]);
        }
        if name.starts_with("student-") {
            // Nor are there two layers to start from.
            more.extend(["--set", "stage.0.student.backbone.n_layers=1"]);
            more.extend(["--set", "stage.0.init_layers=[0]"]);
        }
        if name.starts_with("auto-") {
            // The steps of groups are more of its small layers.
            more.extend(["--set", "stage.0.budget=0.2"]);
        }
        let said = kiln(&corner, &compress(&name, &more));
        if name.starts_with("layers-") {
            // Of a single layer none can go.
            said.expect(1, &["part `layers`: `share` = 0.34 of 1", "raise it"]);
            continue;
        }
        let said = said.expect(0, &["kind = ", "# Sizes", "original"]);
        assert!(said.out.contains("# 1 "), "{name}: {}", said.out);
    }
    assert!(!corner.path("small").exists());
}

#[test]
fn what_cannot_be_compressed_is_told() {
    let corner = Corner::trained();
    for (recipe, more, message) in [
        ("int9", &[][..], "no recipe `int9` in"),
        (
            "int8",
            &["--set", "from="],
            "`from` is empty, but a run folder is needed: --set from=RUN",
        ),
        ("int8", &["--set", "from=nowhere"], "nowhere holds no run"),
        (
            "int8",
            &["--set", "stage.0.bits=5"],
            "`bits` is 5, but must be 2, 3, 4 or 8",
        ),
        (
            "int8",
            &["--set", "stage.7.bits=4"],
            "a key is the number of one of its elements",
        ),
        ("int8", &["--set", "stage.0.bist=4"], "did you mean `bits`?"),
        (
            "int4-gptq",
            &["--set", "stage.0.nearest_group=false"],
            "`group` = 64 does not divide it",
        ),
        (
            "int8",
            &["--set", "stage.0.layers=[\"heads\"]"],
            "no layer fits its `layers` and `except`",
        ),
        ("int8", &["--backend", "abacus"], "abacus"),
    ] {
        let said = kiln(&corner, &compress(recipe, more));
        assert_ne!(said.status, 0, "{said:?}");
        assert!(
            said.err.contains(message),
            "`{message}` is not in: {}",
            said.err
        );
        assert!(!said.err.contains("panicked"), "{}", said.err);
        if corner.path("small").exists() {
            fs::remove_dir_all(corner.path("small")).unwrap();
        }
    }
}
