//! Rows by number, on the backend of `KILN_TEST_BACKEND`: values, and gradients of rows that are asked for often or never.

#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use kiln_fused::{embedding, select_rows};

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

fn vector<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

#[test]
fn rows_and_their_gradients() {
    let device = device().autodiff();
    for [rows, width, count] in [[1, 1, 1], [7, 5, 3], [65, 33, 400], [1000, 64, 129]] {
        let uniform = Distribution::Uniform(-1.0, 1.0);
        let table: Tensor<2> = Tensor::random([rows, width], uniform, &device).require_grad();
        let weights: Tensor<2> = Tensor::random([count, width], uniform, &device);
        // Squares: some numbers come often, some never.
        let numbers: Vec<i32> = (0..count).map(|i| (i * i * 3 % rows) as i32).collect();
        let asked: Tensor<1, Int> =
            Tensor::from_data(TensorData::new(numbers.clone(), [count]), &device);
        let found = select_rows(table.clone(), asked);
        let grads = (found.clone() * weights.clone()).sum().backward();
        let (values, found) = (vector(table.clone()), vector(found));
        let (slopes, weights) = (vector(table.grad(&grads).unwrap()), vector(weights));
        let mut expected = vec![0.0_f64; rows * width];
        for (i, &number) in numbers.iter().enumerate() {
            for col in 0..width {
                let (from, to) = (number as usize * width + col, i * width + col);
                assert_eq!(found[to], values[from], "row {number} as {i}");
                expected[from] += f64::from(weights[to]);
            }
        }
        for (slope, expected) in slopes.iter().zip(expected) {
            let error = (f64::from(*slope) - expected).abs();
            assert!(error < 1e-4, "{slope} is not {expected}");
        }
    }
}

#[test]
fn tokens_of_a_batch() {
    let device = device();
    let table = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], &device);
    let tokens = Tensor::<2, Int>::from_ints([[2, 0], [1, 1]], &device);
    let found = vector(embedding(table, tokens));
    assert_eq!(found, [5.0, 6.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]);
}
