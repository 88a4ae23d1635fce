//! Surgery on a small Transformer.

use super::*;
use burn::tensor::Device;
use kiln_backbone::{Backbone, BackboneConfig, InitRng, stable_param_ids};
use kiln_transformer::{AttentionConfig, SelfAttention, nanogpt};

fn model(seed: u64, change: impl Fn(&mut BackboneConfig)) -> Backbone<SelfAttention> {
    model_on(seed, change, Device::flex())
}

fn model_on(
    seed: u64,
    change: impl Fn(&mut BackboneConfig),
    device: Device,
) -> Backbone<SelfAttention> {
    let (mut backbone, attention): (_, AttentionConfig) = nanogpt(8, 4, 2, 6, 0.0);
    backbone.vocab_size = 5;
    change(&mut backbone);
    let mixer = |_: usize, rng: &mut InitRng| attention.init(&backbone, rng, &device);
    let built = backbone.init(mixer, &mut InitRng::new(seed), &device);
    stable_param_ids(built.unwrap())
}

fn tensors(model: &impl Module) -> BTreeMap<String, TensorData> {
    let mut visitor = Tensors::default();
    model.visit(&mut visitor);
    visitor.found
}

#[test]
fn a_copy_is_the_teacher() {
    let teacher = model(1, |_| {});
    let done = transplant(model(2, |_| {}), &teacher, &Graft::default()).unwrap();
    assert_eq!(tensors(&done.model), tensors(&teacher));
    assert_eq!(done.taken, teacher.num_params());
    assert!(done.left.is_empty() && done.other_mixers.is_empty());
}

#[test]
fn layers_are_the_chosen_ones() {
    let teacher = model(1, |_| {});
    let graft = Graft {
        layers: Some(vec![3, 1]),
        fresh: vec![Part::Mlps],
    };
    let student = model(2, |config| config.n_layers = 2);
    let own = tensors(&student);
    let done = transplant(student, &teacher, &graft).unwrap();
    let (found, source) = (tensors(&done.model), tensors(&teacher));
    for (path, data) in &found {
        let origin = path
            .replace("blocks.0.", "blocks.3.")
            .replace("blocks.1.", "blocks.one.")
            .replace("blocks.one.", "blocks.1.");
        match part_of(path) {
            Part::Mlps => assert_eq!(data, &own[path], "{path}"),
            _ => assert_eq!(data, &source[&origin], "{path}"),
        }
    }
    // They can tell: no two layers of the teacher are alike.
    let weights = |layer| &source[&format!("blocks.{layer}.mixer.output.weight")];
    assert_ne!(weights(1), weights(3));
}

#[test]
fn what_does_not_fit_is_named() {
    let teacher = model(1, |_| {});
    let graft = |layers: Option<&[usize]>, fresh: &[Part]| Graft {
        layers: layers.map(<[usize]>::to_vec),
        fresh: fresh.to_vec(),
    };
    type Change = fn(&mut BackboneConfig);
    let table: [(Change, Graft, &str); 6] = [
        (
            |c| c.n_layers = 2,
            graft(None, &[]),
            "the model has 2 layers and the one it takes weights from has 4: say with `layers` which of them it takes, 2 numbers below 4",
        ),
        (
            |c| c.n_layers = 2,
            graft(Some(&[1]), &[]),
            "`layers` has 1 numbers, and the model has 2 layers: give one for each",
        ),
        (
            |c| c.n_layers = 1,
            graft(Some(&[4]), &[]),
            "`layers` names layer 4, and there are 4, counted from 0",
        ),
        (
            |c| c.d_hidden = 16,
            graft(None, &[]),
            "`blocks.0.mlp.up.weight` has the shape [8, 16] here and [8, 32] there: make the two models equal in it, or leave the part fresh with `fresh = [\"mlps\"]`",
        ),
        (
            |c| c.tie_embeddings = false,
            graft(None, &[]),
            "`head.weight` has the shape [8, 5] here and is not there: make the two models equal in it, or leave the part fresh with `fresh = [\"head\"]`",
        ),
        (
            |_| {},
            graft(None, &[Part::Head]),
            "`fresh` names \"head\", of which the model has no weights: leave it out",
        ),
    ];
    for (change, graft, expected) in table {
        let error = transplant(model(2, change), &teacher, &graft).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn what_has_no_place_is_told() {
    let teacher = model(1, |_| {});
    let without = model(2, |c| c.positions = kiln_backbone::Positions::None);
    let done = transplant(without, &teacher, &Graft::default()).unwrap();
    assert_eq!(done.left, ["positions"]);
}

/// Ids and what is trained are the student's, also on a device with autodiff.
#[test]
fn a_student_can_be_trained() {
    let teacher = model(1, |_| {});
    let student = model_on(2, |_| {}, Device::flex().autodiff());
    struct Trained(Vec<bool>);
    impl ModuleVisitor for Trained {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0
                .push(param.val().is_require_grad() && param.val().device().is_autodiff());
        }
    }
    let done = transplant(student, &teacher, &Graft::default()).unwrap();
    let mut trained = Trained(Vec::new());
    done.model.visit(&mut trained);
    assert!(!trained.0.is_empty() && trained.0.iter().all(|is| *is));
}
