//! What holds in bf16 and f16: scores and gradients are those of f32 to a few roundings, parameters and gradients stay f32, and
//! generation is the same function as `forward`.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Int, Tensor};
use kiln_zoo::{LanguageModel, MixerKind, Precision};

use crate::common::{SEQ, cases, causal_cases, device, ids, params, tokens, vector};

/// With the largest difference, relative to the norm, that rounding may leave behind: 2^-9 and 2^-12 a rounding, some hundred of
/// them on the way through two layers whose weights are fifteen times the usual ones, which spread what comes in.
const HALVES: [(Precision, f64); 2] = [(Precision::Bf16, 0.1), (Precision::F16, 0.0125)];

/// Those that the device has.
fn halves(device: &Device) -> impl Iterator<Item = (Precision, f64)> {
    let device = device.clone();
    let has = move |(precision, _): &(Precision, f64)| device.supports_dtype(precision.dtype());
    HALVES.into_iter().filter(has)
}

fn assert_near(what: &str, found: &[f32], exact: &[f32], tolerance: f64) {
    assert_eq!(found.len(), exact.len(), "{what}");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let whole = norm(&mut exact.iter().map(|&x| f64::from(x)));
    let pairs = found.iter().zip(exact);
    let error = norm(&mut pairs.map(|(&x, &y)| f64::from(x) - f64::from(y)));
    assert!(
        error <= tolerance * whole,
        "{what}: off by {}",
        error / whole
    );
    assert!(error > 0.0, "{what}: nothing was rounded");
}

#[test]
fn scores_are_near_those_of_f32() {
    let device = device();
    let input = || ids(&tokens(2, SEQ), 2, &device);
    for case in cases() {
        let model = case.model(1, &device);
        let exact = model.forward(input()).unwrap();
        assert_eq!(exact.dtype(), DType::F32, "{}", case.name);
        let exact = vector(exact);
        for (precision, tolerance) in halves(&device) {
            let what = format!("{} in {}", case.name, precision.name());
            let model = model.clone().with_precision(precision);
            let scores = model.forward(input()).unwrap();
            assert_eq!(scores.dtype(), precision.dtype(), "{what}");
            assert_near(&what, &vector(scores), &exact, tolerance);
            for param in params(&model) {
                let of = params(&case.model(1, &device));
                assert!(of.contains(&param), "{what}: {} is another", param.path);
            }
        }
    }
}

/// Every gradient in a row, all of them f32.
fn gradients(model: &LanguageModel, input: Tensor<2, Int>) -> Vec<f32> {
    // Unlike a plain sum of scores, this asks for a different answer at every place.
    let scores = model.forward(input).unwrap().cast(DType::F32);
    let count = scores.shape().num_elements() as i64;
    let wanted = Tensor::<1, Int>::arange(0..count, &scores.device()).float();
    let wanted = wanted.sin().reshape(scores.dims());
    // The sum: gradients of the mean are so small that f16 has few digits left, which is what loss scaling is for.
    let loss = (scores - wanted).square().sum();
    let grads = GradientsParams::from_grads(loss.backward(), model);
    let mut all = Gradients {
        grads: &grads,
        values: Vec::new(),
    };
    model.visit(&mut all);
    all.values
}

struct Gradients<'a> {
    grads: &'a GradientsParams,
    values: Vec<f32>,
}

impl ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            assert_eq!(grad.dtype(), DType::F32);
            self.values.extend(vector(grad));
        }
    }
}

#[test]
fn gradients_are_f32_and_near_the_exact_ones() {
    let device = device().autodiff();
    let input = || ids(&tokens(2, SEQ), 2, &device);
    for mut case in cases() {
        // It draws numbers of the element type, which differ.
        case.config.backbone.dropout = 0.0;
        case.config.resolvent.key_dropout = 0.0;
        let model = case.model(1, &device);
        let exact = gradients(&model, input());
        // What a head of linear attention reads is divided by its root mean square, next to nothing where a query and its keys are
        // orthogonal: there gradients are large, and roundings change much of them.
        let has = |mixer| case.config.pattern.contains(&mixer);
        let condition = match has(MixerKind::Resolvent) || has(MixerKind::Gla) {
            true => 30.0,
            false => 1.0,
        };
        for (precision, tolerance) in halves(&device) {
            let what = format!("{} in {}", case.name, precision.name());
            let model = model.clone().with_precision(precision);
            let found = gradients(&model, input());
            assert_near(&what, &found, &exact, tolerance * condition);
        }
    }
}

#[test]
fn generation_is_the_same_function() {
    let device = device();
    let tokens = tokens(2, SEQ);
    for case in causal_cases() {
        for (precision, tolerance) in halves(&device) {
            let what = format!("{} in {}", case.name, precision.name());
            let model = case.model(1, &device).with_precision(precision);
            let exact = case.model(1, &device).forward(ids(&tokens, 2, &device));
            let input = ids(&tokens, 2, &device);
            let state = model.initial_state(2, &device).unwrap();
            let start = input.clone().narrow(1, 0, SEQ / 2);
            let (first, mut state) = model.forward_with_state(start, state).unwrap();
            let mut pieces = vec![first];
            for t in SEQ / 2..SEQ {
                let token = input.clone().narrow(1, t, 1).squeeze_dim(1); // [batch]
                let scores;
                (scores, state) = model.step(token, state).unwrap();
                pieces.push(scores.unsqueeze_dim(1));
            }
            let found = vector(Tensor::<3>::cat(pieces, 1));
            assert_near(&what, &found, &vector(exact.unwrap()), tolerance);
        }
    }
}
