use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor};
use kiln_loader::Order;

use super::*;
use crate::optimizer::OptimizerConfig;

const VOCAB: usize = 16;

fn position(step: u64) -> Position {
    Position {
        step,
        tokens: 0,
        loader: LoaderState {
            order: Order::Crops,
            seed: 1,
            seq: 4,
            places: 9,
            epoch: 0,
            window: 0,
        },
        best: None,
        evals_since_best: 0,
        skipped: 0,
        loss_scale: None,
        last_lost: false,
        elapsed_s: 0.0,
    }
}

/// A step whose gradients count as many times as the factor says, and whether it was lost.
fn step(optimizer: &mut TrainOptimizer, model: LanguageModel, factor: f32) -> LanguageModel {
    let device = Device::flex().autodiff();
    let inputs = Tensor::<2, Int>::from_ints([[1, 5, 2, 9]], &device);
    let loss = model
        .hidden(inputs)
        .expect("a model of tokens")
        .powi_scalar(2)
        .sum();
    let grads = GradientsParams::from_grads(loss.backward(), &model);
    let scale = optimizer.scale_on(&device).expect("AdamW keeps it there");
    scale.set(Some(Tensor::from_floats([factor], &device.inner())));
    let model = optimizer.step(1e-2, model, grads);
    scale.note_lost(!factor.is_finite());
    model
}

struct Bits(Vec<u32>);

impl ModuleVisitor for Bits {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let data = param.val().into_data();
        self.0.extend(data.iter::<f32>().map(f32::to_bits));
    }
}

fn bits(model: &LanguageModel) -> Vec<u32> {
    let mut bits = Bits(Vec::new());
    model.visit(&mut bits);
    bits.0
}

/// A step that the device left out has counted until the next one knows better: a checkpoint between the two says so.
#[test]
fn a_checkpoint_after_a_lost_step_goes_on_with_its_number() {
    let mut config = ModelConfig::preset("transformer-tiny").expect("a preset");
    config.backbone.vocab_size = VOCAB;
    let build = || {
        let model = config.init(3, &Device::flex().autodiff());
        let model = model.expect("a model");
        let optimizer = OptimizerConfig::default().init(&model).ahead();
        (model, optimizer)
    };
    let folder = tempfile::tempdir().expect("a folder");
    let store = CheckpointStore::new(folder.path());
    let ((mut straight, mut optimizer), (mut stopped, mut own)) = (build(), build());
    let factors = [1.0, f32::NAN, 1.0, f32::NAN, f32::NAN, 0.5];
    for (number, factor) in (1..).zip(factors) {
        straight = step(&mut optimizer, straight, factor);
        stopped = step(&mut own, stopped, factor);
        let written = save_checkpoint(&store, &stopped, &own, &position(number));
        let (shape, fresh) = build();
        let restored = load_checkpoint(&written.expect("a checkpoint"), shape, fresh);
        let restored = restored.expect("what was written");
        assert_eq!(restored.position.last_lost, factor.is_nan());
        (stopped, own) = (restored.model, restored.optimizer);
        assert!(bits(&stopped) == bits(&straight), "after step {number}");
    }
}
