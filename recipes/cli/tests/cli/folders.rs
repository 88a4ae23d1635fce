//! Run folders that are damaged, foreign, or in the way.

use std::fs;

use crate::common::{Corner, flip, truncate};

const GENERATE: [&str; 6] = ["generate", "run", "--prompt", "the", "--tokens", "3"];

#[test]
fn prompts_that_cannot_be_continued() {
    let corner = Corner::trained();
    corner.kiln(&["generate", "run", "--prompt", ""]).expect(
        1,
        &["error: the prompt is empty: give at least one token to continue from"],
    );
    corner
        .kiln(&["generate", "run", "--prompt", "the Fox"])
        .expect(
            1,
            &["error: character 'F' at byte 4 is not in the vocabulary of 28 characters"],
        );
    corner
        .kiln(&["generate", "run", "--prompt", "the", "--temperature", "-1"])
        .expect(1, &["`sample.temperature` is -1, but must lie in [0, 100]"]);
    corner
        .kiln(&["generate", "run", "--prompt", "the", "--top-p", "2"])
        .expect(1, &["`sample.top_p` is 2, but must lie in (0, 1]"]);
}

#[test]
fn folders_that_are_no_run() {
    let corner = Corner::new();
    for args in [
        &GENERATE[..],
        &["eval", "run"],
        &["train", "quickstart", "--out", "run", "--resume"],
    ] {
        let args: Vec<&str> = args
            .iter()
            .map(|arg| {
                if *arg == "quickstart" {
                    "recipe.toml"
                } else {
                    arg
                }
            })
            .collect();
        corner.kiln(&args).expect(
            1,
            &["run holds no run: it has no recipe.toml; check the path"],
        );
    }
    assert!(
        !corner.path("run").exists(),
        "looking for a run made a folder"
    );
}

#[test]
fn a_folder_in_use_is_not_mixed_with() {
    let corner = Corner::trained();
    let expected = "run already holds a run or other files; choose another --out, or continue it with --resume";
    corner.train("run", &[]).expect(1, &[expected]);
    fs::create_dir_all(corner.path("other")).unwrap();
    fs::write(corner.path("other/thesis.txt"), "mine").unwrap();
    corner
        .train("other", &[])
        .expect(1, &["already holds a run or other files"]);
    assert_eq!(
        fs::read_dir(corner.path("other")).unwrap().count(),
        1,
        "a refused folder was touched"
    );
}

#[test]
fn a_changed_recipe_cannot_resume() {
    let corner = Corner::trained();
    corner.train("run", &["--resume", "--set", "train.batch=8"]).expect(
        1,
        &["cannot resume: `train.batch` was 4 when this run started and is 8 now; resume with the same recipe"],
    );
    corner
        .train("run", &["--resume", "--set", "train.steps=33"])
        .expect(0, &["resuming after step 30"]);
}

#[test]
fn a_wrong_tokenizer_is_refused() {
    let corner = Corner::trained();
    let tokenizer = corner.path("run/tokenizer.json");
    fs::write(&tokenizer, "{\"kiln\":\"bytes\"}").unwrap();
    for args in [&GENERATE[..], &["eval", "run"]] {
        corner.kiln(args).expect(
            1,
            &[
                "tokenizer.json is not usable: the model was trained with the tokenizer of hash",
                "put the right tokenizer back",
            ],
        );
    }
    fs::write(&tokenizer, "{\"kil").unwrap();
    corner
        .kiln(&GENERATE)
        .expect(1, &["cannot use the tokenizer ", "run/tokenizer.json"]);
    fs::remove_file(&tokenizer).unwrap();
    corner
        .kiln(&GENERATE)
        .expect(1, &["error: cannot ", "run/tokenizer.json"]);
}

#[test]
fn damaged_weights_are_refused() {
    let corner = Corner::trained();
    let model = corner.path("run/model.safetensors");
    let good = fs::read(&model).unwrap();
    flip(&model, 100);
    for args in [&GENERATE[..], &["eval", "run"]] {
        corner.kiln(args).expect(
            1,
            &[
                "model.safetensors is not usable: its sha256 is",
                "but config.json says",
                "put the right file back, or train again",
            ],
        );
    }
    fs::write(&model, &good).unwrap();
    truncate(&model);
    corner
        .kiln(&GENERATE)
        .expect(1, &["model.safetensors is not usable: "]);
    fs::write(&model, "").unwrap();
    corner
        .kiln(&GENERATE)
        .expect(1, &["model.safetensors is not usable: "]);
    fs::remove_file(&model).unwrap();
    corner.kiln(&GENERATE).expect(
        1,
        &["model.safetensors is not usable: there is no such file"],
    );
}

#[test]
fn a_corrupt_config_is_refused() {
    let corner = Corner::trained();
    let path = corner.path("run/config.json");
    let good = fs::read_to_string(&path).unwrap();
    for (bad, expected) in [
        (
            good[..good.len() / 2].to_string(),
            "config.json is not usable: it is no configuration of a run",
        ),
        (
            good.replace("\"version\": 1", "\"version\": 99"),
            "config.json is not usable: its version is 99, and this Kiln reads 1",
        ),
        (
            good.replace("\"heads\": 8", "\"heads\": 6"),
            "is not usable: ",
        ),
        (
            good.replace("\"heads\": 8", "\"heads\": 0"),
            "`bk.heads` is 0",
        ),
        (
            good.replace("\"heads\"", "\"haeds\""),
            "unknown field `haeds`",
        ),
    ] {
        assert_ne!(bad, good);
        fs::write(&path, bad).unwrap();
        corner.kiln(&GENERATE).expect(1, &["error: ", expected]);
    }
}

#[test]
fn a_damaged_checkpoint_is_set_aside_and_the_one_before_used() {
    for damage in [truncate as fn(&std::path::Path), |path| flip(path, 50)] {
        let corner = Corner::trained();
        damage(&corner.path("run/checkpoints/step-00000030/model.safetensors"));
        let said = corner
            .train("run", &["--resume", "--set", "train.steps=40"])
            .expect(
                0,
                &[
                    "checkpoint of step 30 is damaged and was set aside: ",
                    "checkpoints/step-00000030/model.safetensors has ",
                    "resuming after step 20",
                ],
            );
        assert!(said.out.contains("validation"), "{said:?}");
        assert!(
            corner
                .path("run/checkpoints/damaged-step-00000030")
                .is_dir()
        );
        assert!(corner.path("run/checkpoints/step-00000040").is_dir());
        corner.kiln(&GENERATE).expect(0, &[]);
    }
}

#[test]
fn no_checkpoint_to_trust_is_an_error() {
    let corner = Corner::trained();
    for step in [10, 20, 30] {
        let path = format!("run/checkpoints/step-{step:08}/optimizer.bpk");
        flip(&corner.path(&path), 9);
    }
    corner.train("run", &["--resume"]).expect(
        1,
        &["run has no usable checkpoint to resume from; start it anew without --resume, with another --out"],
    );
}

#[test]
fn a_damaged_log_names_its_line() {
    let corner = Corner::trained();
    let path = corner.path("run/metrics.jsonl");
    let text = fs::read_to_string(&path)
        .unwrap()
        .replacen("{\"step\"", "{\"stop\"", 2);
    fs::write(&path, text).unwrap();
    corner
        .train("run", &["--resume", "--set", "train.steps=40"])
        .expect(
            1,
            &[
                "metrics.jsonl, line 1: ",
                "remove the line, or restore the file",
            ],
        );
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let corner = Corner::new();
    corner
        .train("text.txt/run", &[])
        .expect(1, &["error: cannot create text.txt/run: "]);
}
