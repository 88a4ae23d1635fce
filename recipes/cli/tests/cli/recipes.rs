//! Recipes, settings, data and devices that cannot be used: one line each of what is asked, and what is answered.

use std::fs;

use crate::common::Corner;

#[test]
fn an_unknown_recipe_names_the_nearest() {
    let corner = Corner::new();
    corner.kiln(&["train", "quickstrat", "--dry-run"]).expect(
        1,
        &[
            "error: no recipe `quickstrat` in",
            "did you mean `quickstart`?",
        ],
    );
    corner
        .kiln(&["train", "no/such.toml", "--dry-run"])
        .expect(1, &["error: cannot read no/such.toml"]);
}

/// The processor is one device, and as many replicas as are asked for.
#[test]
fn several_devices_share_a_batch_that_divides() {
    let corner = Corner::new();
    corner.kiln(&["train", "recipe.toml", "--dry-run", "--devices", "3"]).expect(
        1,
        &["error: recipe: `train.batch` is 4, but 3 devices share its sequences evenly: set it to 3 or 6"],
    );
    corner
        .kiln(&["train", "recipe.toml", "--dry-run", "--devices", "0"])
        .expect(2, &["0 is not in 1..=1024"]);
    corner
        .train("two", &["--devices", "2", "--set", "train.steps=10"])
        .expect(0, &["validation", "report"]);
}

#[test]
fn unknown_keys_name_the_nearest_and_who_said_them() {
    let corner = Corner::new();
    for (set, expected) in [
        (
            "train.stesp=3",
            "unknown key `train.stesp` in --set train.stesp=3; did you mean `steps`?",
        ),
        (
            "model.bk.hedas=3",
            "unknown key `model.bk.hedas` in --set model.bk.hedas=3; did you mean `heads`?",
        ),
        ("model.backbone.n_layer=3", "did you mean `n_layers`?"),
        ("model.attention.roep=true", "did you mean `rope`?"),
        (
            "optimiser.learning_rate=1",
            "unknown key `optimiser` in --set optimiser.learning_rate=1; did you mean `optimizer`?",
        ),
        (
            "train.steps",
            "--set train.steps: there is no `=`; write --set table.key=value",
        ),
        (
            "train.steps.more=1",
            "`train.steps` is an integer, not a table",
        ),
    ] {
        corner.dry_run(&[set]).expect(1, &["error: ", expected]);
    }
    let recipe = fs::read_to_string(corner.path("recipe.toml")).unwrap();
    for (from, to, expected) in [
        (
            "batch = 4",
            "bacth = 4",
            "unknown key `train.bacth` in recipe.toml; did you mean `batch`?",
        ),
        (
            "heads = 8",
            "hedas = 8",
            "unknown key `model.bk.hedas` in recipe.toml; did you mean `heads`?",
        ),
        (
            "preset = \"resnet-bk-tiny\"",
            "",
            "missing key `model.preset` in recipe.toml; add it there",
        ),
        (
            "steps = 30",
            "steps = \"many\"",
            "bad value for `train.steps` in recipe.toml",
        ),
        (
            "seed = 5",
            "seed = 5\nseed = 6",
            "recipe.toml is not valid TOML",
        ),
        (
            "seed = 5",
            "extends = \"qickstart\"",
            "recipe.toml extends `qickstart`, which is not there",
        ),
    ] {
        let bad = recipe.replace(from, to);
        fs::create_dir_all(corner.path("bad")).unwrap();
        fs::write(corner.path("bad/recipe.toml"), bad).unwrap();
        let bad = corner.text("bad/recipe.toml");
        corner
            .kiln(&["train", &bad, "--dry-run"])
            .expect(1, &["error: ", expected]);
    }
}

#[test]
fn values_out_of_range_name_the_bound() {
    let corner = Corner::new();
    for (set, expected) in [
        (
            "train.batch=0",
            "recipe: `train.batch` is 0, but must be at least 1",
        ),
        (
            "train.accumulate=0",
            "recipe: `train.accumulate` is 0, but must be at least 1",
        ),
        (
            "train.eval_every=0",
            "recipe: `train.eval_every` is 0, but must be at least 1 step",
        ),
        (
            "train.steps=0",
            "recipe: `train.steps` is 0, but one of `train.steps` and `train.tokens` must say how long to train",
        ),
        (
            "train.steps=-1",
            "bad value for `train.steps` in --set train.steps=-1",
        ),
        (
            "train.max_seconds=-1",
            "recipe: `train.max_seconds` is -1, but must",
        ),
        (
            "train.order=sequential",
            "recipe: `train.order` is sequential, but training needs an order without end",
        ),
        ("train.order=random", "bad value for `train.order`"),
        (
            "optimizer.learning_rate=0",
            "recipe: `optimizer.learning_rate` is 0, but must lie in",
        ),
        (
            "optimizer.learning_rate=nan",
            "recipe: `optimizer.learning_rate` is NaN, but must lie in",
        ),
        (
            "optimizer.clip_norm=-1",
            "recipe: `optimizer.clip_norm` is -1, but must",
        ),
        (
            "optimizer.betas=[0.9,1.0]",
            "recipe: `optimizer.betas` is 1, but must lie in",
        ),
        ("optimizer.kind=sgd", "bad value for `optimizer.kind`"),
        (
            "schedule.decay_fraction=0",
            "recipe: `schedule.decay_fraction` is 0, but must lie in",
        ),
        (
            "sample.temperature=-1",
            "recipe: `sample.temperature` is -1, but must lie in [0, 100]",
        ),
        (
            "sample.top_p=0",
            "recipe: `sample.top_p` is 0, but must lie in (0, 1]",
        ),
        (
            "sample.prompt=''",
            "the prompt is empty: give at least one token",
        ),
        (
            "model.preset=resnet-tiny",
            "recipe: `model.preset` is resnet-tiny, but the presets are",
        ),
        (
            "model.pattern=[]",
            "model: `pattern (number of mixers)` is 0, but must be at least 1",
        ),
        (
            "model.backbone.d_model=0",
            "model: `d_model` is 0, but must be at least 1",
        ),
        (
            "model.backbone.dropout=1.0",
            "model: `dropout` is 1, but must lie in [0, 1)",
        ),
        (
            "model.backbone.vocab_size=99",
            "recipe: `model.backbone.vocab_size` is 99, but the tokenizer needs 28; leave the key out",
        ),
        (
            "model.bk.heads=0",
            "model: `bk.heads` is 0, but must be at least 1",
        ),
        (
            "model.bk.eta=[0.0,1.0]",
            "model: `bk.eta` is 0, but must lie in (0.001, inf)",
        ),
        (
            "model.bk.direction=bidirectional",
            "set `objective.kind = \"masked-token\"`",
        ),
        (
            "objective.mask_ratio=2.0",
            "recipe: `objective.mask_ratio` is 2, but must lie in",
        ),
        (
            "data.tokenizer=bpe:100",
            "recipe: `data.tokenizer` is bpe:100, but a byte-level vocabulary has at least the 256 bytes",
        ),
        (
            "data.tokenizer=bpe",
            "no tokenizer `bpe`; write bytes, chars, bpe:VOCAB",
        ),
        (
            "data.name=shakespear",
            "unknown corpus `shakespear`: use `rust-deps`",
        ),
        (
            "data.max_bytes=100",
            "more than max_bytes = 100: raise max_bytes or use a smaller text",
        ),
    ] {
        corner.dry_run(&[set]).expect(1, &["error: ", expected]);
    }
    let attention = ["model.preset=transformer-tiny", "model.attention.heads=5"];
    corner.dry_run(&attention).expect(
        1,
        &["model: `attention.heads` = 5 does not divide `d_model` = 16; choose a divisor of 16"],
    );
    let learned = [
        "model.preset=nanogpt-cpu",
        "model.attention.heads=4",
        "train.seq=65",
    ];
    corner.dry_run(&learned).expect(
        1,
        &["recipe: `train.seq` is 65, but the model has learned positions up to 64"],
    );
}

/// What is refused is refused before there is a run folder, so that the corrected command can use the same one.
#[test]
fn a_refused_recipe_leaves_no_folder() {
    let corner = Corner::new();
    for set in [
        "model.bk.heads=0",
        "train.batch=0",
        "model.preset=x",
        "data.name=x",
        "train.seq=5000",
    ] {
        let said = corner.train("run", &["--set", set]);
        assert_eq!(said.status, 1, "{set}: {said:?}");
        assert!(!corner.path("run").exists(), "{set} left a folder");
    }
    corner.train("run", &[]).expect(0, &[]);
}

#[test]
fn text_that_cannot_be_used_is_named() {
    let corner = Corner::new();
    let name = format!("data.name=text:{}", corner.text("nowhere.txt"));
    corner
        .train("run", &["--set", &name])
        .expect(1, &["error: cannot read ", "nowhere.txt"]);
    Corner::with_text(b"").train("run", &[]).expect(
        1,
        &["text.txt` has no text: give it more or longer documents"],
    );
    Corner::with_text(b"short")
        .train("run", &[])
        .expect(1, &["use more text or a shorter seq"]);
    let mut text = b"good so far ".repeat(100);
    text[777] = 0xff;
    Corner::with_text(&text).train("run", &[]).expect(
        1,
        &["text.txt is not text: the byte at offset 777 is NUL or not UTF-8; remove the file or convert it"],
    );
    let folder = corner.path("folder");
    fs::create_dir_all(&folder).unwrap();
    let name = format!("data.name=text:{}", folder.display());
    corner
        .train("run", &["--set", &name])
        .expect(1, &["has no text"]);
    assert!(!corner.path("run").exists());
}

#[test]
fn backends_and_devices_that_are_not_there() {
    let corner = Corner::new();
    corner.train("run", &["--backend", "cdua"]).expect(
        2,
        &["error: unknown backend `cdua`; the backends are flex, wgpu, vulkan, webgpu, metal, cuda and rocm"],
    );
    if cfg!(not(feature = "rocm")) {
        corner.train("run", &["--backend", "rocm"]).expect(
            1,
            &[
                "error: backend `rocm` is not compiled into this binary, which has: ",
                "or build with `--features rocm`",
            ],
        );
    }
    corner.train("run", &["--device", "7"]).expect(
        1,
        &[
            "error: backend `flex` has no device 7 on this machine",
            "`cargo xtask doctor` says what is missing",
        ],
    );
    corner
        .train("run", &["--device", "-1"])
        .expect(2, &["invalid value '-1' for '--device <N>'"]);
    assert!(!corner.path("run").exists());
}

#[test]
fn wrong_usage_has_status_two() {
    let corner = Corner::trained();
    for args in [
        &["trian"][..],
        &[],
        &["train"],
        &["train", "quickstart", "--resume"],
        &["train", "quickstart", "--out", "x", "--resume", "--dry-run"],
        &["eval", "run", "--batch", "0"],
        &["eval", "run", "--split", "dev"],
        &["generate", "run"],
        &["data", "prepare", "text:x", "--tokenizer", "words"],
    ] {
        let said = corner.kiln(args);
        assert_eq!(said.status, 2, "{args:?}: {said:?}");
        assert!(!said.err.is_empty(), "{args:?}");
    }
    let said = corner.kiln(&["eval", "run", "--split", "dev"]);
    said.expect(
        2,
        &["no split `dev`; the splits are train, validation and test"],
    );
    let said = corner.kiln(&["data", "prepare", "text:x", "--tokenizer", "words"]);
    said.expect(2, &["no tokenizer `words`; write bytes, chars, bpe:VOCAB"]);
}
