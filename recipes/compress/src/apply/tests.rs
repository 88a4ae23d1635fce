use super::*;
use crate::toy;

/// A model of an embedding, two layers and a vector.
fn model() -> StoredModel {
    let tensors = [
        ("tokens", float(toy::weights(16, 64, 1))),
        ("blocks.0.mlp.up.weight", float(toy::weights(64, 96, 2))),
        ("blocks.0.mlp.down.weight", float(toy::weights(96, 64, 3))),
        ("blocks.0.mixer.conv.weight", float(toy::weights(64, 4, 4))),
        (
            "norm.gamma",
            Stored::Float {
                kind: FloatType::F32,
                shape: vec![64],
                values: vec![0.3; 64],
            },
        ),
    ];
    StoredModel {
        tensors: tensors
            .map(|(name, stored)| (name.to_string(), stored))
            .into(),
    }
}

fn grams() -> Calibrated {
    [
        ("tokens", toy::correlated(64, 300, &[], 5)),
        ("blocks.0.mlp.up", toy::correlated(64, 300, &[7], 6)),
        ("blocks.0.mlp.down", toy::correlated(96, 300, &[], 7)),
    ]
    .map(|(name, gram)| (name.to_string(), gram))
    .into()
}

fn stage(text: &str) -> Stage {
    toml::from_str(text).unwrap()
}

fn run(stages: &[&str]) -> Result<(StoredModel, Vec<LayerFigures>), CompressError> {
    let grams = grams();
    let mut last = (model(), Vec::new());
    for (index, text) in stages.iter().enumerate() {
        let job = Job {
            number: index + 1,
            stage: &stage(text),
            grams: &grams,
        };
        last = job.apply(&last.0)?;
    }
    Ok(last)
}

const RTN: &str = "kind = \"quantize\"\nmethod = \"rtn\"\nbits = 4\ngroup = 32";
const GPTQ: &str = "kind = \"quantize\"\nmethod = \"gptq\"\nbits = 4\ngroup = 32";
const AWQ: &str = "kind = \"quantize\"\nmethod = \"awq\"\nbits = 4\ngroup = 32\nsymmetric = true";
const PRUNE: &str = "kind = \"prune\"\nmethod = \"sparsegpt\"\npattern = \"2:4\"";
const HALVE: &str = "kind = \"prune\"\nmethod = \"wanda\"\nsparsity = 0.5";
const THIN: &str = "kind = \"low-rank\"\nmethod = \"whitened\"\nkeep = 0.5";
const HALF: &str = "kind = \"half\"";

fn figure<'a>(figures: &'a [LayerFigures], layer: &str) -> &'a LayerFigures {
    figures
        .iter()
        .find(|figures| figures.layer == layer)
        .unwrap()
}

#[test]
fn every_matrix_is_quantized_and_nothing_else() {
    for text in [RTN, GPTQ, AWQ] {
        let (after, figures) = run(&[text]).unwrap();
        let names: Vec<_> = figures
            .iter()
            .map(|figures| figures.layer.as_str())
            .collect();
        assert_eq!(names, ["blocks.0.mlp.down", "blocks.0.mlp.up", "tokens"]);
        for name in ["norm.gamma", "blocks.0.mixer.conv.weight"] {
            assert_eq!(after.tensors[name], model().tensors[name]);
        }
        assert!(matches!(after.tensors["tokens"], Stored::PackedRows(_)));
        assert_eq!(after.tensors["tokens"].shape(), [16, 64]);
        for figures in &figures {
            // Four bits, and 16 bits of scale and 8 of zero point for 32 of them, filled up to whole lines; panels of 16 outputs are
            // full.
            let share = figures.bytes_after as f64 / figures.bytes_before as f64;
            assert!(share < 0.2, "{figures:?}");
            // A step of 2/15 of uniform weights is 0.0044 of their energy; compensation pays with weights for outputs.
            assert!(
                figures.weight_error < 0.05 && figures.output_error.unwrap() < 0.02,
                "{figures:?}"
            );
        }
    }
}

#[test]
fn gptq_beats_rounding_layer_by_layer() {
    let (plain, compensated) = (run(&[RTN]).unwrap().1, run(&[GPTQ]).unwrap().1);
    for (plain, compensated) in plain.iter().zip(&compensated) {
        assert!(compensated.output_error.unwrap() < 0.7 * plain.output_error.unwrap());
    }
}

#[test]
fn quantizing_after_pruning_keeps_the_zeros() {
    for prune in [PRUNE, HALVE] {
        for quantize in [RTN, GPTQ, AWQ] {
            let (before, _) = run(&[prune]).unwrap();
            let (after, figures) = run(&[prune, quantize]).unwrap();
            let name = "blocks.0.mlp.up.weight";
            assert!(matches!(before.tensors[name], Stored::Sparse(_)));
            let pairs = before.tensors[name]
                .values()
                .into_iter()
                .zip(after.tensors[name].values());
            for (before, after) in pairs {
                assert!(before != 0.0 || after == 0.0);
            }
            assert!(figure(&figures, "blocks.0.mlp.up").zeros >= 0.5);
        }
    }
}

#[test]
fn factors_can_be_quantized_and_pruned() {
    let (thin, figures) = run(&[THIN]).unwrap();
    let rank = figure(&figures, "blocks.0.mlp.up").rank.unwrap();
    assert!((1..38).contains(&rank), "{rank}");
    let sum = |of: fn(&LayerFigures) -> u64| figures.iter().map(of).sum::<u64>();
    let [before, after] = [sum(|all| all.bytes_before), sum(|all| all.bytes_after)];
    assert!(2 * after <= before, "{after} of {before}");
    for next in [RTN, GPTQ] {
        let (after, _) = run(&[THIN, next]).unwrap();
        let Stored::LowRank { first, second } = &after.tensors["blocks.0.mlp.up.weight"] else {
            unreachable!()
        };
        assert!(matches!(**first, Stored::Packed(_)) && matches!(**second, Stored::Packed(_)));
        assert!(after.bytes() < thin.bytes() / 2);
    }
    assert!(run(&[THIN, HALVE]).is_ok());
}

/// An embedding is taken as the transposed head, and its vectors of tokens come first; the second factor stays dense.
#[test]
fn embeddings_become_short_vectors() {
    for method in ["svd", "whitened"] {
        let thin = format!(
            "kind = \"low-rank\"\nmethod = \"{method}\"\nkeep = 0.5\nlayers = [\"tokens\"]"
        );
        let (after, figures) = run(&[&thin]).unwrap();
        let Stored::LowRank { first, second } = &after.tensors["tokens"] else {
            unreachable!()
        };
        let rank = figure(&figures, "tokens").rank.unwrap();
        let [vocab, d_model] = figure(&figures, "tokens").shape;
        assert_eq!(first.shape(), [vocab, rank]);
        assert_eq!(second.shape(), [rank, d_model]);
        let (after, _) = run(&[&thin, RTN]).unwrap();
        let Stored::LowRank { first, second } = &after.tensors["tokens"] else {
            unreachable!()
        };
        assert!(matches!(**first, Stored::PackedRows(_)));
        assert!(matches!(**second, Stored::Float { .. }));
    }
}

#[test]
fn what_is_left_is_halved() {
    let (after, _) = run(&[GPTQ, HALF]).unwrap();
    let (before, _) = run(&[GPTQ]).unwrap();
    assert_eq!(after.tensors["tokens"], before.tensors["tokens"]);
    let Stored::Float { kind, values, .. } = &after.tensors["norm.gamma"] else {
        unreachable!()
    };
    assert_eq!((*kind, values[0]), (FloatType::F16, 0.300_048_83));
    let (pruned, _) = run(&[PRUNE, HALF]).unwrap();
    let (whole, _) = run(&[PRUNE]).unwrap();
    assert!(pruned.bytes() < whole.bytes() * 6 / 10);
}

#[test]
fn orders_that_would_undo_a_stage_are_refused() {
    for (stages, message) in [
        (
            [RTN, PRUNE],
            "stage 2: `blocks.0.mlp.down` is quantized already, and pruning it now would take its codes apart",
        ),
        (
            [GPTQ, RTN],
            "quantizing it now would round rounded weights once more",
        ),
        (
            [AWQ, THIN],
            "factorising it now would leave its codes behind",
        ),
        (
            [PRUNE, THIN],
            "is pruned already, and factorising it now would fill its zeros again",
        ),
        ([THIN, THIN], "is factorised already"),
    ] {
        let words = run(&stages).unwrap_err().to_string();
        assert!(words.contains(message), "{words}");
    }
}

#[test]
fn layers_that_are_left_out_are_not_touched() {
    let text = format!("{RTN}\nexcept = [\"tokens\", \"*.down\"]\nbits_of = {{ \"*.up\" = 8 }}");
    let (after, figures) = run(&[&text]).unwrap();
    assert_eq!(figures.len(), 1);
    assert_eq!(after.tensors["tokens"], model().tensors["tokens"]);
    // 64 x 96 bytes and their scales.
    assert!(figures[0].bytes_after > 64 * 96, "{figures:?}");
    let words = run(&[&format!("{RTN}\nlayers = [\"attention\"]")])
        .unwrap_err()
        .to_string();
    assert_eq!(
        words,
        "stage 1: no layer fits its `layers` and `except`; the layers are blocks.0.mlp.down, blocks.0.mlp.up, tokens"
    );
}

#[test]
fn a_group_may_give_way_to_the_layers_width() {
    let text = "kind = \"quantize\"\nmethod = \"rtn\"\nbits = 4\ngroup = 64\nnearest_group = true";
    let (after, _) = run(&[text]).unwrap();
    let group = |name: &str| match &after.tensors[name] {
        Stored::Packed(matrix) => matrix.format().group,
        other => panic!("{other:?}"),
    };
    assert_eq!(group("blocks.0.mlp.up.weight"), 64);
    // 96 is no multiple of 64, but of 32.
    assert_eq!(group("blocks.0.mlp.down.weight"), 32);
    let Work::Quantize(quantize) = stage(text).work else {
        unreachable!()
    };
    assert_eq!(quantize.group_that_fits(132), 0);
}

#[test]
fn a_layer_that_cannot_be_compressed_is_named() {
    let words = run(&["kind = \"quantize\"\nmethod = \"rtn\"\nbits = 4\ngroup = 64"])
        .unwrap_err()
        .to_string();
    assert!(
        words.starts_with(
            "stage 1, layer `blocks.0.mlp.down`: number of a layer's inputs is 96, but `group` = 64"
        ),
        "{words}"
    );
    let mut spoiled = model();
    let name = "blocks.0.mlp.up.weight";
    if let Some(Stored::Float { values, .. }) = spoiled.tensors.get_mut(name) {
        values[97] = f32::NAN;
    }
    let job = Job {
        number: 1,
        stage: &stage(RTN),
        grams: &Calibrated::new(),
    };
    let words = job.apply(&spoiled).unwrap_err().to_string();
    assert!(
        words.contains("layer `blocks.0.mlp.up`: weight [1, 1] is NaN"),
        "{words}"
    );
    let job = Job {
        stage: &stage(GPTQ),
        ..job
    };
    let words = job.apply(&model()).unwrap_err().to_string();
    assert!(
        words.contains("the calibration has no tokens for this layer"),
        "{words}"
    );
}
