use burn::tensor::{Int, TensorData};
use kiln_quant::Activations;
use kiln_zoo::ModelConfig;

use super::*;
use crate::storage::InputSteps;
use crate::{load_stored, save_model};

fn logits(model: &LanguageModel) -> Vec<f32> {
    let device = model.embedding().dense().device();
    let ids: Vec<i32> = (0..24).map(|at| at * 5 % 13).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [2, 12]), &device);
    model.forward(tokens).unwrap().into_data().iter().collect()
}

/// The forward pass of training with signs of weights and inputs is that of the model that is packed and read again, and not that of
/// the weights' signs alone. Of every mixer, whose layers are computed with in ways of their own.
#[test]
fn signs_are_stored_as_they_were_trained_with() {
    for preset in [
        "transformer-tiny",
        "resnet-bk-tiny",
        "resolvent-tiny",
        "gla-tiny",
        "min-gru-tiny",
        "conv3-char-cpu",
        "nanogpt-cpu",
    ] {
        let training = Device::flex().autodiff();
        let mut config = ModelConfig::preset(preset).unwrap();
        config.backbone.vocab_size = 13;
        config.backbone.dropout = 0.0;
        // So large that every layer has a say.
        config.backbone.init_std = 0.2;
        let mut model = config.init(7, &training).unwrap();
        let weights = QuantizeConfig {
            except: vec!["tokens".into()],
            ..QuantizeConfig::new(Encoding::Sign)
        };
        let both = QuantizeConfig {
            inputs: Some(InputSteps::Sign),
            ..weights.clone()
        };
        let constraint = Constraint::default()
            .rounding(&weights, &mut model)
            .unwrap();
        let weights = logits(&constraint.seen(&model).valid());
        let constraint = Constraint::default().rounding(&both, &mut model).unwrap();
        let seen = constraint.seen(&model);
        let (trained, evaluated) = (logits(&seen), logits(&seen.valid()));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        save_model(&model, &path).unwrap();
        let plain = StoredModel::read(&path, None).unwrap();
        let device = Device::flex();
        let stored = constraint.stored(plain, &device).unwrap();
        for (name, layer) in model.linears_mut() {
            let signs = matches!(
                stored.tensors[&format!("{name}.weight")],
                Stored::Integer {
                    activations: Activations::Signs,
                    ..
                }
            );
            assert!(signs, "{preset}: {name} {:?}", layer.dims());
        }
        let packed = load_stored(&config, &stored, &path, &device).unwrap();
        let packed = logits(&packed.valid());
        let largest = packed.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let mut apart = 0.0_f32;
        for (at, packed) in packed.iter().enumerate() {
            for found in [trained[at], evaluated[at]] {
                assert!(
                    (found - packed).abs() <= 1e-4 * largest,
                    "{preset}: {found} {packed}"
                );
            }
            apart = apart.max((weights[at] - packed).abs());
        }
        assert!(apart > 0.05 * largest, "{preset}: {apart} {largest}");
    }
}
