use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use kiln_train::{Selection, load_stored, save_model};
use kiln_zoo::{LanguageModel, ModelConfig};

use super::*;
use crate::Gram;
use crate::recipe::{Stage, Work};

/// A small model of a preset with random weights, and what it reads its norms with.
fn model(preset: &str) -> (ModelConfig, StoredModel, Vec<NormReaders>) {
    let mut config = ModelConfig::preset(preset).unwrap();
    config.backbone.vocab_size = 13;
    config.backbone.dropout = 0.0;
    config.backbone.bias = true;
    config.backbone.tie_embeddings = preset == "nanogpt-cpu";
    // So large that every layer has a say.
    config.backbone.init_std = 0.2;
    config.bk.heads = 24;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut model = config.init(7, &Device::flex()).unwrap();
    save_model(&model, &path).unwrap();
    let readers = model.norm_readers();
    (config, StoredModel::read(&path, None).unwrap(), readers)
}

fn scores(config: &ModelConfig, model: &StoredModel) -> Vec<f32> {
    let path = std::path::Path::new("memory");
    let device = Device::flex();
    let loaded: LanguageModel = load_stored(config, model, path, &device).unwrap().valid();
    let ids: Vec<i32> = (0..24).map(|at| at * 5 % 13).collect();
    let tokens = Tensor::from_data(TensorData::new(ids, [2, 12]), &device);
    loaded.forward(tokens).unwrap().into_data().iter().collect()
}

/// Factors between a quarter and four, another for each channel.
fn factors(width: usize, seed: usize) -> Vec<f32> {
    (0..width)
        .map(|at| 2.0_f32.powi(((at * 7 + seed) % 5) as i32 - 2))
        .collect()
}

/// Moving factors from a norm into the layers that read it leaves every mixer's model as it is: nothing else reads the norm.
#[test]
fn norms_have_no_readers_but_those_that_are_named() {
    for preset in [
        "transformer-tiny",
        "resnet-bk-tiny",
        "resolvent-tiny",
        "gla-tiny",
        "conv3-char-cpu",
        "nanogpt-cpu",
    ] {
        let (config, before, all) = model(preset);
        // Two norms a block, and that of a head of its own.
        let head = usize::from(!config.backbone.tie_embeddings);
        assert_eq!(all.len(), 2 * config.backbone.n_layers + head, "{preset}");
        let mut after = before.clone();
        for (seed, readers) in all.iter().enumerate() {
            let factors = factors(config.backbone.d_model, seed);
            for name in ["gamma", "beta"] {
                let name = format!("{}.{name}", readers.norm);
                if let Some(stored) = after.tensors.get_mut(&name) {
                    divide(stored, &factors);
                }
            }
            for layer in &readers.layers {
                let Some(Stored::Float { shape, values, .. }) =
                    after.tensors.get_mut(&format!("{layer}.weight"))
                else {
                    panic!("{preset}: {layer}")
                };
                for (row, factor) in values.chunks_exact_mut(shape[1]).zip(&factors) {
                    row.iter_mut().for_each(|value| *value *= factor);
                }
            }
        }
        let [before, after] = [&before, &after].map(|model| scores(&config, model));
        let size = before.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        for (a, b) in before.iter().zip(&after) {
            // Powers of two are exact; sums may be taken in another order.
            assert!((a - b).abs() <= 2e-5 * size, "{preset}: {a} {b}");
        }
    }
}

fn gram(width: usize) -> Gram {
    let mut gram = Gram::new(width);
    for row in 0..4 * width {
        let value = |at: usize| (((row * 31 + at * 17) % 23) as f32 - 11.0) * factors(width, 3)[at];
        gram.add(&(0..width).map(value).collect::<Vec<_>>())
            .unwrap();
    }
    gram
}

fn made(layers: &[&str], smoothing: Option<f64>, inputs: IntegerInputs) -> (StoredModel, Integers) {
    let (_, stored, readers) = model("transformer-tiny");
    let grams = crate::layers::layers(&stored)
        .into_iter()
        .map(|layer| {
            let width = stored.tensors[&layer.tensor].shape()[0];
            (layer.name, gram(width))
        })
        .collect();
    let work = Integer { smoothing, inputs };
    let stage = Stage {
        work: Work::Integer(work),
        layers: Selection {
            layers: layers.iter().map(ToString::to_string).collect(),
            except: Vec::new(),
        },
    };
    let job = Job {
        number: 1,
        stage: &stage,
        grams: &grams,
    };
    let integers = job.integers(&stored, work, &readers).unwrap();
    (stored, integers)
}

/// A norm takes over the divisors of all of its readers or of none; other layers keep theirs.
#[test]
fn a_norm_takes_over_what_all_of_its_readers_share() {
    let (before, all) = made(&["*"], Some(0.5), IntegerInputs::Static);
    let gains = "blocks.0.norm_mlp.gamma";
    assert_ne!(all.model.tensors[gains], before.tensors[gains]);
    let at = |name: &str| &all.model.tensors[&format!("blocks.0.{name}.weight")];
    assert!(matches!(at("mlp.up"), Stored::Integer { .. }));
    assert!(matches!(
        at("mixer.query_key_value"),
        Stored::Integer { .. }
    ));
    assert!(matches!(at("mlp.down"), Stored::Scaled { .. }));
    // The divisors are those of the gains.
    let Stored::Scaled { divisors, .. } = &all.alone["blocks.0.mlp.up.weight"] else {
        panic!()
    };
    let [old, new] = [&before, &all.model].map(|model| model.tensors[gains].values());
    for ((old, new), divisor) in old.iter().zip(new).zip(divisors) {
        assert_eq!(old / divisor, new);
    }
    let (before, some) = made(&["*.up"], Some(0.5), IntegerInputs::Dynamic);
    assert_eq!(some.model.tensors[gains], before.tensors[gains]);
    let up = &some.model.tensors["blocks.0.mlp.up.weight"];
    assert!(matches!(up, Stored::Scaled { .. }));
    // Of one byte each, with a scale an output: a weight is off by half a step at most.
    for figures in all.layers.iter().chain(&some.layers) {
        assert!(figures.weight_error < 1e-3, "{figures:?}");
        assert!(figures.output_error.unwrap() < 1e-3, "{figures:?}");
    }
}

/// Without smoothing nothing but the layers changes.
#[test]
fn plain_integers_touch_no_norm() {
    let (before, plain) = made(&["*"], None, IntegerInputs::Static);
    for (name, stored) in &plain.model.tensors {
        match stored {
            Stored::Integer { activations, .. } => {
                let Activations::Static { step } = activations else {
                    panic!("{name}")
                };
                // Inputs are up to 11 times a factor of 4.
                assert!((step - 44.0 / 127.0).abs() < 1e-6, "{name}: {step}");
            }
            _ => assert_eq!(*stored, before.tensors[name], "{name}"),
        }
    }
}
