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
