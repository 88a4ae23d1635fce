//! Integer products equal those of the rounded inputs with the levels.

use burn::tensor::{Device, Tensor, TensorData};
use kiln_quant::{
    Activations, Encoding, FloatType, PackedFormat, PackedMatrix, integer_linear, packed_linear,
};

use crate::common::{device, matrix, numbers};

fn format([d_input, d_output]: [usize; 2], scales: FloatType) -> PackedFormat {
    PackedFormat {
        encoding: Encoding::Int8,
        asymmetric: false,
        d_input,
        d_output,
        group: d_input,
        scales,
    }
}

/// The step of a row, as it is defined.
fn step(row: &[f32], activations: Activations) -> f32 {
    match activations {
        Activations::Static { step } => step,
        Activations::Dynamic => row.iter().fold(0.0_f32, |most, x| most.max(x.abs())) / 127.0,
        Activations::Signs => unreachable!("signs have tests of their own"),
    }
}

/// t s sum p q, with the sum in 64 bits.
fn expected(packed: &PackedMatrix, x: &[f32], activations: Activations) -> Vec<f32> {
    let PackedFormat {
        d_input, d_output, ..
    } = packed.format();
    let (levels, scales) = (packed.levels(), packed.scales());
    let mut all = Vec::new();
    for row in x.chunks_exact(d_input) {
        let step = step(row, activations);
        let level = |x: &f32| match step {
            0.0 => 0,
            step => (x / step).round_ties_even().clamp(-127.0, 127.0) as i64,
        };
        let row: Vec<i64> = row.iter().map(level).collect();
        for output in 0..d_output {
            let products = row.iter().enumerate();
            let products =
                products.map(|(input, p)| p * i64::from(levels[input * d_output + output]));
            all.push(products.sum::<i64>() as f32 * (step * scales[output]));
        }
    }
    all
}

fn product(
    x: &[f32],
    packed: &PackedMatrix,
    activations: Activations,
    device: &Device,
) -> Vec<f32> {
    let format = packed.format();
    let rows = x.len() / format.d_input;
    let x = Tensor::<2>::from_data(TensorData::new(x.to_vec(), [rows, format.d_input]), device);
    let y = integer_linear(x, packed.to_tensor(device), format, activations);
    assert_eq!(y.dims(), [rows, format.d_output]);
    y.into_data().iter::<f32>().collect()
}

const SHAPES: [[usize; 2]; 7] = [
    [1, 1],
    [3, 17],
    [32, 16],
    [64, 40],
    [300, 33],
    [512, 48],
    [577, 130],
];
/// The static one cuts off the largest of numbers up to 1.
const STEPS: [Activations; 2] = [Activations::Dynamic, Activations::Static { step: 0.006 }];

#[test]
fn sums_are_those_of_integers() {
    let device = device();
    for shape in SHAPES {
        for scales in [FloatType::F16, FloatType::F32] {
            let packed = matrix(format(shape, scales), 7);
            for activations in STEPS {
                for rows in [1, 2, 3, 4, 5, 9, 70] {
                    let mut x = numbers(3, rows * shape[0]);
                    // A row of zeros, unless it is the only one.
                    x[..shape[0] * (rows / 4)].fill(0.0);
                    let found = product(&x, &packed, activations, &device);
                    for (found, expected) in found.iter().zip(expected(&packed, &x, activations)) {
                        // The integer is exact up to 2^24; then one product of step, scale and sum each rounds.
                        let bound = 3e-7 * expected.abs();
                        assert!(
                            (found - expected).abs() <= bound,
                            "{shape:?} {activations:?} {rows}: {found} {expected}"
                        );
                    }
                }
            }
        }
    }
}

/// Rounding 512 inputs to 127 steps each side costs little beside the product with the inputs themselves.
#[test]
fn rounded_inputs_are_near_the_inputs() {
    let device = device();
    let packed = matrix(format([512, 48], FloatType::F16), 5);
    let x = numbers(9, 6 * 512);
    let rounded = product(&x, &packed, Activations::Dynamic, &device);
    let x = Tensor::<2>::from_data(TensorData::new(x, [6, 512]), &device);
    let whole = packed_linear(x, packed.to_tensor(&device), packed.format());
    let pairs = rounded
        .iter()
        .zip(whole.into_data().iter::<f32>().collect::<Vec<_>>());
    let [gone, all] = pairs.fold([0.0, 0.0], |[gone, all], (a, b)| {
        [gone + f64::from(a - b).powi(2), all + f64::from(b).powi(2)]
    });
    // A step of 1/127 rounds with a variance of a twelfth of its square, against one of a third of the numbers.
    assert!(gone < 3e-5 * all && gone > 0.0, "{gone} {all}");
}

/// What is no number does not become one, and does not touch other rows.
#[test]
fn what_is_no_number_stays_none() {
    let device = device();
    let packed = matrix(format([64, 20], FloatType::F16), 3);
    let whole = numbers(1, 3 * 64);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = whole.clone();
        x[64 + 5] = bad;
        let [good, found] =
            [&whole, &x].map(|x| product(x, &packed, Activations::Dynamic, &device));
        assert!(found[20..40].iter().all(|y| y.is_nan()));
        assert_eq!((&found[..20], &found[40..]), (&good[..20], &good[40..]));
    }
}

/// The gradient is that of the product with the inputs themselves.
#[test]
fn the_gradient_passes_the_rounding() {
    let device = device().autodiff();
    let packed = matrix(format([96, 24], FloatType::F16), 3);
    let grad = |of: &dyn Fn(Tensor<2>) -> Tensor<2>| -> Vec<f32> {
        let x = TensorData::new(numbers(2, 5 * 96), [5, 96]);
        let x = Tensor::<2>::from_data(x, &device).require_grad();
        let weights = TensorData::new(numbers(4, 5 * 24), [5, 24]);
        let grads = (of(x.clone()) * Tensor::from_data(weights, &device))
            .sum()
            .backward();
        x.grad(&grads)
            .expect("x takes a gradient")
            .into_data()
            .iter()
            .collect()
    };
    let (words, format) = (packed.to_tensor(&device), packed.format());
    let plain = grad(&|x| packed_linear(x, words.clone(), format));
    for activations in STEPS {
        assert_eq!(
            grad(&|x| integer_linear(x, words.clone(), format, activations)),
            plain
        );
    }
}

#[test]
#[should_panic(
    expected = "integer_linear: these weights make no integer product, as it has several scales an output"
)]
fn weights_with_groups_are_refused() {
    let device = device();
    let format = PackedFormat {
        group: 32,
        ..format([64, 4], FloatType::F16)
    };
    product(
        &[0.0; 64],
        &matrix(format, 1),
        Activations::Dynamic,
        &device,
    );
}
