//! Layers that multiply integers.

use std::fs;

use kiln_compress::Compression;
use kiln_run::Interrupt;
use kiln_train::{SampleConfig, Stored, StoredModel, generate, hash_file};

use crate::common::{Corner, device};

const PLAIN: &str = "kind = \"quantize\"\nmethod = \"w8a8\"";
const SMOOTH: &str = "kind = \"quantize\"\nmethod = \"smoothquant\"";
const STATIC: &str = "inputs = \"static\"";

/// Makes some channels behind every norm of a run 200 times as large, and the weights that read them as much smaller: the same
/// function, with inputs that are hard to round.
fn with_outliers(corner: &Corner) {
    let run = corner.open("run");
    let mut stored: StoredModel = run.stored().unwrap();
    let change = |stored: &mut Stored, factor: &dyn Fn(f32) -> f32, width: usize| {
        let Stored::Float { values, .. } = stored else {
            panic!()
        };
        for (at, value) in values.iter_mut().enumerate() {
            if (at / width).is_multiple_of(21) {
                *value = factor(*value);
            }
        }
    };
    for readers in run.model.clone().norm_readers() {
        for name in ["gamma", "beta"] {
            let name = format!("{}.{name}", readers.norm);
            if let Some(stored) = stored.tensors.get_mut(&name) {
                change(stored, &|gain| gain * 200.0, 1);
            }
        }
        for layer in readers.layers {
            let stored = stored.tensors.get_mut(&format!("{layer}.weight")).unwrap();
            let width = stored.shape()[1];
            change(stored, &|weight| weight / 200.0, width);
        }
    }
    let weights = corner.path("run/model.safetensors");
    stored.write(&weights).unwrap();
    let config = corner.path("run/config.json");
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace(&run.config.weights, &hash_file(&weights).unwrap());
    fs::write(&config, text).unwrap();
}

fn compressed(corner: &Corner, out: &str, keys: &[&str]) -> Compression {
    corner
        .compress(out, &[&keys.join("\n")])
        .unwrap()
        .compression
}

/// With outlying channels, rounding inputs as they are loses the model; smoothing keeps it, with either kind of step.
#[test]
fn smoothing_keeps_a_model_with_outliers() {
    for kind in ["transformer", "bk"] {
        let corner = Corner::new(kind);
        let whole = compressed(&corner, "whole", &[SMOOTH]);
        with_outliers(&corner);
        for (name, inputs) in [("static", STATIC), ("dynamic", "inputs = \"dynamic\"")] {
            let plain = compressed(&corner, &format!("plain-{name}"), &[PLAIN, inputs]);
            let smooth = compressed(&corner, &format!("smooth-{name}"), &[SMOOTH, inputs]);
            // The same function as before.
            let original = &plain.original.quality;
            assert!((original.loss / whole.original.quality.loss - 1.0).abs() < 1e-3);
            let (plain, smooth) = (&plain.last().quality, &smooth.last().quality);
            assert!(plain.change > 0.05, "{kind} {name}: {plain:?}");
            assert!(
                smooth.change < 0.01 && smooth.agreement > 0.99,
                "{kind} {name}: {smooth:?}"
            );
            assert!(
                smooth.divergence < 0.02 * plain.divergence,
                "{kind} {name}: {smooth:?} {plain:?}"
            );
        }
    }
}

/// A run of integers reloads, scores as was measured, writes the text of the original, and is refused by a Kiln that knows no integers.
#[test]
fn a_run_of_integers_is_a_run() {
    for (kind, keys) in [
        ("transformer", [SMOOTH, STATIC]),
        ("bk", [SMOOTH, ""]),
        ("bk", [PLAIN, STATIC]),
    ] {
        let corner = Corner::new(kind);
        let compression = compressed(&corner, "small", &keys);
        let last = compression.last();
        assert!(
            last.quality.change.abs() < 0.01,
            "{kind}: {:?}",
            last.quality
        );
        assert!(last.quality.divergence > 0.0);
        let config = fs::read_to_string(corner.path("small/config.json")).unwrap();
        assert!(config.contains("\"version\":3"), "{config}");
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
        // As if it were of the version before.
        let older = config.replace("\"version\":3", "\"version\":2");
        fs::write(corner.path("small/config.json"), older).unwrap();
        let error = kiln_train::Run::open(&corner.path("small"), &device().device);
        let error = error.err().unwrap().to_string();
        assert!(error.contains("does not go together"), "{error}");
    }
}

/// A layer alone is measured with its divisors, whoever has taken them over; a later stage refuses the codes.
#[test]
fn layers_of_integers_are_measured_alone_and_stay() {
    let corner = Corner::new("transformer");
    let sets = ["measure.sensitivity_windows=20"];
    let stages = [SMOOTH, "kind = \"half\""];
    let outcome = corner
        .start("small", false, &stages, &sets, Interrupt::none())
        .unwrap();
    for figures in &outcome.compression.stages[0].layers {
        assert!(figures.sensitivity.unwrap() < 1e-2, "{figures:?}");
    }
    let stored = corner.open("small").stored().unwrap();
    let up = &stored.tensors["blocks.0.mlp.up.weight"];
    assert!(matches!(up, Stored::Integer { .. }));
    let again = corner
        .compress("again", &[SMOOTH, PLAIN])
        .err()
        .unwrap()
        .to_string();
    assert!(again.contains("round rounded weights once more"), "{again}");
    let trained = "kind = \"recover\"\nsteps = 1";
    let trained = corner
        .compress("trained", &[SMOOTH, trained])
        .err()
        .unwrap()
        .to_string();
    assert!(trained.contains("codes are not trained"), "{trained}");
}
