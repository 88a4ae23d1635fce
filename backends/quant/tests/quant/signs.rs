//! Products of signs equal those of the signs of the inputs with the levels, times the mean size of the row.

use burn::tensor::{Device, Tensor, TensorData};
use kiln_quant::{
    Activations, Encoding, FloatType, PackedFormat, PackedMatrix, integer_linear, packed_linear,
    signs,
};

use crate::common::{backend, device, matrix, numbers};

fn format([d_input, d_output]: [usize; 2]) -> PackedFormat {
    PackedFormat {
        encoding: Encoding::Sign,
        asymmetric: false,
        d_input,
        d_output,
        group: d_input,
        scales: FloatType::F16,
    }
}

fn rows(x: &[f32], width: usize, device: &Device) -> Tensor<2> {
    let shape = [x.len() / width, width];
    Tensor::from_data(TensorData::new(x.to_vec(), shape), device)
}

fn floats(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().iter().collect()
}

/// 1 of zero, of either sign.
fn sign(x: f32) -> f32 {
    if x < 0.0 { -1.0 } else { 1.0 }
}

fn mean(row: &[f32]) -> f64 {
    row.iter().map(|x| f64::from(x.abs())).sum::<f64>() / row.len() as f64
}

/// m s sum sign(x) q, with the sum in 64 bits.
fn expected(packed: &PackedMatrix, x: &[f32]) -> Vec<f32> {
    let PackedFormat {
        d_input, d_output, ..
    } = packed.format();
    let (levels, scales) = (packed.levels(), packed.scales());
    let mut all = Vec::new();
    for row in x.chunks_exact(d_input) {
        for output in 0..d_output {
            let products = row
                .iter()
                .enumerate()
                .map(|(input, x)| sign(*x) as i64 * i64::from(levels[input * d_output + output]));
            let sum = products.sum::<i64>() as f64;
            all.push((mean(row) * f64::from(scales[output]) * sum) as f32);
        }
    }
    all
}

/// Inputs with zeros of both signs among them.
fn inputs(seed: u64, count: usize) -> Vec<f32> {
    let mut x = numbers(seed, count);
    x.iter_mut().step_by(7).for_each(|x| *x = 0.0);
    x.iter_mut().skip(3).step_by(11).for_each(|x| *x = -0.0);
    x
}

fn product(x: &[f32], packed: &PackedMatrix, device: &Device) -> Vec<f32> {
    let format = packed.format();
    let x = rows(x, format.d_input, device);
    let dims = [x.dims()[0], format.d_output];
    let y = integer_linear(x, packed.to_tensor(device), format, Activations::Signs);
    assert_eq!(y.dims(), dims);
    floats(y)
}

#[test]
fn sums_are_those_of_signs() {
    let device = device();
    let shapes = [
        [1, 1],
        [3, 17],
        [31, 5],
        [32, 16],
        [33, 40],
        [300, 33],
        [512, 48],
        [577, 130],
    ];
    for shape in shapes {
        let packed = matrix(format(shape), 7);
        for count in [1, 2, 3, 4, 5, 6, 7, 8, 9, 70] {
            let mut x = inputs(3, count * shape[0]);
            // A row of zeros, unless it is the only one.
            x[..shape[0] * (count / 4).min(1)].fill(0.0);
            let found = product(&x, &packed, &device);
            for (found, expected) in found.iter().zip(expected(&packed, &x)) {
                // The sum is exact: what rounds is the mean, and its products.
                assert!(
                    (found - expected).abs() <= 1e-6 * expected.abs(),
                    "{shape:?} {count}: {found} {expected}"
                );
            }
        }
    }
}

/// What training computes with gives the product of the packed layer.
#[test]
fn rounded_inputs_give_the_same_product() {
    let device = device();
    let packed = matrix(format([300, 40]), 5);
    let x = inputs(9, 6 * 300);
    let (rounded, means) = signs(rows(&x, 300, &device));
    let expected: Vec<f32> = x.iter().map(|x| sign(*x)).collect();
    assert_eq!(floats(rounded.clone()), expected);
    let words = packed.to_tensor(&device);
    let trained = floats(packed_linear(rounded, words, packed.format()) * means);
    let mut zeros = 0;
    for (found, expected) in product(&x, &packed, &device).iter().zip(trained) {
        // Sums are exact on both sides, so that what is zero is zero.
        assert!(
            (found - expected).abs() <= 1e-6 * expected.abs(),
            "{found} {expected}"
        );
        zeros += i32::from(expected == 0.0);
    }
    assert!(zeros > 0);
}

/// What is no number does not become one, and does not touch other rows.
#[test]
fn what_is_no_number_stays_none() {
    let device = device();
    let packed = matrix(format([64, 20]), 3);
    let whole = numbers(1, 3 * 64);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = whole.clone();
        x[64 + 5] = bad;
        let [good, found] = [&whole, &x].map(|x| product(x, &packed, &device));
        assert!(found[20..40].iter().all(|y| y.is_nan()));
        assert_eq!((&found[..20], &found[40..]), (&good[..20], &good[40..]));
    }
}

/// g_i where |x_i| <= m, and sign(x_i) / n sum_j g_j sign(x_j): of the rounding in training, and of the packed layer.
#[test]
fn the_gradient_is_that_of_mean_and_clipped_signs() {
    let device = device().autodiff();
    let [count, width, outputs] = [5, 96, 24];
    let packed = matrix(format([width, outputs]), 3);
    // A row of zeros too.
    let mut numbers_of_x = inputs(2, count * width);
    numbers_of_x[..width].fill(0.0);
    let above = numbers(4, count * outputs);
    let grad = |of: &dyn Fn(Tensor<2>) -> Tensor<2>| {
        let x = rows(&numbers_of_x, width, &device).require_grad();
        let above = rows(&above, outputs, &device);
        let grads = (of(x.clone()) * above).sum().backward();
        floats(x.grad(&grads).expect("x takes a gradient"))
    };
    let (words, format) = (packed.to_tensor(&device), packed.format());
    let trained = grad(&|x| {
        let (signs, means) = signs(x);
        packed_linear(signs, words.clone(), format) * means
    });
    let stored = grad(&|x| integer_linear(x, words.clone(), format, Activations::Signs));
    // The gradient at m sign(x): that of any product with the matrix.
    let plain = grad(&|x| packed_linear(x, words.clone(), format));
    // On SwiftShader products of the runtime's own are wrong, and only what comes of this gradient alone can be held against it.
    let all = match backend().as_str() {
        "vulkan" => vec![stored],
        _ => vec![stored, trained],
    };
    let (mut passed, mut cut) = (0, 0);
    for (row, x) in numbers_of_x.chunks_exact(width).enumerate() {
        let g: Vec<f64> = plain[row * width..][..width]
            .iter()
            .map(|g| f64::from(*g))
            .collect();
        let mean = mean(x);
        let sums = g.iter().zip(x).map(|(g, x)| g * f64::from(sign(*x)));
        let share = sums.sum::<f64>() / width as f64;
        for (input, x) in x.iter().enumerate() {
            let inside = f64::from(x.abs()) <= mean && mean > 0.0;
            let expected = f64::from(sign(*x)) * share + if inside { g[input] } else { 0.0 };
            (passed, cut) = (passed + i32::from(inside), cut + i32::from(!inside));
            for found in &all {
                let found = f64::from(found[row * width + input]);
                assert!(
                    (found - expected).abs() <= 1e-5 * (expected.abs() + 0.1),
                    "{row} {input}: {found} {expected}"
                );
            }
        }
    }
    assert!(passed > 100 && cut > 100, "{passed} {cut}");
}

#[test]
#[should_panic(
    expected = "integer_linear: these weights make no integer product, as its encoding is not sign"
)]
fn other_weights_are_refused() {
    let format = PackedFormat {
        encoding: Encoding::Int8,
        ..format([64, 4])
    };
    product(&[0.0; 64], &matrix(format, 1), &device());
}
