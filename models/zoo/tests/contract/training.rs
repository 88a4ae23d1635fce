//! Gradients reach what is trained and nothing else; dropout works in training only.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::store::{ModuleSnapshot, SafetensorsStore};
use burn::tensor::{Tensor, TensorData};
use kiln_zoo::{LanguageModel, MixerKind, ModelConfig};

use crate::common::{
    SEQ, VOCAB, assert_close, bits, cases, device, ids, on_flex, params, tokens, vector,
};

/// Gradients by path of a loss that asks something else of every score.
fn gradients(model: &LanguageModel) -> Vec<(String, Option<Vec<f32>>)> {
    let device = device().autodiff();
    let logits = model.forward(ids(&tokens(2, SEQ), 2, &device)).unwrap();
    let weights: Vec<f32> = (0..2 * SEQ * VOCAB)
        .map(|i| (i as f32 * 0.7).sin())
        .collect();
    let weights = Tensor::<3>::from_data(TensorData::new(weights, [2, SEQ, VOCAB]), &device);
    let grads = GradientsParams::from_grads((logits * weights).sum().backward(), model);
    let mut visitor = Gradients {
        grads,
        path: Vec::new(),
        found: Vec::new(),
    };
    model.visit(&mut visitor);
    visitor.found
}

struct Gradients {
    grads: GradientsParams,
    path: Vec<String>,
    found: Vec<(String, Option<Vec<f32>>)>,
}

impl ModuleVisitor for Gradients {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.grads.get::<D>(param.id).map(vector);
        self.found.push((self.path.join("."), gradient));
    }
}

/// Paths of what a configuration says is not trained.
fn frozen(config: &ModelConfig) -> Vec<String> {
    let mut all = Vec::new();
    for layer in 0..config.backbone.n_layers {
        let (kind, learn_energy, learn_hopping) = match config.mixer(layer) {
            MixerKind::Bk => ("Bk", config.bk.learn_energy, config.bk.learn_hopping),
            MixerKind::Resolvent => {
                let mixer = &config.resolvent;
                ("Resolvent", mixer.learn_energy, mixer.learn_hopping)
            }
            MixerKind::Attention
            | MixerKind::Conv
            | MixerKind::Gla
            | MixerKind::MinGru
            | MixerKind::Fnet => continue,
        };
        let mut add = |name: &str| all.push(format!("blocks.{layer}.mixer.{kind}.{name}"));
        if !learn_energy {
            add("energy");
            add("eta_raw");
        }
        if !learn_hopping {
            add("hopping_raw");
        }
    }
    all
}

fn check_gradients(name: &str, config: &ModelConfig, model: &LanguageModel) {
    let frozen = frozen(config);
    let mut without = Vec::new();
    for (path, gradient) in gradients(model) {
        let Some(gradient) = gradient else {
            without.push(path);
            continue;
        };
        assert!(
            gradient.iter().all(|g| g.is_finite()),
            "{name}: the gradient of {path} is not finite"
        );
        assert!(
            gradient.iter().any(|g| *g != 0.0),
            "{name}: the gradient of {path} is zero"
        );
    }
    assert_eq!(without, frozen, "{name}");
    let untrained = params(model).into_iter().filter(|param| !param.trained);
    let untrained: Vec<String> = untrained.map(|param| param.path).collect();
    assert_eq!(untrained, frozen, "{name}");
}

#[test]
fn everything_trained_has_a_gradient_and_nothing_frozen_has() {
    let device = device().autodiff();
    let mut some_frozen = false;
    for case in cases() {
        some_frozen |= !frozen(&case.config).is_empty();
        check_gradients(case.name, &case.config, &case.model(1, &device));
    }
    assert!(some_frozen, "the zoo has a preset with frozen parameters");
}

/// Loading weights must not thaw what is frozen, nor freeze what is trained.
#[test]
fn loading_keeps_what_is_frozen() {
    let device = device().autodiff();
    let folder = tempfile::tempdir().unwrap();
    for case in cases() {
        let path = folder.path().join(case.name);
        let store = || {
            SafetensorsStore::from_file(&path)
                .overwrite(true)
                .skip_enum_variants(true)
        };
        case.model(1, &device).save_into(&mut store()).unwrap();
        let mut model = case.model(2, &device);
        model.load_from(&mut store()).unwrap();
        check_gradients(case.name, &case.config, &model);
    }
}

#[test]
fn dropout_is_for_training_only() {
    let plain = device();
    let training = device().autodiff();
    for mut case in cases() {
        case.config.backbone.dropout = 0.5;
        let input = tokens(2, SEQ);
        let run = |model: &LanguageModel, device| {
            bits(&vector(model.forward(ids(&input, 2, device)).unwrap()))
        };
        let model = case.model(1, &training);
        assert_ne!(
            run(&model, &training),
            run(&model, &training),
            "{}: no dropout in training",
            case.name
        );
        let valid = model.valid();
        let first = vector(valid.forward(ids(&input, 2, &plain)).unwrap());
        let never = vector(
            case.model(1, &plain)
                .forward(ids(&input, 2, &plain))
                .unwrap(),
        );
        match on_flex() {
            true => assert_eq!(bits(&first), bits(&never), "{}", case.name),
            // Autotuning may settle on another kernel between two calls.
            false => assert_close(case.name, &first, &never),
        }
        case.config.backbone.dropout = 0.0;
        let without = case.model(1, &training);
        let found = vector(without.forward(ids(&input, 2, &training)).unwrap());
        assert_close(&format!("{} at rate 0", case.name), &found, &never);
    }
}

/// Training through `forward_with_state` (truncated backpropagation) gives the gradients of `forward` over one piece.
#[test]
fn gradients_with_a_fresh_state_are_those_without() {
    let device = device().autodiff();
    for case in crate::common::causal_cases() {
        let mut config = case.config.clone();
        config.backbone.dropout = 0.0;
        let model = config.init(1, &device).unwrap();
        let input = || ids(&tokens(2, SEQ), 2, &device);
        let grads = |logits: Tensor<3>| {
            let grads = (logits.clone() * logits).sum().backward();
            GradientsParams::from_grads(grads, &model)
        };
        let state = model.initial_state(2, &device).unwrap();
        let with_state = grads(model.forward_with_state(input(), state).unwrap().0);
        let without = grads(model.forward(input()).unwrap());
        for param in params(&model).into_iter().filter(|param| param.trained) {
            let compare = |a: Option<Vec<f32>>, b: Option<Vec<f32>>| {
                let (a, b) = (a.unwrap(), b.unwrap());
                let scale = b.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
                // Sums over 48 positions of products, in f32: 1e-5 of the largest entry.
                let worst = a.iter().zip(&b).map(|(x, y)| (x - y).abs());
                let worst = worst.fold(0.0_f32, f32::max);
                assert!(
                    worst <= 1e-5 * scale,
                    "{} {}: {worst}",
                    case.name,
                    param.path
                );
            };
            let vector_of = |grads: &GradientsParams| grads.get::<1>(param.id).map(vector);
            let matrix_of = |grads: &GradientsParams| grads.get::<2>(param.id).map(vector);
            match param.rank {
                1 => compare(vector_of(&with_state), vector_of(&without)),
                _ => compare(matrix_of(&with_state), matrix_of(&without)),
            }
        }
    }
}
