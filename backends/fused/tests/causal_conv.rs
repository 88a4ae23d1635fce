//! The causal convolution against its equation and by hand: values, all gradients, pieces, and causality to the bit.

#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use burn::tensor::{Device, Tensor, TensorData};
use kiln_fused::{causal_conv, reference};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Largest difference relative to the largest element: single precision keeps sums of some hundred terms to about 1e-6.
const TOLERANCE: f32 = 5e-6;

fn device() -> Device {
    match std::env::var("KILN_TEST_BACKEND").as_deref() {
        #[cfg(feature = "flex")]
        Ok("flex") | Err(_) => Device::flex(),
        #[cfg(feature = "vulkan")]
        Ok("vulkan") => Device::vulkan(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "wgpu")]
        Ok("wgpu") => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "metal")]
        Ok("metal") => Device::metal(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "cuda")]
        Ok("cuda") => Device::cuda(0),
        #[cfg(feature = "rocm")]
        Ok("rocm") => Device::rocm(0),
        other => panic!("KILN_TEST_BACKEND={other:?} was not compiled in"),
    }
}

fn random<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| rng.random_range(-2.0..2.0))
        .collect();
    Tensor::from_data(TensorData::new(values, shape), &device().autodiff())
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

#[track_caller]
fn assert_close<const D: usize>(what: &str, found: Tensor<D>, expected: Tensor<D>) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let (found, expected) = (values(found), values(expected));
    let largest = expected.iter().fold(1e-3_f32, |m, x| m.max(x.abs()));
    for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
        let error = (f - e).abs() / largest;
        assert!(error < TOLERANCE, "{what}[{i}]: {f} instead of {e}");
    }
}

/// Sizes around the width, one position, one channel, one tap, and enough rows for several pieces.
const SIZES: [[usize; 4]; 6] = [
    [1, 1, 1, 1],
    [2, 1, 3, 4],
    [2, 2, 5, 4],
    [3, 7, 17, 3],
    [2, 9, 4, 1],
    [3, 211, 130, 4],
];

#[test]
fn equals_the_reference_with_all_gradients() {
    for [batch, seq, channels, width] in SIZES {
        for silu in [false, true] {
            for past in [0, width - 1] {
                let x = random([batch, past + seq, channels], 1).require_grad();
                let weight = random([channels, width], 2).require_grad();
                let y = match past {
                    0 => causal_conv(x.clone(), weight.clone(), None, silu).0,
                    _ => {
                        let history = x.clone().narrow(1, 0, past);
                        let inputs = x.clone().narrow(1, past, seq);
                        causal_conv(inputs, weight.clone(), Some(history), silu).0
                    }
                };
                let expected = reference::causal_conv(x.clone(), weight.clone(), past, silu);
                let what = format!("{batch} {seq} {channels} {width} past {past} silu {silu}");
                let loss = |y: &Tensor<3>| (y.clone() * random(y.dims(), 9).detach()).sum();
                let grads = loss(&y).backward();
                let expected_grads = loss(&expected).backward();
                assert_close(&format!("{what}: value"), y, expected);
                assert_close(
                    &format!("{what}: gradient of x"),
                    x.grad(&grads).unwrap(),
                    x.grad(&expected_grads).unwrap(),
                );
                assert_close(
                    &format!("{what}: gradient of weight"),
                    weight.grad(&grads).unwrap(),
                    weight.grad(&expected_grads).unwrap(),
                );
            }
        }
    }
}

/// Weights (1, 10) on inputs 1, 2, 3: the present has the last tap, and before the first input are zeros.
#[test]
fn two_taps_by_hand() {
    let device = device();
    let x = Tensor::<3>::from_floats([[[1.0], [2.0], [3.0]]], &device);
    let weight = Tensor::<2>::from_floats([[1.0, 10.0]], &device);
    let (y, history) = causal_conv(x.clone(), weight.clone(), None, false);
    assert_eq!(values(y), [10.0, 21.0, 32.0]);
    assert!(history.is_none());
    let before = Tensor::<3>::from_floats([[[5.0]]], &device);
    let (y, history) = causal_conv(x.clone(), weight.clone(), Some(before), false);
    assert_eq!(values(y), [15.0, 21.0, 32.0]);
    assert_eq!(values(history.unwrap()), [3.0]);
    let (y, _) = causal_conv(x, weight, None, true);
    let silu = |u: f64| (u / (1.0 + (-u).exp())) as f32;
    for (found, exact) in values(y).into_iter().zip([10.0, 21.0, 32.0].map(silu)) {
        assert!((found - exact).abs() < 1e-5 * exact, "{found} {exact}");
    }
}

#[test]
fn pieces_with_history_are_the_whole_to_the_bit() {
    let (batch, seq, channels, width) = (2, 11, 6, 4);
    let x = random([batch, seq, channels], 3);
    let weight = random([channels, width], 4);
    let (whole, _) = causal_conv(x.clone(), weight.clone(), None, true);
    for cut in [1, 2, 5, 10] {
        let zeros = Tensor::zeros([batch, width - 1, channels], &x.device());
        let first = x.clone().narrow(1, 0, cut);
        let rest = x.clone().narrow(1, cut, seq - cut);
        let (first, history) = causal_conv(first, weight.clone(), Some(zeros), true);
        let (rest, _) = causal_conv(rest, weight.clone(), history, true);
        let joined = values(Tensor::cat(vec![first, rest], 1));
        assert_eq!(joined, values(whole.clone()), "cut at {cut}");
    }
}

#[test]
fn one_tap_needs_no_history() {
    let x = random([2, 3, 4], 7);
    let weight = random([4, 1], 8);
    let nothing = Tensor::zeros([2, 0, 4], &x.device());
    let (y, history) = causal_conv(x.clone(), weight.clone(), Some(nothing), true);
    assert_eq!(history.expect("what was given").dims(), [2, 0, 4]);
    assert_eq!(values(y), values(causal_conv(x, weight, None, true).0));
}

#[test]
fn a_later_input_moves_no_earlier_output() {
    let (seq, channels) = (9, 5);
    let x = random([1, seq, channels], 5);
    let weight = random([channels, 3], 6);
    let before = values(causal_conv(x.clone(), weight.clone(), None, true).0);
    for t in 0..seq {
        let bump = Tensor::ones([1, 1, channels], &x.device());
        let changed = x.clone().slice_assign([0..1, t..t + 1, 0..channels], bump);
        let after = values(causal_conv(changed, weight.clone(), None, true).0);
        let differs =
            |t: usize| before[t * channels..][..channels] != after[t * channels..][..channels];
        let moved: Vec<usize> = (0..seq).filter(|&t| differs(t)).collect();
        let expected: Vec<usize> = (t..seq.min(t + 3)).collect();
        assert_eq!(moved, expected, "input {t}");
    }
}
