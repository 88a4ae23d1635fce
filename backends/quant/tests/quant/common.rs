//! Devices, and matrices to try things on.

use burn::tensor::Device;
use kiln_quant::{Encoding, FloatType, PackedFormat, PackedMatrix};

/// The device under test, without autodiff.
pub fn device() -> Device {
    match backend().as_str() {
        #[cfg(feature = "flex")]
        "flex" => Device::flex(),
        #[cfg(feature = "vulkan")]
        "vulkan" => Device::vulkan(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "wgpu")]
        "wgpu" => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "metal")]
        "metal" => Device::metal(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "cuda")]
        "cuda" => Device::cuda(0),
        #[cfg(feature = "rocm")]
        "rocm" => Device::rocm(0),
        other => panic!("KILN_TEST_BACKEND={other} was not compiled in"),
    }
}

pub fn backend() -> String {
    std::env::var("KILN_TEST_BACKEND").unwrap_or_else(|_| "flex".into())
}

/// Whether the tests run on Flex, where large problems are quick.
pub fn on_flex() -> bool {
    backend() == "flex"
}

/// Numbers between -1 and 1 that follow from a seed (SplitMix64).
pub fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let number = |i: u64| {
        let mut z = (seed << 32 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count as u64).map(number).collect()
}

/// A matrix of any levels of the format.
pub fn matrix(format: PackedFormat, seed: u64) -> PackedMatrix {
    let levels = format.encoding.levels(format.asymmetric);
    let (low, high) = (*levels.start(), *levels.end());
    let spread = f32::from(high - low + 1);
    let level = |x: f32| match low + ((x + 1.0) / 2.0 * spread) as i16 {
        0 if format.encoding == Encoding::Sign => 1,
        level => level.min(high),
    };
    let shared = format.groups() * format.d_output;
    let levels: Vec<i16> = numbers(seed, format.entries())
        .into_iter()
        .map(level)
        .collect();
    let scales: Vec<f32> = numbers(seed + 1, shared)
        .iter()
        .map(|x| 0.02 + 0.01 * x)
        .collect();
    let most = f32::from(format.encoding.levels(true).end() + 1);
    let zero = |x: f32| ((x + 1.0) / 2.0 * most) as u8;
    let zeros: Vec<u8> = numbers(seed + 2, shared).into_iter().map(zero).collect();
    let zeros = format.asymmetric.then_some(&zeros[..]);
    PackedMatrix::pack(format, &levels, &scales, zeros).expect("levels of the format")
}

/// Every encoding, with and without zero points, with both types of scales.
pub fn kinds() -> Vec<(Encoding, bool, FloatType)> {
    let mut kinds = Vec::new();
    for encoding in Encoding::ALL {
        for scales in [FloatType::F16, FloatType::F32] {
            kinds.push((encoding, false, scales));
            if encoding.has_zero_points() {
                kinds.push((encoding, true, scales));
            }
        }
    }
    kinds
}
