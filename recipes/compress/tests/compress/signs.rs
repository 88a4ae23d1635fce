//! Layers of signs, with signs of their inputs.

use std::fs;

use kiln_compress::estimate;
use kiln_quant::{Activations, Encoding};
use kiln_run::{Interrupt, Kind, RunFolder, metrics};
use kiln_train::{Run, SampleConfig, Stored, generate};

use crate::common::{Corner, device};
use crate::recover::{HALF, INT4, stored};

fn signs(steps: u64) -> String {
    format!(
        "kind = \"qat\"\nmethod = \"sign\"\ninputs = \"sign\"\nsteps = {steps}\nlearning_rate = 3e-3\nexcept = [\"tokens\", \"head\"]"
    )
}

/// What was scored in training is what the packed model scores; training wins back what the rounding of both took; and the run is one
/// that later stages work on, that reloads and writes text, and that a Kiln without signs refuses.
#[test]
fn inputs_are_rounded_as_they_were_in_training() {
    for kind in ["transformer", "bk"] {
        let corner = Corner::new(kind);
        let tokens = INT4.to_string() + "\nlayers = [\"tokens\", \"head\"]";
        let (long, short) = (signs(60), signs(1));
        let stages = [&*long, &tokens, HALF];
        let sizes = estimate(&corner.recipe(&stages, &[]).value, &corner.open("run")).unwrap();
        let trained = corner.compress("small", &stages).unwrap().compression;
        let begun = corner.compress("begun", &[&short]).unwrap().compression;
        let [trained, begun] = [&trained.stages[0], &begun.stages[0]].map(|it| it.quality.loss);
        assert!(trained < begun - 0.1, "{kind}: {trained} {begun}");
        let training = corner.path("small/stages/1-qat-training");
        let training = RunFolder::open(training).unwrap();
        let records = metrics::read(&training.metrics()).unwrap();
        let of = |kind: Kind| {
            let mut found = records.iter().filter(|record| record.kind == kind);
            found.next_back().unwrap().values["validation_loss"]
        };
        let [rounded, packed] = [of(Kind::Eval), of(Kind::Final)];
        // Sums of the same products in another order.
        assert!(
            (rounded / packed - 1.0).abs() < 1e-5,
            "{kind}: {rounded} {packed}"
        );
        let model = stored(&corner, "small");
        assert_eq!(sizes[3].bytes, model.bytes());
        let mut layers = 0;
        for (name, stored) in &model.tensors {
            match stored {
                Stored::Integer {
                    activations,
                    weights,
                } => {
                    let format = weights.format();
                    assert_eq!(*activations, Activations::Signs, "{name}");
                    assert_eq!(format.encoding, Encoding::Sign, "{name}");
                    layers += 1;
                }
                Stored::PackedRows(rows) => {
                    assert_eq!(
                        (&**name, rows.format().encoding),
                        ("tokens", Encoding::Int4)
                    );
                }
                Stored::Packed(_) => assert_eq!(name, "head.weight"),
                other => assert!(!other.is_packed(), "{name}"),
            }
        }
        assert!(layers > 8, "{layers}");
        let run = corner.open("small");
        let sample = SampleConfig {
            prompt: "the".into(),
            tokens: 12,
            temperature: 0.0,
            ..SampleConfig::default()
        };
        let tokenizer = run.tokenizer().unwrap();
        let text = generate(
            &run.model,
            tokenizer,
            &sample,
            &device().device,
            &mut |_| {},
        );
        assert_eq!(text.unwrap().chars().count(), 12);
        let path = corner.path("small/config.json");
        let config = fs::read_to_string(&path).unwrap();
        assert!(config.contains("\"version\":5"), "{config}");
        let refused = |from: &str, to: &str| {
            assert!(config.contains(from), "{config}");
            fs::write(&path, config.replace(from, to)).unwrap();
            let run = Run::open(&corner.path("small"), &device().device);
            run.err().unwrap().to_string()
        };
        let error = refused("\"version\":5", "\"version\":4");
        assert!(error.contains("does not go together"), "{error}");
        let error = refused("\"inputs\":\"sign\"", "\"inputs\":\"dynamic\"");
        assert!(error.contains("its encoding is not int8"), "{error}");
    }
}

/// Codes are not trained on, and what is between two factors is not rounded.
#[test]
fn what_cannot_be_trained_with_signs_is_told() {
    let corner = Corner::new("transformer");
    let refused = |out: &str, stages: &[&str]| {
        let all = corner.start(out, false, stages, &[], Interrupt::none());
        all.err().unwrap().to_string()
    };
    let short = signs(1);
    let thin = "kind = \"low-rank\"\nmethod = \"svd\"\nkeep = 0.4";
    let error = refused("thin", &[thin, &short]);
    assert!(
        error.contains("is the product of two matrices, and what is between them is not rounded"),
        "{error}"
    );
    let embedding = short.replace("except = [\"tokens\", \"head\"]", "layers = [\"tokens\"]");
    let error = refused("embedding", &[&embedding]);
    assert!(
        error.contains("`quantize.inputs` is sign, but no linear layer has weights that are signs"),
        "{error}"
    );
    let recover = "kind = \"recover\"\nsteps = 1";
    let error = refused("again", &[&short, recover]);
    assert!(error.contains("codes are not trained"), "{error}");
}
