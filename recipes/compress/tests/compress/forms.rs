//! Forms that weights are stored in and computed from.

use std::fs;

use kiln_compress::estimate;
use kiln_train::Stored;

use crate::common::Corner;
use crate::pipeline::{GPTQ4, HALF, INT8};

/// Vectors of tokens through a few numbers each, for the tied head too: computed from, packed and trained in that form.
#[test]
fn embeddings_are_factorised_too() {
    let thin = "kind = \"low-rank\"\nmethod = \"whitened\"\nkeep = 0.6\nlayers = [\"tokens\"]";
    let recover = "kind = \"recover\"\nsteps = 40\nlearning_rate = 3e-3";
    let qat = "kind = \"qat\"\nmethod = \"integer\"\nbits = 4\ngroup = 32\nsteps = 40\nlearning_rate = 3e-3";
    for kind in ["transformer", "bk"] {
        let corner = Corner::new(kind);
        let stages = [thin, recover, GPTQ4, HALF];
        let sizes = estimate(&corner.recipe(&stages, &[]).value, &corner.open("run")).unwrap();
        let compression = corner.compress("small", &stages).unwrap().compression;
        for (number, name) in [(1, "1-low-rank"), (2, "2-recover"), (3, "3-quantize")] {
            let stored = corner
                .open(&format!("small/stages/{name}"))
                .stored()
                .unwrap();
            assert_eq!(sizes[number].bytes, stored.bytes(), "{kind} {name}");
        }
        let [thin_loss, recovered] = [0, 1].map(|at| compression.stages[at].quality.loss);
        assert!(recovered < thin_loss, "{kind}: {recovered} {thin_loss}");
        let figures = &compression.stages[0].layers[0];
        let [vocab, d_model] = figures.shape;
        let rank = figures.rank.unwrap();
        assert!(rank * (vocab + d_model) <= (0.6 * (vocab * d_model) as f64) as usize);
        let last = corner.open("small").stored().unwrap();
        let Stored::LowRank { first, second } = &last.tensors["tokens"] else {
            panic!("{kind}: tokens are not factorised any more")
        };
        assert!(matches!(**first, Stored::PackedRows(_)));
        assert!(matches!(**second, Stored::Float { .. }));
        let trained = corner
            .compress("trained", &[thin, qat])
            .unwrap()
            .compression;
        let sizes = estimate(&corner.recipe(&[thin, qat], &[]).value, &corner.open("run")).unwrap();
        let stored = corner.open("trained").stored().unwrap();
        assert_eq!(sizes[2].bytes, stored.bytes(), "{kind}");
        assert!(trained.last().quality.loss < thin_loss, "{kind}");
        let again = corner
            .compress("again", &[thin, thin])
            .err()
            .unwrap()
            .to_string();
        assert!(again.contains("take factors of factors"), "{again}");
    }
}

/// Floating point of 8 bits is as large as int8, loses next to nothing, and is computed from as it is stored.
#[test]
fn eight_bits_of_floating_point_are_a_format_too() {
    for kind in ["transformer", "bk"] {
        let corner = Corner::new(kind);
        let stages = ["kind = \"quantize\"\nmethod = \"fp8\"", HALF];
        let compression = corner.compress("small", &stages).unwrap().compression;
        let int8 = format!("{INT8}\nsymmetric = true");
        let plain = corner
            .compress("plain", &[&int8, HALF])
            .unwrap()
            .compression;
        let last = compression.last();
        assert_eq!(last.memory_bytes, plain.last().memory_bytes);
        assert!(last.quality.divergence < 1e-2, "{kind}: {:?}", last.quality);
        assert!(last.quality.agreement > 0.98, "{kind}: {:?}", last.quality);
        let config = fs::read_to_string(corner.path("small/config.json")).unwrap();
        assert!(config.contains("\"version\":3") && config.contains("e4m3"));
        let again = ["kind = \"quantize\"\nmethod = \"fp8\"", INT8];
        let error = corner.compress("again", &again).err().unwrap().to_string();
        assert!(error.contains("round rounded weights once more"), "{error}");
    }
}

/// Real and imaginary parts of a ResNet-BK share scales in the file, and what is computed from it is what it says: the same numbers as plain
/// ones score alike. Separate scales take more bytes, and a model without complex layers has none to share.
#[test]
fn parts_of_complex_layers_share_scales() {
    let corner = Corner::new("bk");
    let stage =
        |complex: &str| GPTQ4.replace("bits = 4", &format!("bits = 4\ncomplex = \"{complex}\""));
    let (shared, separate) = (stage("shared"), stage("separate"));
    let sizes = estimate(&corner.recipe(&[&shared], &[]).value, &corner.open("run")).unwrap();
    let compression = corner
        .compress("shared", &[&shared, HALF])
        .unwrap()
        .compression;
    assert!(compression.stages[0].what.ends_with("parts share scales"));
    assert!(
        compression.last().quality.divergence < 0.05,
        "{compression:?}"
    );
    let first = corner.open("shared/stages/1-quantize").stored().unwrap();
    assert_eq!(sizes[1].bytes, first.bytes());
    let complex = first
        .tensors
        .values()
        .filter(|stored| matches!(stored, Stored::Complex(_)));
    assert_eq!(complex.count(), 4, "gate and output of two layers");
    let config = fs::read_to_string(corner.path("shared/config.json")).unwrap();
    assert!(config.contains("\"version\":4"), "{config}");
    // The same numbers without codes.
    let mut plain = first.clone();
    for stored in plain.tensors.values_mut() {
        *stored = Stored::Float {
            kind: kiln_quant::FloatType::F32,
            shape: stored.shape(),
            values: stored.values(),
        };
    }
    let run = corner.open("shared/stages/1-quantize");
    let device = burn::tensor::Device::flex();
    let path = corner.path("plain");
    let plain = kiln_train::load_stored(&run.config.model, &plain, &path, &device).unwrap();
    let tokens =
        burn::tensor::Tensor::<2, burn::tensor::Int>::from_data([[1, 5, 2, 7, 3, 4]], &device);
    let scores = |model: &kiln_zoo::LanguageModel| {
        let scores = model.forward(tokens.clone()).unwrap().into_data();
        scores.iter::<f32>().collect::<Vec<_>>()
    };
    let (found, expected) = (scores(&run.model), scores(&plain));
    for (found, expected) in found.iter().zip(&expected) {
        // Sums in another order.
        assert!(
            (found - expected).abs() < 1e-4 * (1.0 + expected.abs()),
            "{found} {expected}"
        );
    }
    let other = corner
        .compress("separate", &[&separate, HALF])
        .unwrap()
        .compression;
    assert!(other.last().file_bytes > compression.last().file_bytes);
    let corner = Corner::new("transformer");
    let refused = corner
        .compress("none", &[&shared])
        .err()
        .unwrap()
        .to_string();
    assert!(
        refused.contains("only the gate and the output of a BK mixer"),
        "{refused}"
    );
}
