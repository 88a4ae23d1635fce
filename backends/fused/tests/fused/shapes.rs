//! Widths from one vector to many cubes, odd ones among them, in every type that the device has.

use burn::tensor::{DType, Int, Tensor, TensorData};
use kiln_fused::{self as fused, reference};

use crate::common::{assert_close, compare, device, gelu, gradients, on_flex, random};

/// Rows and widths: one vector and less, odd ones, as many as units, and the vocabulary.
const SIZES: [[usize; 2]; 10] = [
    [1, 3],
    [1, 64],
    [5, 31],
    [3, 129],
    [2, 768],
    [33, 1000],
    [300, 40],
    [2, 4099],
    [1, 8192],
    [2, 32_768],
];

fn ids(tokens: usize, vocab: usize) -> Tensor<1, Int> {
    let ids: Vec<i32> = (0..tokens)
        .map(|i| ((i * 7919 + vocab - 1) % vocab) as i32)
        .collect();
    Tensor::from_data(TensorData::new(ids, [tokens]), &device())
}

#[test]
fn norms_of_every_width() {
    for [rows, width] in SIZES {
        let (x, gamma) = (random([rows, width], 1), random([width], 2));
        compare!(
            format!("rms norm {rows} {width}"),
            [x, gamma],
            fused::rms_norm(x.clone(), gamma.clone(), 1e-5),
            reference::rms_norm(x.clone(), gamma.clone(), 1e-5)
        );
        // Far from zero: the variance is taken around the mean.
        let (x, gamma) = (
            (random([rows, width], 3) + 2.0).detach(),
            random([width], 4),
        );
        compare!(
            format!("layer norm {rows} {width}"),
            [x, gamma],
            fused::layer_norm(x.clone(), gamma.clone(), None, 1e-5),
            reference::layer_norm(x.clone(), gamma.clone(), None, 1e-5)
        );
    }
}

#[test]
fn cross_entropy_of_every_width() {
    for [rows, width] in SIZES.into_iter().chain([[3, 1], [2, 2]]) {
        let logits = (random([rows, width], 5) * 5.0).detach();
        compare!(
            format!("cross entropy {rows} {width}"),
            [logits],
            fused::cross_entropy(logits.clone(), ids(rows, width)),
            reference::cross_entropy(logits.clone(), ids(rows, width))
        );
    }
}

/// Operands that are views: transposed, and cut out of a larger tensor.
#[test]
fn views() {
    let x = random([40, 24], 6);
    compare!(
        "transposed",
        [x],
        fused::gelu(x.clone().transpose()),
        gelu(x.clone().transpose())
    );
    let x = random([40, 24], 7);
    compare!(
        "narrowed",
        [x],
        fused::swiglu(x.clone().narrow(1, 1, 9), x.clone().narrow(1, 13, 9)),
        reference::swiglu(x.clone().narrow(1, 1, 9), x.clone().narrow(1, 13, 9))
    );
    let (x, gamma) = (random([40, 24], 8), random([9], 9));
    compare!(
        "narrowed norm",
        [x, gamma],
        fused::rms_norm(x.clone().narrow(1, 2, 9), gamma.clone(), 1e-5),
        reference::rms_norm(x.clone().narrow(1, 2, 9), gamma.clone(), 1e-5)
    );
}

/// Storage of half the width: inputs are rounded alike, arithmetic is in single precision, and the output is rounded once.
#[test]
fn narrow_storage() {
    // Half of the last bit, and the other half for a value next to a boundary; largest values are near 1 by then.
    for (dtype, last_bit) in [(DType::BF16, 1.0 / 128.0), (DType::F16, 1.0 / 1024.0)] {
        if on_flex() || !device().supports_dtype(dtype) {
            eprintln!("skipped: no kernels for {dtype:?} on this device");
            continue;
        }
        for [rows, width] in [[3, 17], [5, 96], [9, 768]] {
            check_narrow(dtype, last_bit, [rows, width]);
        }
    }
}

fn check_narrow(dtype: DType, last_bit: f64, shape: [usize; 2]) {
    let [rows, width] = shape;
    let draw = |seed| random(shape, seed).cast(dtype);
    let gamma = || random([width], 10);
    let ids = || ids(rows, width);
    type Pair = (Tensor<2>, Tensor<2>);
    let both = |what: &str, run: &dyn Fn(Tensor<2>, bool) -> Tensor<2>| {
        let result = |wide: bool| -> Pair {
            let x = draw(11);
            let x = if wide { x.cast(DType::F32) } else { x };
            let x = x.detach().require_grad();
            let y = run(x.clone(), wide);
            let grads = gradients(&y.clone().cast(DType::F32));
            let slope = x.grad(&grads).expect("a gradient");
            assert_eq!(slope.dtype(), x.dtype(), "{what}");
            (y.cast(DType::F32), slope.cast(DType::F32))
        };
        let ((value, slope), (exact, exact_slope)) = (result(false), result(true));
        for (part, found, exact) in [("value", value, exact), ("gradient", slope, exact_slope)] {
            let scale = exact.clone().abs().max().into_scalar::<f32>();
            let error = (found - exact).abs().max().into_scalar::<f32>() / scale;
            // The gradient that enters is rounded as well.
            assert!(
                f64::from(error) < 1.5 * last_bit,
                "{what} {part} {dtype:?} {shape:?}: {error}"
            );
        }
    };
    both("gelu", &|x, _| fused::gelu(x));
    both("swiglu", &|x, _| fused::swiglu(x.clone(), x));
    both("soft bound", &|x, _| fused::soft_bound(x, 1.5));
    both("rms norm", &|x, _| fused::rms_norm(x, gamma(), 1e-5));
    both("layer norm", &|x, _| {
        fused::layer_norm(x, gamma(), None, 1e-5)
    });
    both("cross entropy", &|x, _| {
        let nats = fused::cross_entropy(x, ids());
        assert_eq!(nats.dtype(), DType::F32);
        nats.reshape([rows, 1])
    });
    both("causal convolution", &|x, _| {
        let weight = random([width, 4], 12);
        let x = x.reshape([1, rows, width]);
        fused::causal_conv(x, weight, None, true)
            .0
            .reshape([rows, width])
    });
}

/// Lengths around the runs of the convolution, and more taps than are unrolled.
#[test]
fn convolutions_of_every_length() {
    for (seq, channels, width) in [
        (1, 5, 4),
        (15, 3, 2),
        (16, 8, 4),
        (17, 4, 4),
        (50, 6, 20),
        (70, 2, 3),
    ] {
        for silu in [false, true] {
            let (x, weight) = (
                random([2, seq, channels], 13),
                random([channels, width], 14),
            );
            compare!(
                format!("convolution {seq} {channels} {width} {silu}"),
                [x, weight],
                fused::causal_conv(x.clone(), weight.clone(), None, silu).0,
                reference::causal_conv(x.clone(), weight.clone(), 0, silu)
            );
        }
    }
}
