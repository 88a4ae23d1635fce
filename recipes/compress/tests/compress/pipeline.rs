//! What comes out of a compression, and how one goes on.

use std::fs;
use std::path::Path;

use kiln_compress::{CompressError, Compression, estimate};
use kiln_run::Interrupt;
use kiln_train::{SampleConfig, Stored, generate};

use crate::common::{Corner, device};

pub const INT8: &str = "kind = \"quantize\"\nmethod = \"rtn\"\nbits = 8\ngroup = 0";
const INT3: &str = "kind = \"quantize\"\nmethod = \"rtn\"\nbits = 3\ngroup = 32";
const GPTQ3: &str = "kind = \"quantize\"\nmethod = \"gptq\"\nbits = 3\ngroup = 32";
pub const GPTQ4: &str = "kind = \"quantize\"\nmethod = \"gptq\"\nbits = 4\ngroup = 32";
const AWQ4: &str = "kind = \"quantize\"\nmethod = \"awq\"\nbits = 4\ngroup = 32";
const PRUNE: &str = "kind = \"prune\"\nmethod = \"sparsegpt\"\npattern = \"2:4\"";
const MAGNITUDE: &str = "kind = \"prune\"\nmethod = \"magnitude\"\npattern = \"2:4\"";
const THIN: &str = "kind = \"low-rank\"\nmethod = \"whitened\"\nkeep = 0.6";
pub const HALF: &str = "kind = \"half\"";

/// Every number of a run's model, by tensor.
fn values(stored: &kiln_train::StoredModel) -> Vec<(String, Vec<f32>)> {
    let tensors = stored.tensors.iter();
    tensors
        .map(|(name, stored)| (name.clone(), stored.values()))
        .collect()
}

#[test]
fn eight_bits_are_a_quarter_of_the_file_and_lose_next_to_nothing() {
    for kind in ["transformer", "bk"] {
        let corner = Corner::new(kind);
        let compression = corner.compress("small", &[INT8]).unwrap().compression;
        let (before, after) = (&compression.original, compression.last());
        assert!(
            after.quality.change.abs() < 0.005,
            "{kind}: {:?}",
            after.quality
        );
        assert!(
            after.quality.agreement > 0.98,
            "{kind}: {:?}",
            after.quality
        );
        assert!(
            after.quality.divergence < 1e-3,
            "{kind}: {:?}",
            after.quality
        );
        // Panels of 16 outputs and a config of many names weigh in so small a model.
        assert!(
            after.memory_ratio(before) < 0.35,
            "{kind}: {}",
            after.memory_ratio(before)
        );
        assert_eq!(
            (before.quality.change, before.quality.agreement),
            (0.0, 1.0)
        );
        // The smaller run is a run: it opens, scores as was measured, and writes text.
        let run = corner.open("small");
        assert_eq!(run.model.weight_bytes(), after.memory_bytes);
        let sample = SampleConfig {
            prompt: "the".into(),
            tokens: 12,
            temperature: 0.0,
            ..SampleConfig::default()
        };
        let [small, whole] = ["small", "run"].map(|name| {
            let run = corner.open(name);
            let tokenizer = run.tokenizer().unwrap();
            generate(
                &run.model,
                tokenizer,
                &sample,
                &device().device,
                &mut |_| {},
            )
            .unwrap()
        });
        assert_eq!(small, whole, "{kind}");
    }
}

/// In the blocks, and in the embedding, which both enters and leaves.
#[test]
fn gptq_loses_less_than_rounding() {
    for kind in ["transformer", "bk"] {
        let corner = Corner::new(kind);
        for layers in ["blocks.*", "tokens"] {
            let change = |method: &str, stage: &str| {
                let stage = format!("{stage}\nlayers = [{layers:?}]");
                let out = format!("{method}-{}", &layers[..6]);
                let compression = corner.compress(&out, &[&stage]).unwrap().compression;
                compression.last().quality.divergence
            };
            let (plain, compensated) = (change("plain", INT3), change("gptq", GPTQ3));
            assert!(
                compensated < 0.8 * plain,
                "{kind}, {layers}: {compensated} against {plain}"
            );
        }
    }
}

#[test]
fn sparsegpt_loses_less_than_magnitude() {
    let corner = Corner::new("transformer");
    let divergence = |out: &str, stage: &str| {
        let compression = corner.compress(out, &[stage]).unwrap().compression;
        compression.last().quality.divergence
    };
    let (plain, compensated) = (divergence("plain", MAGNITUDE), divergence("sparse", PRUNE));
    assert!(compensated < 0.8 * plain, "{compensated} against {plain}");
}

#[test]
fn what_a_stage_did_is_in_the_final_file() {
    let corner = Corner::new("bk");
    corner.compress("small", &[PRUNE, GPTQ4, HALF]).unwrap();
    let pruned = corner.open("small/stages/1-prune").stored().unwrap();
    let last = corner.open("small").stored().unwrap();
    let mut matrices = 0;
    for ((name, before), (_, after)) in values(&pruned).iter().zip(&values(&last)) {
        if let Stored::Sparse(_) = &pruned.tensors[name] {
            matrices += 1;
            assert!(matches!(last.tensors[name], Stored::Packed(_)), "{name}");
            for (before, after) in before.iter().zip(after) {
                assert!(*before != 0.0 || *after == 0.0, "{name}");
            }
        }
    }
    // Potential, gate, output, and three of the MLP, in two layers.
    assert_eq!(matrices, 12);
    let report = fs::read_to_string(corner.path("small/report.html")).unwrap();
    for part in [
        "sparsegpt, 2:4",
        "gptq, 4 bits, groups of 32",
        "blocks.0.mixer.potential",
    ] {
        assert!(report.contains(part), "{part}");
    }
    let text = fs::read_to_string(corner.path("small/compress.json")).unwrap();
    let compression: Compression = serde_json::from_str(&text).unwrap();
    assert_eq!(compression.stages.len(), 3);
    let size = |name: &str| fs::metadata(corner.path("small").join(name)).unwrap().len();
    let files = size("model.safetensors") + size("config.json");
    assert_eq!(compression.last().file_bytes, files);
}

/// Units that went stay away, zeros stay zeros through training and rounding, and what was rounded is in the file.
#[test]
fn no_stage_of_a_longer_chain_undoes_one_before() {
    const UNITS: &str =
        "kind = \"structured\"\npart = \"mlp\"\nmethod = \"magnitude\"\nshare = 0.3\nmultiple = 32";
    const RECOVER: &str = "kind = \"recover\"\nsteps = 3\nlearning_rate = 1e-3";
    const QAT: &str = "kind = \"qat\"\nmethod = \"integer\"\nbits = 4\ngroup = 32\nsteps = 3\nlearning_rate = 1e-3";
    for kind in ["transformer", "bk"] {
        let corner = Corner::new(kind);
        corner
            .compress("small", &[UNITS, PRUNE, RECOVER, QAT, HALF])
            .unwrap();
        let pruned = corner.open("small/stages/2-prune").stored().unwrap();
        let recovered = corner.open("small/stages/3-recover").stored().unwrap();
        let last = corner.open("small").stored().unwrap();
        assert_eq!(last.tensors["blocks.0.mlp.up.weight"].shape(), [64, 64]);
        let mut zeros = 0;
        for (name, before) in &pruned.tensors {
            let Stored::Sparse(_) = before else { continue };
            assert!(matches!(last.tensors[name], Stored::Packed(_)), "{name}");
            let values = [&recovered, &last].map(|model| model.tensors[name].values());
            for (at, _) in before
                .values()
                .iter()
                .enumerate()
                .filter(|(_, w)| **w == 0.0)
            {
                zeros += 1;
                assert_eq!([values[0][at], values[1][at]], [0.0; 2], "{name}");
            }
            assert_ne!(before.values(), values[0], "{name} was not trained");
        }
        assert!(zeros > 10_000, "{zeros}");
    }
}

/// What a stage is decoded at, cold and warm, is in the figures and on the page.
#[test]
fn decoding_is_timed_from_the_folder_on() {
    let corner = Corner::new("bk");
    let set = ["measure.decode_seconds=0.05"];
    let outcome = corner.start("small", false, &[INT8], &set, Interrupt::none());
    let compression = outcome.unwrap().compression;
    for stage in [&compression.original, compression.last()] {
        let (cold, warm) = (stage.cold.unwrap(), stage.decode.unwrap());
        assert!(cold.first_token_seconds > 0.0, "{cold:?}");
        // Opening a run takes far longer than a token of so small a model.
        assert!(
            cold.tokens_per_second < warm.tokens_per_second,
            "{cold:?} {warm:?}"
        );
        let all = 32.0 / cold.tokens_per_second;
        assert!(all > cold.first_token_seconds, "{cold:?}");
    }
    let table = kiln_compress::page::decoding(&compression).unwrap();
    assert_eq!(table.rows.len(), 2);
    assert!(
        table
            .rows
            .iter()
            .all(|row| row.len() == table.columns.len())
    );
    let report = fs::read_to_string(corner.path("small/report.html")).unwrap();
    assert!(report.contains("cold tok/s"));
}

#[test]
fn factors_are_computed_from_and_can_be_packed() {
    let corner = Corner::new("transformer");
    let compression = corner
        .compress("small", &[THIN, GPTQ4])
        .unwrap()
        .compression;
    let [thin, packed] = [&compression.stages[0], &compression.stages[1]];
    assert!(thin.memory_ratio(&compression.original) < 0.8);
    assert!(packed.memory_ratio(&compression.original) < 0.3);
    let stored = corner.open("small").stored().unwrap();
    let factorised = |stored: &&Stored| matches!(stored, Stored::LowRank { .. });
    assert!(stored.tensors.values().filter(factorised).count() > 2);
}

/// Every layer by itself loses something, and less than all of them together.
#[test]
fn layers_are_measured_alone() {
    let corner = Corner::new("bk");
    let sets = ["measure.sensitivity_windows=20"];
    let compression = corner
        .start("small", false, &[INT3], &sets, Interrupt::none())
        .unwrap()
        .compression;
    let stage = compression.last();
    for figures in &stage.layers {
        let alone = figures.sensitivity.unwrap();
        assert!(
            alone > 0.0 && alone < 1.5 * stage.quality.divergence,
            "{figures:?}"
        );
    }
    let report = fs::read_to_string(corner.path("small/report.html")).unwrap();
    assert!(report.contains("KL alone, nats"));
}

/// A packed model scores as the dense one of the numbers that its codes stand for.
#[test]
fn packed_and_dense_agree() {
    for (kind, stage) in [("transformer", GPTQ4), ("bk", GPTQ4), ("bk", AWQ4)] {
        let corner = Corner::new(kind);
        let compression = corner.compress("small", &[stage]).unwrap().compression;
        assert!(compression.last().memory_ratio(&compression.original) < 0.25);
        let run = corner.open("small");
        let mut plain = run.stored().unwrap();
        for stored in plain.tensors.values_mut() {
            *stored = Stored::Float {
                kind: kiln_quant::FloatType::F32,
                shape: stored.shape(),
                values: stored.values(),
            };
        }
        let path = corner.path("small/model.safetensors");
        let device = device().device;
        let dense = kiln_train::load_stored(&run.config.model, &plain, &path, &device).unwrap();
        let ids: Vec<i32> = (0..40).map(|at| at * 7 % 20).collect();
        let tokens = burn::tensor::TensorData::new(ids, [2, 20]);
        let logits = |model: &kiln_zoo::LanguageModel| {
            let tokens = burn::tensor::Tensor::from_data(tokens.clone(), &device);
            let data = model.forward(tokens).unwrap().into_data();
            data.iter::<f32>().collect::<Vec<_>>()
        };
        for (packed, dense) in logits(&run.model).iter().zip(logits(&dense)) {
            // Sums of the same products in another order.
            assert!(
                (packed - dense).abs() < 1e-4 * dense.abs().max(1.0),
                "{packed} {dense}"
            );
        }
    }
}

#[test]
fn an_interrupted_compression_goes_on_with_the_first_stage_that_is_not_done() {
    let corner = Corner::new("transformer");
    let stages = [PRUNE, GPTQ4];
    let interrupt = Interrupt::none();
    interrupt.request();
    let stopped = corner
        .start("small", false, &stages, &[], interrupt)
        .unwrap();
    assert!(stopped.interrupted && stopped.compression.stages.is_empty());
    // As a process that was killed in the middle of stage 2 leaves it.
    corner
        .start("small", true, &stages, &[], Interrupt::none())
        .unwrap();
    let whole = fs::read(corner.path("small/model.safetensors")).unwrap();
    let first = fs::metadata(corner.path("small/stages/1-prune/stage.json")).unwrap();
    for gone in [
        "stages/2-quantize/stage.json",
        "config.json",
        "model.safetensors",
    ] {
        fs::remove_file(corner.path("small").join(gone)).unwrap();
    }
    fs::write(
        corner.path("small/stages/2-quantize/model.safetensors"),
        "half",
    )
    .unwrap();
    let outcome = corner
        .start("small", true, &stages, &[], Interrupt::none())
        .unwrap();
    assert!(!outcome.interrupted);
    let again = fs::metadata(corner.path("small/stages/1-prune/stage.json")).unwrap();
    assert_eq!(first.modified().unwrap(), again.modified().unwrap());
    assert_eq!(
        fs::read(corner.path("small/model.safetensors")).unwrap(),
        whole
    );
    // Once more there is nothing to do, and with another recipe it is refused.
    corner
        .start("small", true, &stages, &[], Interrupt::none())
        .unwrap();
    let words = match corner.start(
        "small",
        true,
        &stages,
        &["calibration.windows=9"],
        Interrupt::none(),
    ) {
        Err(error @ CompressError::RecipeChanged { .. }) => error.to_string(),
        _ => panic!("resumed with another recipe"),
    };
    assert!(words.contains("`calibration` differs"), "{words}");
}

/// A dry run knows sizes to the byte, but for ranks.
#[test]
fn sizes_are_estimated_without_calibration() {
    let corner = Corner::new("bk");
    let stages = [PRUNE, GPTQ4, HALF];
    let estimates = estimate(&corner.recipe(&stages, &[]).value, &corner.open("run")).unwrap();
    corner.compress("small", &stages).unwrap();
    let names = [
        "run",
        "small/stages/1-prune",
        "small/stages/2-quantize",
        "small",
    ];
    assert_eq!(estimates.len(), names.len());
    for (estimate, name) in estimates.iter().zip(names) {
        assert_eq!(
            estimate.bytes,
            corner.open(name).stored().unwrap().bytes(),
            "{name}"
        );
    }
    assert!(!Path::new(&corner.path("run/stages")).exists());
}

/// Bits within a budget: the model takes no more, loses less than with the same number everywhere, and what every choice costs is told.
#[test]
fn bits_go_where_they_are_needed() {
    let corner = Corner::new("transformer");
    let run = |out: &str, keys: &str| {
        let stage = format!("kind = \"quantize\"\nmethod = \"rtn\"\ngroup = 32\n{keys}");
        corner.compress(out, &[&stage]).unwrap().compression
    };
    let same = run("same", "bits = 3");
    let bytes = |compression: &Compression| {
        let layers = compression.last().layers.iter();
        layers.map(|layer| layer.bytes_after).sum::<u64>()
    };
    let whole: usize = same
        .last()
        .layers
        .iter()
        .map(|layer| 4 * layer.shape[0] * layer.shape[1])
        .sum();
    let budget = bytes(&same) as f64 / whole as f64 + 1e-6;
    let auto = run("auto", &format!("bits = \"auto\"\nbudget = {budget}"));
    assert!(bytes(&auto) <= bytes(&same));
    let [found, plain] = [&auto, &same].map(|compression| compression.last().quality.divergence);
    assert!(found < plain, "{found} against {plain}");
    let choices = &auto.last().bits;
    assert_eq!(choices.len(), 4 * auto.last().layers.len());
    let chosen: Vec<u8> = choices
        .iter()
        .filter(|choice| choice.chosen)
        .map(|choice| choice.bits)
        .collect();
    assert_eq!(chosen.len(), auto.last().layers.len());
    assert!(chosen.iter().any(|bits| *bits != chosen[0]), "{chosen:?}");
    let report = fs::read_to_string(corner.path("auto/report.html")).unwrap();
    assert!(report.contains("KL at 3 bits, nats"));
    let stage =
        "kind = \"quantize\"\nmethod = \"gptq\"\ngroup = 32\nbits = \"auto\"\nbudget = 0.01";
    let error = corner.compress("none", &[stage]).err().unwrap().to_string();
    assert!(error.contains("the fewest bits already take"), "{error}");
}
