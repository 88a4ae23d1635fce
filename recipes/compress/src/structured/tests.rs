use burn::tensor::{Device, Tensor, TensorData};
use kiln_train::{load_stored, save_model};
use kiln_zoo::LanguageModel;

use super::units::sites;
use super::*;
use crate::recipe::Importance;

/// A small model of a preset with random weights, gates and biases as the preset has them.
fn model(preset: &str) -> Shaped {
    let mut config = ModelConfig::preset(preset).unwrap();
    config.backbone.vocab_size = 13;
    config.backbone.dropout = 0.0;
    config.backbone.bias = true;
    config.bk.heads = 24;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    save_model(&config.init(7, &Device::flex()).unwrap(), &path).unwrap();
    let tensors = StoredModel::read(&path, None).unwrap();
    Shaped { config, tensors }
}

fn scores_of(model: &Shaped) -> Vec<f32> {
    let path = std::path::Path::new("memory");
    let device = Device::flex();
    let loaded: LanguageModel = load_stored(&model.config, &model.tensors, path, &device).unwrap();
    let ids: Vec<i32> = (0..24).map(|at| at * 5 % 13).collect();
    let tokens = Tensor::from_data(TensorData::new(ids, [2, 12]), &device);
    loaded.forward(tokens).unwrap().into_data().iter().collect()
}

fn assert_close(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        // Sums of the same products in another order, and zeros left out.
        assert!((a - b).abs() < 2e-5 * b.abs().max(1.0), "{what}: {a} {b}");
    }
}

fn set(stored: &mut Stored, change: impl Fn(usize, usize) -> Option<f32>) {
    let Stored::Float { shape, values, .. } = stored else {
        unreachable!()
    };
    let width = shape.last().copied().unwrap();
    for (at, value) in values.iter_mut().enumerate() {
        *value = change(at / width, at % width).unwrap_or(*value);
    }
}

const PRESETS: [&str; 6] = [
    "transformer-tiny",
    "resnet-bk-tiny",
    "resolvent-tiny",
    "gla-tiny",
    "min-gru-tiny",
    "nanogpt-cpu",
];

/// Units whose outputs nobody reads can go, whatever they compute: of every mixer with heads, and of both kinds of MLP.
#[test]
fn what_nobody_reads_can_go() {
    for preset in PRESETS {
        for part in [Part::Mlp, Part::Heads] {
            let mut whole = model(preset);
            let all = sites(&whole.config, &whole.tensors, part);
            assert_eq!(all.len(), whole.config.backbone.n_layers, "{preset}");
            let kept: Vec<Vec<usize>> = all
                .iter()
                .enumerate()
                // Another half in every layer.
                .map(|(at, site)| {
                    (0..site.units)
                        .filter(|unit| (unit + at) % 2 == 0)
                        .collect()
                })
                .collect();
            for (site, kept) in all.iter().zip(&kept) {
                let rows = site.output.of_all(kept, site.units);
                let output = whole.tensors.tensors.get_mut(&site.output.tensor).unwrap();
                set(output, |row, _| (!rows.contains(&row)).then_some(0.0));
            }
            let small = cut(&whole, &all, &kept).unwrap();
            assert!(small.tensors.bytes() < whole.tensors.bytes());
            small.config.validate().unwrap();
            let what = format!("{preset}, {}", part.name());
            assert_close(&scores_of(&small), &scores_of(&whole), &what);
            // And they go first, where their weights are zero altogether.
            let sites = sites(&whole.config, &whole.tensors, part);
            for (site, kept) in sites.iter().zip(&kept) {
                for places in site.places.iter().filter(|places| places.axis == 1) {
                    let columns = places.of_all(kept, site.units);
                    let tensor = whole.tensors.tensors.get_mut(&places.tensor).unwrap();
                    set(tensor, |_, column| {
                        (!columns.contains(&column)).then_some(0.0)
                    });
                }
            }
            let scores = scores::magnitude(&whole.tensors, &sites);
            for (scores, kept) in scores.iter().zip(&kept) {
                assert_eq!(best(scores, kept.len()), *kept, "{what}");
            }
        }
    }
}

/// A layer that adds nothing to the residual stream can go, and the mixers keep their places.
#[test]
fn a_layer_that_adds_nothing_can_go() {
    let mut whole = model("student-hybrid-char-cpu");
    let depth = whole.config.backbone.n_layers;
    for (name, stored) in &mut whole.tensors.tensors {
        if name.starts_with("blocks.1.") && (name.contains("output.") || name.contains("down.")) {
            set(stored, |_, _| Some(0.0));
        }
    }
    let kept: Vec<usize> = (0..depth).filter(|layer| *layer != 1).collect();
    let small = keep_layers(&whole, &kept);
    assert_eq!(small.config.backbone.n_layers, depth - 1);
    for (place, layer) in kept.iter().enumerate() {
        assert_eq!(small.config.mixer(place), whole.config.mixer(*layer));
    }
    assert_close(&scores_of(&small), &scores_of(&whole), "layer 1");
    let figures = figures(&whole.tensors, &small, Part::Layers, &kept);
    assert!(
        figures
            .iter()
            .all(|figures| figures.layer.starts_with("blocks.1."))
    );
    assert!(figures.iter().all(|figures| figures.bytes_after == 0));
}

#[test]
fn what_stays_is_a_multiple_and_something_goes() {
    let work = |share, multiple| Structured {
        part: Part::Mlp,
        importance: Importance::Magnitude,
        share,
        multiple,
    };
    for (units, share, multiple, expected) in [
        (512, 0.3, 1, 358),
        (512, 0.3, 32, 352),
        (4, 0.3, 1, 3),
        (96, 0.9, 32, 32),
    ] {
        assert_eq!(remaining(units, &work(share, multiple)).unwrap(), expected);
    }
    let Err(Refusal::Why(words)) = remaining(4, &work(0.1, 1)) else {
        unreachable!()
    };
    assert_eq!(
        words,
        "`share` = 0.1 of 4 in multiples of 1 takes nothing away: raise it, or lower `multiple`"
    );
    assert_eq!(best(&[0.5, 2.0, 0.5, 1.0], 3), [0, 1, 3]);
}
