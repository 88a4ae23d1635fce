use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Schema {
    #[serde(default)]
    description: String,
    train: Train,
    data: Data,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Train {
    steps: u64,
    #[serde(default = "default_rate")]
    learning_rate: f64,
    #[serde(default)]
    betas: Vec<f64>,
    #[serde(default)]
    kind: Optimizer,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Optimizer {
    #[default]
    AdamW,
    Muon,
}

/// No `deny_unknown_fields`: the second check must catch what serde lets pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Data {
    name: String,
    limit: Option<u64>,
}

fn default_rate() -> f64 {
    1e-3
}

fn book(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

const BASE: &str = "# A base.\n[train]\nsteps = 10\nbetas = [0.9, 0.95]\n[data]\nname = 'toy'\n";
const CHAR: &str = "# Shakespeare by characters.\n#\n# 3 minutes.\n\n# not this\nextends = '_base'\n[train]\nsteps = 20\n";

fn fail(files: &[(&str, &str)], name: &str, set: &[&str]) -> String {
    let folder = book(files);
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    let text = load::<Schema>(folder.path(), name, &set)
        .unwrap_err()
        .to_string();
    text.replace(&folder.path().display().to_string(), "BOOK")
}

#[test]
fn layers_merge_and_overrides_come_last() {
    let folder = book(&[("_base.toml", BASE), ("char.toml", CHAR)]);
    let set = [
        "train.learning_rate=1",
        "data.name=text:/x",
        "train.betas=[0.8]",
        "train.kind=muon",
    ]
    .map(String::from);
    let recipe = load::<Schema>(folder.path(), "char", &set).unwrap();
    assert_eq!(
        (recipe.name.as_str(), recipe.header.as_str()),
        ("char", "Shakespeare by characters.\n\n3 minutes.")
    );
    assert_eq!(recipe.value.train.steps, 20);
    assert_eq!(recipe.value.train.learning_rate, 1.0);
    assert_eq!(recipe.value.train.betas, [0.8]);
    assert_eq!(recipe.value.train.kind, Optimizer::Muon);
    assert_eq!(recipe.value.data.name, "text:/x");
    assert_eq!(
        recipe.files,
        [
            folder.path().join("char.toml"),
            folder.path().join("_base.toml")
        ]
    );
    assert!(!recipe.table.contains_key("extends"));
}

#[test]
fn an_element_of_a_list_is_overridden_by_its_number() {
    let folder = book(&[("_base.toml", BASE)]);
    let set = ["train.betas=[0.9, 0.5]", "train.betas.1=0.95"].map(String::from);
    let recipe = load::<Schema>(folder.path(), "_base", &set).unwrap();
    assert_eq!(recipe.value.train.betas, [0.9, 0.95]);
}

#[test]
fn the_resolved_recipe_loads_to_the_same_value() {
    let folder = book(&[("_base.toml", BASE), ("char.toml", CHAR)]);
    let recipe = load::<Schema>(folder.path(), "char", &[]).unwrap();
    let path = folder.path().join("resolved.toml");
    recipe.write(&path).unwrap();
    let again = load::<Schema>(Path::new("nowhere"), path.to_str().unwrap(), &[]).unwrap();
    assert_eq!(again.value, recipe.value);
    assert!(
        again
            .header
            .starts_with("char, resolved: every value this run used.\nShakespeare")
    );
}

#[test]
fn a_recipe_outside_the_book_extends_one_inside() {
    let inside = book(&[("_base.toml", BASE)]);
    let outside = book(&[
        ("mine.toml", "extends = '_base'\n"),
        ("far.toml", "extends = './mine'\n"),
    ]);
    let path = outside.path().join("far.toml");
    let recipe = load::<Schema>(inside.path(), path.to_str().unwrap(), &[]).unwrap();
    assert_eq!(recipe.files.len(), 3);
}

#[test]
fn the_list_leaves_bases_out() {
    let folder = book(&[
        ("_base.toml", BASE),
        ("char.toml", CHAR),
        ("b.toml", "# x\ndescription = 'y'\n"),
        ("n.md", ""),
    ]);
    let all = list(folder.path()).unwrap();
    let short: Vec<(&str, &str)> = all
        .iter()
        .map(|r| (r.name.as_str(), r.description.as_str()))
        .collect();
    assert_eq!(short, [("b", "y"), ("char", "Shakespeare by characters.")]);
}

#[test]
fn an_unknown_key_names_the_nearest() {
    let text = "extends = '_base'\n[train]\nlerning_rate = 1.0\n";
    assert_eq!(
        fail(&[("_base.toml", BASE), ("cpu.toml", text)], "cpu", &[]),
        "unknown key `train.lerning_rate` in cpu.toml; did you mean `learning_rate`? \
         valid keys: steps, learning_rate, betas, kind"
    );
    assert_eq!(
        fail(&[("_base.toml", BASE)], "_base", &["train.step=1"]),
        "unknown key `train.step` in --set train.step=1; did you mean `steps`? valid keys: steps, learning_rate, betas, kind"
    );
    assert_eq!(
        fail(&[("_base.toml", BASE)], "_base", &["zebra.x=1"]),
        "unknown key `zebra` in --set zebra.x=1; valid keys: description, train, data"
    );
}

#[test]
fn a_key_that_serde_lets_pass_is_still_unknown() {
    assert_eq!(
        fail(&[("_base.toml", BASE)], "_base", &["data.nam=1"]),
        "unknown key `data.nam` in --set data.nam=1; did you mean `name`? valid keys: name"
    );
}

#[test]
fn a_wrong_type_names_its_path_and_its_file() {
    assert_eq!(
        fail(&[("_base.toml", BASE)], "_base", &["train.steps=many"]),
        "bad value for `train.steps` in --set train.steps=many: invalid type: string \"many\", expected u64"
    );
    let text = "extends = '_base'\n[train]\nbetas = [0.9, true]\n";
    assert_eq!(
        fail(
            &[("_base.toml", BASE), ("cpu.toml", text)],
            "cpu",
            &["train.steps=3"]
        ),
        "bad value for `train.betas.1` in cpu.toml: invalid type: boolean `true`, expected f64"
    );
    assert_eq!(
        fail(&[("_base.toml", BASE)], "_base", &["train.kind=adam"]),
        "bad value for `train.kind` in --set train.kind=adam: unknown variant `adam`, expected `adam-w` or `muon`; \
         did you mean `adam-w`?"
    );
}

#[test]
fn missing_keys_cycles_and_bad_names() {
    assert_eq!(
        fail(&[("a.toml", "[train]\nsteps = 1\n")], "a", &[]),
        "missing key `data` in a.toml; add it there"
    );
    assert_eq!(
        fail(
            &[
                ("a.toml", "extends = 'b'\n"),
                ("b.toml", "extends = 'c'\n"),
                ("c.toml", "extends = 'b'\n")
            ],
            "a",
            &[]
        ),
        "recipes extend each other in a circle: b -> c -> b"
    );
    assert_eq!(
        fail(
            &[("a.toml", "extends = 'base'\n"), ("_base.toml", "")],
            "a",
            &[]
        ),
        "BOOK/a.toml extends `base`, which is not there; did you mean `_base`?"
    );
    assert_eq!(
        fail(&[("char-cpu.toml", ""), ("zoo.toml", "")], "chat-cpu", &[]),
        "no recipe `chat-cpu` in BOOK; did you mean `char-cpu`? valid recipes: char-cpu, zoo"
    );
    assert!(fail(&[("a.toml", "extends = 3\n")], "a", &[]).contains("write extends = \"name\""));
    assert!(fail(&[("a.toml", "x = = 1\n")], "a", &[]).contains("line 1"));
}

#[test]
fn bad_overrides() {
    let files = [("_base.toml", BASE)];
    assert_eq!(
        fail(&files, "_base", &["train.steps.x=1"]),
        "--set train.steps.x=1: `train.steps` is an integer, not a table, so it has no keys to set"
    );
    for set in ["train.betas.2=1", "train.betas.first=1"] {
        let words = fail(&files, "_base", &[set]);
        assert!(
            words.contains("a key is the number of one of its elements, counted from 0"),
            "{words}"
        );
    }
    assert_eq!(
        fail(&files, "_base", &["steps"]),
        "--set steps: there is no `=`; write --set table.key=value"
    );
    assert_eq!(
        fail(&files, "_base", &["a..b=1"]),
        "--set a..b=1: a part of the key is empty; write --set table.key=value"
    );
}

#[test]
fn a_table_laid_over_a_preset_changes_only_what_it_states() {
    let folder = book(&[("_base.toml", BASE)]);
    let load = |set: &str| load::<Schema>(folder.path(), "_base", &[set.to_string()]).unwrap();
    let preset = Train {
        steps: 7,
        learning_rate: 0.5,
        betas: vec![],
        kind: Optimizer::Muon,
    };
    let recipe = load("train.learning_rate=0.25");
    let read = recipe.overlay("train", &preset, &["steps"]).unwrap();
    assert_eq!(
        (read.steps, read.learning_rate, read.kind),
        (7, 0.25, Optimizer::Muon)
    );
    assert_eq!(read.betas, [0.9, 0.95]);
    assert_eq!(recipe.overlay("nothing", &preset, &[]).unwrap(), preset);
    let error = load("data.limit=3").overlay("data", &preset, &["name"]);
    assert_eq!(
        error.unwrap_err().to_string(),
        "unknown key `data.limit` in --set data.limit=3; \
         valid keys: steps, learning_rate, betas, kind"
    );
}

#[test]
fn an_override_cannot_smuggle_in_a_second_key() {
    let folder = book(&[("_base.toml", BASE)]);
    let recipe = load::<Schema>(folder.path(), "_base", &["data.name=1\nw = 2".into()]).unwrap();
    assert_eq!(recipe.value.data.name, "1\nw = 2");
}
