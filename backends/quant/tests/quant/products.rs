//! Products from packed words equal those of the matrix that the words stand for.

use burn::tensor::{Device, Int, Tensor, TensorData};
use kiln_quant::{Encoding, FloatType, PackedFormat, PackedMatrix, packed_columns, packed_linear};

use crate::common::{device, kinds, matrix, numbers, on_flex};

/// x W in double precision, and for each entry the sum of sizes that rounding is relative to.
fn exact(packed: &PackedMatrix, x: &[f32]) -> Vec<[f64; 2]> {
    let PackedFormat {
        d_input, d_output, ..
    } = packed.format();
    let dense = packed.dequantize();
    let mut sums = Vec::new();
    for row in x.chunks_exact(d_input) {
        for output in 0..d_output {
            let products = row
                .iter()
                .enumerate()
                .map(|(input, &x)| f64::from(x) * f64::from(dense[input * d_output + output]));
            sums.push(products.fold([0.0, 0.0], |[sum, size], p| [sum + p, size + p.abs()]));
        }
    }
    sums
}

fn agrees(format: PackedFormat, rows: usize, device: &Device) {
    let packed = matrix(format, 7);
    let x = numbers(3, rows * format.d_input);
    let exact = exact(&packed, &x);
    let x = Tensor::<2>::from_data(TensorData::new(x, [rows, format.d_input]), device);
    let y = packed_linear(x, packed.to_tensor(device), format);
    assert_eq!(y.dims(), [rows, format.d_output]);
    let y: Vec<f32> = y.into_data().iter::<f32>().collect();
    for (at, (found, [sum, size])) in y.into_iter().zip(exact).enumerate() {
        // Sums of up to 600 products in f32, which in the worst case round once each: 600 * 2^-24 of the sum of sizes.
        let bound = 4e-5 * size + 1e-12;
        let error = (f64::from(found) - sum).abs();
        assert!(
            error <= bound,
            "{format:?}, {rows} rows, {at}: {found} {sum}"
        );
    }
}

/// Whether the device multiplies matrices rightly by itself, as it does for many rows: SwiftShader, a software Vulkan, does not.
fn multiplies(device: &Device) -> bool {
    let ones = |rows, columns| Tensor::<2>::ones([rows, columns], device);
    [[17, 7, 3], [40, 576, 1000]]
        .iter()
        .all(|&[rows, d_input, d_output]| {
            let y = ones(rows, d_input).matmul(ones(d_input, d_output));
            y.into_data().iter::<f32>().all(|y| y == d_input as f32)
        })
}

/// Inputs and groups: whole columns of any length, groups of 32 and more; outputs that fill no panel.
const SHAPES: [([usize; 2], usize); 10] = [
    ([1, 1], 1),
    ([33, 17], 33),
    ([32, 16], 32),
    ([64, 40], 32),
    ([128, 130], 128),
    ([300, 33], 300),
    ([7, 3], 7),
    ([192, 5], 64),
    ([512, 48], 128),
    ([600, 65], 600),
];

fn formats() -> Vec<PackedFormat> {
    let mut formats = Vec::new();
    for (encoding, asymmetric, scales) in kinds() {
        for ([d_input, d_output], group) in SHAPES {
            formats.push(PackedFormat {
                encoding,
                asymmetric,
                d_input,
                d_output,
                group,
                scales,
            });
        }
    }
    formats
}

/// Every encoding, group, shape and number of rows on each side of what the kernels distinguish.
#[test]
fn a_packed_layer_equals_the_matrix_it_stands_for() {
    let device = device();
    for format in formats() {
        // Every number of rows that kernels distinguish; where each is compiled anew, one of each kind of kernel.
        let rows: &[usize] = match on_flex() {
            true => &[1, 2, 3, 4, 7, 8, 9, 33],
            false if multiplies(&device) => &[1, 5, 17],
            false => &[1, 5],
        };
        for &rows in rows {
            agrees(format, rows, &device);
        }
    }
}

/// Shapes large enough that work is shared out among threads and blocks.
#[test]
fn large_layers_agree_too() {
    let device = device();
    for (encoding, asymmetric, _) in kinds() {
        let format = PackedFormat {
            encoding,
            asymmetric,
            d_input: 576,
            d_output: 1000,
            group: 64,
            scales: FloatType::F16,
        };
        for rows in match on_flex() || multiplies(&device) {
            true => [1, 5, 40],
            false => [1, 5, 16],
        } {
            agrees(format, rows, &device);
        }
    }
}

/// More outputs than are unpacked at a time.
#[test]
fn blocks_of_outputs_are_in_their_places() {
    let device = device();
    if on_flex() || multiplies(&device) {
        let format = PackedFormat {
            encoding: Encoding::Int4,
            asymmetric: true,
            d_input: 4160,
            d_output: 1100,
            group: 64,
            scales: FloatType::F16,
        };
        agrees(format, 17, &device);
    }
}

/// A row of the output does not depend on other rows, bit for bit; of three axes they are the rows of all.
#[test]
fn rows_do_not_see_each_other() {
    let device = device();
    let wide = formats().into_iter().filter(|format| format.d_input == 512);
    for (format, seq) in wide.flat_map(|format| [1, 2, 5, 20].map(|seq| (format, seq))) {
        let words = matrix(format, 11).to_tensor(&device);
        let x = Tensor::<3>::from_data(
            TensorData::new(numbers(5, 2 * seq * 512), [2, seq, 512]),
            &device,
        );
        let last = |x: Tensor<3>| -> Vec<f32> {
            let y = packed_linear(x, words.clone(), format);
            assert_eq!(y.dims(), [2, seq, format.d_output]);
            y.slice([1..2, seq - 1..seq])
                .into_data()
                .iter::<f32>()
                .collect()
        };
        let mut others = x.clone() * 2.0;
        others = others.slice_assign([1..2, seq - 1..seq], x.clone().slice([1..2, seq - 1..seq]));
        assert_eq!(last(x), last(others), "{format:?}");
    }
}

#[test]
fn columns_are_those_of_the_matrix() {
    let device = device();
    for format in formats() {
        let packed = matrix(format, 13);
        let dense = packed.dequantize();
        let last = format.d_output - 1;
        let outputs = [0, last, last / 2, 0];
        let ids = Tensor::<1, Int>::from_ints(outputs.map(|output| output as i32), &device);
        let columns = packed_columns(packed.to_tensor(&device), ids, format);
        assert_eq!(columns.dims(), [4, format.d_input]);
        let columns: Vec<f32> = columns.into_data().iter::<f32>().collect();
        for (column, output) in columns.chunks_exact(format.d_input).zip(outputs) {
            for (input, &found) in column.iter().enumerate() {
                assert_eq!(found, dense[input * format.d_output + output], "{format:?}");
            }
        }
    }
}

#[cfg(feature = "flex")]
#[test]
#[should_panic(expected = "packed_columns: 3 is not below the 3 outputs of the matrix")]
fn a_column_that_does_not_exist_is_named() {
    let device = burn::tensor::Device::flex();
    let format = PackedFormat {
        d_output: 3,
        ..formats()[0]
    };
    let ids = Tensor::<1, Int>::from_ints([3], &device);
    packed_columns(matrix(format, 1).to_tensor(&device), ids, format);
}

/// d x = g W^T, against the product with the dense matrix under the same autodiff.
#[test]
fn the_gradient_reaches_the_input() {
    let device = device().autodiff();
    for format in formats().into_iter().filter(|format| format.d_input == 192) {
        let packed = matrix(format, 17);
        let shape = [3, format.d_input];
        let x = Tensor::<2>::from_data(TensorData::new(numbers(2, 3 * 192), shape), &device);
        let weights = TensorData::new(numbers(4, 3 * format.d_output), [3, format.d_output]);
        let weights = Tensor::<2>::from_data(weights, &device);
        let grad = |x: Tensor<2>, y: Tensor<2>| -> Vec<f32> {
            let grads = (y * weights.clone()).sum().backward();
            let grad = x.grad(&grads).expect("x takes a gradient");
            grad.into_data().iter::<f32>().collect()
        };
        let x = x.require_grad();
        let found = grad(
            x.clone(),
            packed_linear(x.clone(), packed.to_tensor(&device), format),
        );
        let dense = TensorData::new(packed.dequantize(), [format.d_input, format.d_output]);
        let dense = Tensor::<2>::from_data(dense, &device);
        let expected = grad(x.clone(), x.matmul(dense));
        for (found, expected) in found.into_iter().zip(expected) {
            // Five products of at most 255 * 0.03 each.
            assert!(
                (found - expected).abs() < 1e-5,
                "{format:?}: {found} {expected}"
            );
        }
    }
}
