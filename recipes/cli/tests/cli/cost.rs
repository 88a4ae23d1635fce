//! `kiln cost`: files, tables, and what is refused.

use std::fs;

use serde_json::Value;

use crate::common::Corner;

fn json(corner: &Corner, name: &str) -> Value {
    serde_json::from_slice(&fs::read(corner.path(name)).unwrap()).unwrap()
}

#[test]
fn a_run_gets_its_cost_beside_its_weights() {
    let corner = Corner::trained();
    let args = [
        "cost",
        "run",
        "--lengths",
        "4,16",
        "--batches",
        "1,2",
        "--seconds",
        "1",
    ];
    let said = corner.kiln(&args).expect(
        0,
        &[
            "run: training step",
            "run: batch 2, length 16: ",
            "Models",
            "A training step",
            "run by length",
            "page      run/cost.html",
        ],
    );
    assert!(
        !said.out.contains("cheaper"),
        "there is nothing to compare with"
    );
    let cost = json(&corner, "run/cost.json");
    assert_eq!(cost["version"], 2);
    assert_eq!(cost["precision"], "f32");
    assert_eq!(
        (&cost["name"], &cost["weights"]),
        (&"run".into(), &"trained".into())
    );
    assert_eq!(
        (&cost["backend"], &cost["provenance"]["seed"]),
        (&"flex".into(), &5.into())
    );
    let size = |name: &str| fs::metadata(corner.path("run").join(name)).unwrap().len();
    assert_eq!(cost["files"]["weights"], size("model.safetensors"));
    assert_eq!(cost["files"]["tokenizer"], size("tokenizer.json"));
    assert_eq!(
        [&cost["training"]["batch"], &cost["training"]["seq"]],
        [4, 16]
    );
    let rows = cost["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    for row in rows {
        assert_eq!(row["outcome"], "measured", "{row}");
        // One layer of 8 heads: a complex f32 each.
        assert_eq!([&row["state_bytes"], &row["counted_state_bytes"]], [64, 64]);
        let median = row["decode"]["seconds"]["median"].as_f64().unwrap();
        assert!(median > 0.0 && row["decode"]["energy"].is_null(), "{row}");
    }
    assert!(
        fs::read_to_string(corner.path("run/cost.html"))
            .unwrap()
            .contains("<svg")
    );
    // The run is as good as before.
    corner
        .kiln(&["eval", "run", "--windows", "1"])
        .expect(0, &["bits/byte"]);
}

#[test]
fn models_without_a_run_are_set_beside_each_other() {
    let corner = Corner::new();
    let recipe = corner.text("recipe.toml");
    let args = [
        "cost",
        &recipe,
        "--against",
        "transformer-tiny",
        "resnet-bk-masked",
        "--lengths",
        "8,32",
        "--batches",
        "1",
        "--seconds",
        "1",
    ];
    corner.kiln(&args).expect(
        0,
        &[
            "recipe against transformer-tiny, batch 1",
            "Where recipe is cheaper, in tokens",
            "page      runs/cost-recipe/cost.html",
        ],
    );
    // A vocabulary of bytes, and a mask.
    for (name, state) in [
        ("recipe", Value::from(64)),
        ("transformer-tiny", 8192.into()),
        ("resnet-bk-masked", Value::Null),
    ] {
        let cost = json(&corner, &format!("runs/cost-recipe/{name}/cost.json"));
        assert_eq!(
            (&cost["weights"], &cost["files"]),
            (&"initial".into(), &Value::Null)
        );
        assert_eq!(cost["rows"][0]["state_bytes"], state, "{name}");
    }
    let args = [
        "cost",
        "resnet-bk-tiny",
        "--lengths",
        "8",
        "--batches",
        "1",
        "--seconds",
        "1",
        "--out",
        "here",
    ];
    corner.kiln(&args).expect(0, &["page      here/cost.html"]);
    assert_eq!(json(&corner, "here/cost.json")["name"], "resnet-bk-tiny");
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_is_written() {
    let corner = Corner::trained();
    for (more, status, expected) in [
        (
            &["--lengths", "16,0"][..],
            2,
            "`--lengths` is 0, but must lie in [1, 1048576]",
        ),
        (
            &["--lengths", "8,8"],
            2,
            "`--lengths` is 8, but is given twice",
        ),
        (&["--lengths", "many"], 2, "invalid value 'many'"),
        (&["--batches", "0"], 2, "`--batches` is 0"),
        (
            &["--seconds", "-1"],
            2,
            "`--seconds` is -1, but must lie in (0, 86400]",
        ),
        (&["--backend", "cdua"], 2, "unknown backend `cdua`"),
        (
            &["--against", "transformer-tny"],
            1,
            "no recipe `transformer-tny`",
        ),
    ] {
        let args: Vec<&str> = ["cost", "run"].iter().chain(more).copied().collect();
        corner.kiln(&args).expect(status, &[expected]);
        assert!(!corner.path("run/cost.json").exists(), "{more:?}");
    }
    fs::create_dir(corner.path("empty")).unwrap();
    corner.kiln(&["cost", "empty"]).expect(1, &["holds no run"]);
}
