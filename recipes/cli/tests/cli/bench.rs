//! `kiln bench step`: the table and the file, and what is refused.

use std::fs;

use serde_json::Value;

use crate::common::Corner;

/// Quickstart's model and batches at a shorter context; no text is read for it.
#[test]
fn a_step_is_taken_apart() {
    let corner = Corner::new();
    let args = [
        "bench",
        "step",
        "quickstart",
        "--steps",
        "3",
        "--set",
        "train.seq=32",
        "--set",
        "train.accumulate=2",
        "--json",
        "step.json",
    ];
    corner.kiln(&args).expect(
        0,
        &[
            "quickstart on flex, 3 steps of random tokens",
            "first step",
            "tokens/s",
            "Where it goes, mean of 3 steps",
            "backward",
            "whole step",
            "Memory",
        ],
    );
    let json: Value = serde_json::from_slice(&fs::read(corner.path("step.json")).unwrap()).unwrap();
    assert_eq!(json["version"], 2);
    // The kernels of flex are not launched by CubeCL.
    assert!(json["operations"].is_null(), "{json}");
    assert_eq!(
        [&json["name"], &json["backend"], &json["precision"]],
        ["quickstart", "flex", "f32"]
    );
    assert_eq!(
        [&json["vocab"], &json["seq"], &json["accumulate"]],
        [1024, 32, 2]
    );
    let provenance = &json["provenance"];
    assert!(provenance["versions"]["burn"].is_string() && provenance["hardware"].is_object());
    let number = |value: &Value| value.as_f64().unwrap();
    let warm_up = &json["warm_up"];
    assert!(number(&warm_up["seconds"]) >= number(&warm_up["first_seconds"]));
    assert!(number(&warm_up["steps"]) >= 4.0);
    let throughput = &json["throughput"];
    assert_eq!(throughput["steps"], 3);
    // Tokens and operations of a step over its time.
    let seconds = number(&throughput["seconds_per_step"]);
    let tokens = number(&json["batch"]) * 32.0 * 2.0;
    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-9;
    assert!(close(
        number(&throughput["tokens_per_second"]),
        tokens / seconds
    ));
    let operations = number(&json["flops_per_step"]);
    assert!(close(
        number(&throughput["flops_per_second"]),
        operations / seconds
    ));
    // At least six for each parameter but the embedding and token.
    let embedding = 1024.0 * 64.0;
    assert!(operations > 6.0 * (number(&json["parameters"]) - embedding) * tokens * 0.9);
    let profile = &json["profile"];
    let phases = profile["phases"].as_array().unwrap();
    let names: Vec<_> = phases
        .iter()
        .map(|of| of["phase"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["data", "forward", "backward", "optimizer"]);
    let sum: f64 = phases.iter().map(|of| number(&of["seconds"])).sum();
    assert!(
        close(sum, number(&profile["seconds_per_step"])),
        "{profile}"
    );
    assert!(
        phases.iter().all(|of| number(&of["seconds"]) > 0.0),
        "{profile}"
    );
    assert!(
        phases.iter().all(|of| number(&of["seconds"]) < sum),
        "{profile}"
    );
}

/// A vocabulary of characters follows from a text, which is not read; the precision is the recipe's.
#[test]
fn no_text_is_read() {
    let corner = Corner::new();
    fs::remove_file(corner.path("text.txt")).unwrap();
    let step = |sets: &[&str]| {
        let args = [
            "bench",
            "step",
            "./recipe.toml",
            "--steps",
            "1",
            "--json",
            "step.json",
        ];
        let said = corner
            .kiln(&[&args[..], sets].concat())
            .expect(0, &["backward"]);
        let json = fs::read(corner.path("step.json")).unwrap();
        (said, serde_json::from_slice::<Value>(&json).unwrap())
    };
    let (said, json) = step(&["--set", "precision=bf16"]);
    assert!(said.err.contains("the model gets 256 tokens"), "{said:?}");
    assert_eq!(
        (&json["vocab"], &json["precision"]),
        (&256.into(), &"bf16".into())
    );
    let (said, json) = step(&["--set", "model.backbone.vocab_size=77"]);
    assert!(!said.err.contains("note"), "{said:?}");
    assert_eq!(json["vocab"], 77);
}

#[test]
fn what_cannot_be_timed_is_refused() {
    let corner = Corner::new();
    let step = |sets: &[&str]| corner.kiln(&[&["bench", "step", "./recipe.toml"], sets].concat());
    step(&["--steps", "0"]).expect(2, &["--steps"]);
    step(&["--set", "precision=f64"]).expect(1, &["precision", "bf16"]);
    step(&["--set", "distill.teacher=nowhere"]).expect(
        1,
        &["the recipe has the teacher nowhere, and a step is timed without"],
    );
}

/// The whole catalogue at small sizes: everything runs, and the file holds what the table shows.
#[test]
fn the_catalogue_of_operations_runs() {
    let corner = Corner::new();
    let args = ["bench", "ops", "--quick", "--json", "ops.json"];
    corner.kiln(&args).expect(
        0,
        &[
            "Operations on flex at small sizes",
            "bk_left",
            "adamw",
            "with gradients",
        ],
    );
    let json: Value = serde_json::from_slice(&fs::read(corner.path("ops.json")).unwrap()).unwrap();
    assert_eq!(
        (&json["version"], &json["quick"]),
        (&1.into(), &true.into())
    );
    assert!(json["provenance"]["commit"].is_object() || json["provenance"]["versions"].is_object());
    let operations = json["operations"].as_array().unwrap();
    let mut names: Vec<_> = operations
        .iter()
        .map(|of| of["name"].as_str().unwrap())
        .collect();
    names.dedup();
    assert_eq!(
        names,
        [
            "bk_left",
            "bk_diagonal",
            "bk_solve",
            "gated_linear_attention",
            "resolvent_attention",
            "attention",
            "linear",
            "linear_cross_entropy",
            "packed_int8",
            "packed_int4",
            "rms_norm",
            "layer_norm",
            "gelu",
            "swiglu",
            "rotate",
            "causal_conv",
            "cross_entropy",
            "adamw",
            "square_sum",
        ]
    );
    for operation in operations {
        let figures = &operation["figures"];
        assert_eq!(figures["outcome"], "measured", "{operation}");
        let number = |value: &Value| value.as_f64().unwrap();
        let seconds = number(&figures["seconds"]["median"]);
        assert!(
            seconds > 0.0 && number(&figures["bytes"]) > 0.0,
            "{operation}"
        );
        let rate = number(&figures["bytes"]) / seconds / 1e9;
        assert!((rate / number(&figures["gb_per_s"]) - 1.0).abs() < 1e-9);
        let both = operation["pass"] == "both";
        let is_update = ["adamw", "square_sum"].contains(&operation["name"].as_str().unwrap());
        assert!(!(both && is_update), "{operation}");
    }
    let shape = |of: &&Value| of["name"] == "linear_cross_entropy";
    let head = operations.iter().find(shape).unwrap();
    assert_eq!(head["shape"], "128 x 64 to 256");
    assert_eq!(head["figures"]["flops"], 2.0 * 128.0 * 64.0 * 256.0);
}

#[test]
fn operations_are_chosen_by_name() {
    let corner = Corner::new();
    let ops = |more: &[&str]| corner.kiln(&[&["bench", "ops", "--quick"], more].concat());
    let said = ops(&["--filter", "norm", "--precision", "bf16"]).expect(0, &["rms_norm", "bf16"]);
    assert!(!said.out.contains("gelu"), "{said:?}");
    ops(&["--filter", "nothing"]).expect(
        1,
        &["`--filter` is nothing, but no operation has that in its name; there are bk_left, "],
    );
    ops(&["--precision", "f64"]).expect(2, &["f64"]);
}
