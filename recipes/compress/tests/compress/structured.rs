//! Units taken out of a model, and what is left of it.

use std::fs;

use kiln_compress::estimate;
use kiln_run::{Interrupt, Mode, recipe};
use kiln_train::{SampleConfig, generate};

use crate::common::{Corner, device};

const RANDOM: &str = "kind = \"structured\"\npart = \"mlp\"\nmethod = \"random\"\nshare = 0.5";
const TAYLOR: &str = "kind = \"structured\"\npart = \"mlp\"\nmethod = \"taylor\"\nshare = 0.5";
const CHANNELS: &str =
    "kind = \"structured\"\npart = \"mlp\"\nmethod = \"taylor\"\nshare = 0.3\nmultiple = 32";
const HEADS: &str = "kind = \"structured\"\npart = \"heads\"\nmethod = \"taylor\"\nshare = 0.3";
const LAYERS: &str = "kind = \"structured\"\npart = \"layers\"\nmethod = \"loss\"\nshare = 0.5";
const INT8: &str = "kind = \"quantize\"\nmethod = \"rtn\"\nbits = 8\ngroup = 0";

#[test]
fn what_is_scored_loses_less_than_chance() {
    for kind in ["transformer", "bk"] {
        let corner = Corner::new(kind);
        for part in ["mlp", "heads"] {
            let divergence = |name: &str, stage: &str, seed: &str| {
                let stage = stage.replace("mlp", part);
                let sets = [seed, "calibration.windows=64"];
                let outcome = corner.start(name, false, &[&stage], &sets, Interrupt::none());
                outcome.unwrap().compression.last().quality.divergence
            };
            let chance: f64 = (1..4)
                .map(|seed| {
                    let set = format!("calibration.seed={seed}");
                    divergence(&format!("{part}-{seed}"), RANDOM, &set)
                })
                .sum();
            for method in ["taylor", "loss"] {
                let stage = TAYLOR.replace("taylor", method);
                let found = divergence(&format!("{part}-{method}"), &stage, "calibration.seed=1");
                assert!(
                    found < 0.7 * chance / 3.0,
                    "{kind}, {part} by {method}: {found} against {}",
                    chance / 3.0
                );
            }
        }
    }
}

/// What a model drops while it trains has no part in what its units are worth: scored twice they are the same.
#[test]
fn a_model_that_drops_is_scored_as_it_validates() {
    let corner = Corner::new("transformer");
    let config = corner.path("run/config.json");
    let text = fs::read_to_string(&config).unwrap();
    let dropping = text.replace("\"dropout\": 0.0", "\"dropout\": 0.3");
    assert_ne!(text, dropping);
    fs::write(&config, dropping).unwrap();
    let tensors = |name: &str| {
        corner.compress(name, &[TAYLOR]).unwrap();
        fs::read(corner.path(name).join("model.safetensors")).unwrap()
    };
    assert_eq!(tensors("once"), tensors("again"));
}

#[test]
fn layers_go_by_what_is_lost_without_them() {
    let corner = Corner::new("transformer");
    let loss = |name: &str, stage: &str| {
        let compression = corner.compress(name, &[stage]).unwrap().compression;
        compression.last().quality.loss
    };
    let found = loss("loss", LAYERS);
    loss("cosine", &LAYERS.replace("loss", "cosine"));
    // Two layers: whichever of them random scores take, it is none better. Calibration and validation are other text.
    for seed in 1..4 {
        let sets = format!("calibration.seed={seed}");
        let stage = LAYERS.replace("loss", "random");
        let outcome = corner.start(&sets, false, &[&stage], &[&sets], Interrupt::none());
        let random = outcome.unwrap().compression.last().quality.loss;
        assert!(found < 1.02 * random, "{found} against {random}");
    }
    assert_eq!(corner.open("loss").config.model.backbone.n_layers, 1);
}

/// The smaller run is a run: with its own shape it opens, writes text, is quantized, and is trained further.
#[test]
fn what_is_left_is_a_run() {
    for kind in ["transformer", "bk"] {
        let corner = Corner::new(kind);
        let stages = [CHANNELS, HEADS, INT8];
        let estimates = estimate(&corner.recipe(&stages, &[]).value, &corner.open("run")).unwrap();
        let compression = corner.compress("small", &stages).unwrap().compression;
        let run = corner.open("small");
        let model = &run.config.model;
        assert_eq!(model.backbone.d_hidden, 64, "{kind}");
        assert_eq!(estimates[3].bytes, run.stored().unwrap().bytes(), "{kind}");
        match kind {
            "bk" => assert_eq!(model.bk.heads, 22),
            _ => assert_eq!(
                (
                    model.attention.heads,
                    model.attention.d_head,
                    model.backbone.d_model
                ),
                (3, 16, 64)
            ),
        }
        let dense = &compression.stages[1];
        assert!(dense.memory_ratio(&compression.original) < 0.85, "{kind}");
        let taken = &compression.stages[0].layers;
        assert!(
            taken.iter().all(|layer| layer.layer.contains("mlp")),
            "{taken:?}"
        );
        let sample = SampleConfig {
            prompt: "the".into(),
            tokens: 12,
            temperature: 0.0,
            ..SampleConfig::default()
        };
        let (tokenizer, place) = (run.tokenizer().unwrap(), device().device);
        generate(&run.model, tokenizer, &sample, &place, &mut |_| {}).unwrap();
        let from = corner.path("small/stages/2-structured");
        let sets = [
            format!("init.from={}", from.display()),
            "train.steps=2".into(),
            "train.eval_every=1".into(),
            "train.keep_at=[]".into(),
        ];
        let file = from.join("recipe.toml");
        let further = kiln_train::train(kiln_train::Request {
            recipe: recipe::load(&from, &file.to_string_lossy(), &sets).unwrap(),
            out: corner.path("further"),
            resume: false,
            device: device(),
            beside: Vec::new(),
            teacher: None,
            data: &corner.data(),
            source: &from,
            versions: Default::default(),
            view: Mode::Plain,
            interrupt: Interrupt::none(),
            energy: None,
        });
        let result = further.unwrap().result.unwrap();
        let before = dense.quality.loss;
        let after = result.validation.score.loss();
        assert!(after < before + 0.2, "{kind}: {after} after {before}");
        let written = fs::read_to_string(corner.path("small/recipe.toml")).unwrap();
        assert!(written.contains("d_hidden = 64"), "{written}");
    }
}

#[test]
fn units_that_cannot_be_taken_out_are_told() {
    let corner = Corner::new("transformer");
    for (stages, message) in [
        (
            [INT8, CHANNELS],
            "stage 2: `blocks.0.mlp.gate` is quantized already, and taking units out of it now would leave no whole groups",
        ),
        (
            [&HEADS.replace("0.3", "0.05"), INT8],
            "stage 1, part `heads`: `share` = 0.05 of 4 in multiples of 1 takes nothing away",
        ),
    ] {
        let error = corner.compress("refused", &stages).err().unwrap();
        assert!(error.to_string().contains(message), "{error}");
        fs::remove_dir_all(corner.path("refused")).unwrap();
    }
}
