//! The experiments of the BK mixer do what they say: nothing crosses positions, or only another lane's features count, or
//! training alone changes.

#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use kiln_backbone::{BackboneConfig, InitRng, Mixer};
use kiln_resnet_bk::{BkConfig, BkMixer, Chart, Control, GradRule, PRESETS};

const SEQ: usize = 7;
const WIDTH: usize = 16;

fn backbone() -> BackboneConfig {
    let (backbone, _) = (PRESETS[0].config)();
    BackboneConfig {
        d_model: WIDTH,
        ..backbone
    }
}

/// Twelve heads, with the settings of `change`.
fn mixer(change: impl Fn(&mut BkConfig), device: &Device) -> BkMixer {
    let mut config = BkConfig {
        heads: 12,
        ..Default::default()
    };
    change(&mut config);
    config
        .init(&backbone(), &mut InitRng::new(5), device)
        .unwrap()
}

/// `[batch, SEQ, WIDTH]` with a lane's values following from its seed.
fn lanes(seeds: &[u64], device: &Device) -> Tensor<3> {
    let values = |seed: &u64| InitRng::new(*seed).normal(SEQ * WIDTH, 1.0);
    let values: Vec<f32> = seeds.iter().flat_map(values).collect();
    Tensor::from_data(TensorData::new(values, [seeds.len(), SEQ, WIDTH]), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn run(mixer: &BkMixer, x: Tensor<3>) -> Tensor<3> {
    mixer.forward(x, None).0
}

/// Positions of lane 0 whose output moves when input t does.
fn reach(mixer: &BkMixer, t: usize, device: &Device) -> Vec<usize> {
    let x = lanes(&[1, 2], device);
    let bump = Tensor::ones([1, 1, WIDTH], device);
    let changed = x.clone().slice_assign([0..1, t..t + 1, 0..WIDTH], bump);
    let (before, after) = (values(run(mixer, x)), values(run(mixer, changed)));
    let row = |all: &[f32], t: usize| all[t * WIDTH..(t + 1) * WIDTH].to_vec();
    (0..SEQ)
        .filter(|&t| row(&before, t) != row(&after, t))
        .collect()
}

#[test]
fn off_depends_on_the_present_token_only() {
    let device = Device::flex();
    let on = mixer(|_| {}, &device);
    let off = mixer(|c| c.control = Control::Off, &device);
    for t in [0, 3, SEQ - 1] {
        assert_eq!(reach(&on, t, &device), (t..SEQ).collect::<Vec<_>>());
        assert_eq!(reach(&off, t, &device), [t]);
    }
    assert_eq!(on.num_params(), off.num_params());
}

/// With raw features there is nothing left to gate.
#[test]
fn off_in_raw_coordinates_is_zero() {
    let device = Device::flex();
    let off = |c: &mut BkConfig| (c.control, c.chart) = (Control::Off, Chart::Raw);
    let y = values(run(&mixer(off, &device), lanes(&[1, 2], &device)));
    assert!(y.iter().all(|&y| y == 0.0), "{y:?}");
}

/// Without a gate the output is a function of the features alone: lane b of one mixer is lane b + 1 of the other.
#[test]
fn shuffled_lanes_read_their_neighbours_features_only() {
    let device = Device::flex();
    let plain = mixer(|c| c.gate = false, &device);
    let shuffled = |c: &mut BkConfig| (c.control, c.gate) = (Control::Shuffled, false);
    let shuffled = mixer(shuffled, &device);
    let y = values(run(&plain, lanes(&[2, 3, 1], &device)));
    assert_eq!(values(run(&shuffled, lanes(&[1, 2, 3], &device))), y);
}

/// With the gate a lane's own tokens count where they stand, and do not cross positions.
#[test]
fn shuffled_lanes_do_not_read_their_own_past() {
    let device = Device::flex();
    let shuffled = mixer(|c| c.control = Control::Shuffled, &device);
    for t in [0, 3, SEQ - 1] {
        assert_eq!(reach(&shuffled, t, &device), [t]);
    }
    // A lane of its own reads zeros.
    let off = mixer(|c| c.control = Control::Off, &device);
    let alone = || lanes(&[4], &device);
    assert_eq!(values(run(&shuffled, alone())), values(run(&off, alone())));
}

#[test]
fn gradient_rules_change_gradients_and_not_values() {
    let device = Device::flex().autodiff();
    let rules = [
        GradRule::Exact,
        GradRule::Local,
        GradRule::Hyp7,
        GradRule::Blend(0.3),
    ];
    let of = |rule: GradRule| {
        let mixer = mixer(|c| c.grad_rule = rule, &device);
        let x = lanes(&[1, 2], &device).require_grad();
        let y = run(&mixer, x.clone());
        let gradients = (y.clone() * y.clone()).sum().backward();
        (values(y), values(x.grad(&gradients).unwrap()))
    };
    let found = rules.map(of);
    for i in 1..rules.len() {
        assert_eq!(found[i].0, found[0].0, "{:?}", rules[i]);
        for j in 0..i {
            assert_ne!(found[i].1, found[j].1, "{:?} {:?}", rules[i], rules[j]);
        }
    }
}

#[test]
fn blends_outside_their_range_are_named() {
    let bad = BkConfig {
        grad_rule: GradRule::Blend(1.5),
        ..Default::default()
    };
    assert_eq!(
        bad.validate().unwrap_err().to_string(),
        "`bk.grad_rule.blend` is 1.5, but must lie in [0, 1]"
    );
}
