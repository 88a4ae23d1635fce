//! Values and gradients against sums in double precision, on the backend of `KILN_TEST_BACKEND`.

#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use burn::tensor::{DType, Device, Distribution, Tensor};
use kiln_matmul::linear;

fn device() -> Device {
    match std::env::var("KILN_TEST_BACKEND").as_deref() {
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

fn vector<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f32>().map(f64::from).collect()
}

/// A matrix in double precision.
#[derive(Clone)]
struct Matrix {
    dims: [usize; 2],
    entries: Vec<f64>,
}

impl Matrix {
    fn new(tensor: Tensor<2>) -> Self {
        Self {
            dims: tensor.dims(),
            entries: vector(tensor),
        }
    }

    fn transposed(&self) -> Self {
        let [rows, cols] = self.dims;
        let entries = (0..rows * cols).map(|at| self.entries[(at % rows) * cols + at / rows]);
        Self {
            dims: [cols, rows],
            entries: entries.collect(),
        }
    }

    fn times(&self, other: &Self) -> Self {
        let ([rows, inner], [_, cols]) = (self.dims, other.dims);
        let mut entries = vec![0.0; rows * cols];
        for row in 0..rows {
            for k in 0..inner {
                let factor = self.entries[row * inner + k];
                for col in 0..cols {
                    entries[row * cols + col] += factor * other.entries[k * cols + col];
                }
            }
        }
        Self {
            dims: [rows, cols],
            entries,
        }
    }

    /// Largest difference, relative to the largest entry.
    fn distance(&self, found: &[f64]) -> f64 {
        assert_eq!(self.entries.len(), found.len());
        let largest = self.entries.iter().fold(1e-9_f64, |a, x| a.max(x.abs()));
        let pairs = self.entries.iter().zip(found);
        pairs.fold(0.0_f64, |a, (x, y)| a.max((x - y).abs())) / largest
    }
}

/// Whether Burn's own product of two matrices is right here; software Vulkan gets some of the smallest wrong, and where the
/// vendor's library does not multiply, nothing else is asked.
fn burn_multiplies(a: &Tensor<2>, b: &Tensor<2>, tolerance: f64) -> bool {
    let [a, b] = [a, b].map(|x| x.clone().inner().cast(DType::F32));
    let product = a.clone().matmul(b.clone());
    let right = Matrix::new(a)
        .times(&Matrix::new(b))
        .distance(&vector(product))
        < tolerance;
    if !right {
        eprintln!("skipped: the device itself multiplies wrongly");
    }
    right
}

/// `[rows, d_in, d_out]`: aligned ones, which a vendor's library takes, and odd ones.
const SHAPES: [[usize; 3]; 7] = [
    [1, 1, 1],
    [3, 5, 7],
    [64, 32, 96],
    [17, 64, 40],
    [256, 128, 384],
    [130, 200, 72],
    [33, 768, 1000],
];

fn random(shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
}

/// Values and both gradients; the weight may lie by columns, and x and the gradient of y have the type `dtype`.
fn agrees(dtype: DType, by_columns: bool, tolerance: f64) {
    let device = device().autodiff();
    for [rows, d_in, d_out] in SHAPES {
        let x = random([rows, d_in], &device).cast(dtype).require_grad();
        let stored = match by_columns {
            true => random([d_out, d_in], &device).require_grad(),
            false => random([d_in, d_out], &device).require_grad(),
        };
        let weight = match by_columns {
            true => stored.clone().transpose(),
            false => stored.clone(),
        };
        let slope = random([rows, d_out], &device);
        // What is multiplied, rounded as the operation rounds it.
        let rounded = weight.clone().cast(dtype).cast(DType::F32);
        let products = [
            (x.clone(), rounded.clone()),
            (slope.clone(), rounded.clone().transpose()),
            (x.clone().transpose(), slope.clone()),
        ];
        let right = |(a, b): &(Tensor<2>, Tensor<2>)| burn_multiplies(a, b, tolerance);
        if kiln_matmul::library_missing(&device).is_some() && !products.iter().all(right) {
            continue;
        }
        let y = linear(x.clone(), weight.clone());
        assert_eq!(y.dtype(), dtype);
        let grads = (y.clone().cast(DType::F32) * slope.clone())
            .sum()
            .backward();
        let (x_64, w_64) = (
            Matrix::new(x.clone().cast(DType::F32)),
            Matrix::new(rounded),
        );
        let g_64 = Matrix::new(slope.cast(dtype).cast(DType::F32));
        let what = format!("{rows} rows of {d_in} to {d_out}, {dtype:?}, by columns: {by_columns}");
        let value = x_64.times(&w_64).distance(&vector(y.cast(DType::F32)));
        assert!(value < tolerance, "values of {what}: {value}");
        let d_x = x.grad(&grads).unwrap();
        assert_eq!(d_x.dtype(), dtype);
        let d_x = g_64
            .times(&w_64.transposed())
            .distance(&vector(d_x.cast(DType::F32)));
        assert!(d_x < tolerance, "gradient of x, {what}: {d_x}");
        let d_weight = stored.grad(&grads).unwrap();
        assert_eq!(d_weight.dtype(), DType::F32);
        let mut expected = x_64.transposed().times(&g_64);
        if by_columns {
            expected = expected.transposed();
        }
        let d_weight = expected.distance(&vector(d_weight));
        assert!(
            d_weight < tolerance,
            "gradient of the weight, {what}: {d_weight}"
        );
    }
}

#[test]
fn single_precision_agrees_with_double() {
    // TF32 rounds operands to 11 bits on CUDA devices.
    let tolerance = match std::env::var("KILN_TEST_BACKEND").as_deref() {
        Ok("cuda") => 2e-3,
        _ => 1e-5,
    };
    agrees(DType::F32, false, tolerance);
    agrees(DType::F32, true, tolerance);
}

#[test]
fn bfloat16_meets_single_precision_weights() {
    if !device().supports_dtype(DType::BF16) {
        eprintln!("skipped: no bfloat16 on this device");
        return;
    }
    agrees(DType::BF16, false, 1e-2);
    agrees(DType::BF16, true, 1e-2);
}

#[test]
fn leading_axes_are_rows() {
    let device = device();
    let x: Tensor<4> = Tensor::random([2, 3, 5, 16], Distribution::Default, &device);
    let weight = random([16, 24], &device);
    let y = linear(x.clone(), weight.clone());
    assert_eq!(y.dims(), [2, 3, 5, 24]);
    let flat = linear(x.reshape([30, 16]), weight);
    assert_eq!(vector(y), vector(flat));
}

#[test]
fn work_of_the_runtime_comes_before_and_after() {
    // Each product reads what the runtime has just written and is read by it at once; products without order between them and
    // the runtime's kernels would show here.
    let device = device();
    // Small weights: the map contracts, so that rounding does not grow from product to product.
    let weight = random([256, 256], &device) * 0.05;
    let mut x = random([512, 256], &device);
    let mut expected = x.clone();
    for _ in 0..50 {
        x = linear(x, weight.clone()).tanh() + 0.1;
        expected = expected.matmul(weight.clone()).tanh() + 0.1;
    }
    let distance = (x - expected).abs().max().into_scalar::<f32>();
    assert!(distance < 5e-3, "after 50 products in a row: {distance}");
}

#[test]
#[should_panic(expected = "rows of 8 numbers meet weights for 16")]
fn rows_of_the_wrong_length_are_named() {
    let device = device();
    linear(random([2, 8], &device), random([16, 4], &device));
}

/// Rows that several layers read, and something else, get the sum of all gradients, where they are computed and where they are given.
#[test]
fn gradients_of_several_readers_add_up() {
    let device = device().autodiff();
    for dtype in [DType::F32, DType::BF16] {
        if !device.supports_dtype(dtype) {
            eprintln!("skipped: no {dtype:?} on this device");
            continue;
        }
        let rows = random([6 * 5, 64], &device).cast(dtype).require_grad();
        let weights: Vec<_> = [48, 13, 64]
            .map(|width| random([64, width], &device))
            .into();
        let slopes: Vec<_> = [48, 13, 64]
            .map(|width| random([6 * 5, width], &device))
            .into();
        let right = |(weight, slope): (&Tensor<2>, &Tensor<2>)| {
            burn_multiplies(slope, &weight.clone().transpose(), 2e-3)
        };
        if kiln_matmul::library_missing(&device).is_some()
            && !weights.iter().zip(&slopes).all(right)
        {
            continue;
        }
        for given in [true, false] {
            let x = match given {
                true => rows.clone(),
                false => rows.clone().mul_scalar(0.5),
            };
            let outputs = weights.iter().zip(&slopes).map(|(weight, slope)| {
                let y = linear(x.clone().reshape([6, 5, 64]), weight.clone());
                let z = linear(x.clone(), weight.clone());
                (y.reshape(slope.dims()).cast(DType::F32) + z.cast(DType::F32)) * slope.clone()
            });
            let read = x.clone().cast(DType::F32).sum();
            let loss = outputs.fold(read, |sum, y| sum + y.sum());
            let grads = loss.backward();
            let found = rows.grad(&grads).unwrap().cast(DType::F32);
            let mut expected = vec![1.0; 6 * 5 * 64];
            for (weight, slope) in weights.iter().zip(&slopes) {
                let round = |x: &Tensor<2>| Matrix::new(x.clone().cast(dtype).cast(DType::F32));
                let part = round(slope).times(&round(weight).transposed());
                for (sum, part) in expected.iter_mut().zip(part.entries) {
                    *sum += 2.0 * part;
                }
            }
            let factor = if given { 1.0 } else { 0.5 };
            let entries = expected.iter().map(|x| x * factor).collect();
            let dims = [6 * 5, 64];
            let distance = Matrix { dims, entries }.distance(&vector(found));
            let tolerance = if dtype == DType::F32 { 2e-3 } else { 2e-2 };
            assert!(distance < tolerance, "{dtype:?}, given {given}: {distance}");
        }
    }
}
