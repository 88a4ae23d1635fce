//! Times of linear layers with packed weights beside the same layer in f32, after checking that they agree.
//!
//! `cargo run --release -p kiln-quant --example bench_quant`
//!
//! `KILN_TEST_BACKEND` is `flex` when unset; any other backend needs the feature of its name.
//!
//! Every figure is a median over runs; a run is several calls. A layer of each encoding is called in turn with those of the others,
//! so that all see the same machine. GB/s are bytes of weights (codes, scales and zero points) by seconds, which bounds a layer of few
//! rows whose matrix is not in cache.
//!
//! Arguments replace the sizes: `1x4096x11008` is rows, d_input and d_output.
#![allow(clippy::print_stdout, reason = "a program that prints figures")]

use std::time::Instant;

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
use burn::tensor::DeviceKind::DefaultDevice;
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use kiln_fused::linear;
use kiln_quant::{
    Activations, Encoding, FloatType, PackedFormat, PackedMatrix, integer_linear, packed_linear,
    signs,
};

/// The allocator of the `kiln` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `[rows, d_input, d_output]`
const SIZES: [[usize; 3]; 13] = [
    [1, 128, 512],
    [1, 384, 1536],
    [1, 1024, 1024],
    [1, 1024, 4096],
    [1, 4096, 4096],
    [1, 4096, 11_008],
    [4, 384, 1536],
    [4, 4096, 4096],
    [8, 1024, 4096],
    [8, 4096, 4096],
    [16, 1024, 4096],
    [64, 1024, 4096],
    [256, 1024, 4096],
];
/// Name, levels, whether there are zero points, inputs of a group (0 is all), and what inputs are rounded to, if to anything.
type LayerKind = (&'static str, Encoding, bool, usize, Option<Activations>);

const KINDS: [LayerKind; 10] = [
    ("int8 column", Encoding::Int8, false, 0, None),
    ("int8 group 128", Encoding::Int8, false, 128, None),
    ("int4 group 64", Encoding::Int4, false, 64, None),
    ("int4 group 64 zero", Encoding::Int4, true, 64, None),
    ("int3 group 64", Encoding::Int3, false, 64, None),
    ("int2 group 64", Encoding::Int2, true, 64, None),
    ("ternary column", Encoding::Ternary, false, 0, None),
    ("sign column", Encoding::Sign, false, 0, None),
    (
        "int8 x int8",
        Encoding::Int8,
        false,
        0,
        Some(Activations::Dynamic),
    ),
    (
        "sign x sign",
        Encoding::Sign,
        false,
        0,
        Some(Activations::Signs),
    ),
];
/// Seconds of a run, and of all runs of a size.
const RUN: f64 = 0.01;
const PATIENCE: f64 = 3.0;
const MAX_RUNS: usize = 31;

fn device() -> Device {
    match std::env::var("KILN_TEST_BACKEND").as_deref() {
        #[cfg(feature = "flex")]
        Ok("flex") | Err(_) => Device::flex(),
        #[cfg(feature = "vulkan")]
        Ok("vulkan") => Device::vulkan(DefaultDevice),
        #[cfg(feature = "wgpu")]
        Ok("wgpu") => Device::wgpu(DefaultDevice),
        #[cfg(feature = "metal")]
        Ok("metal") => Device::metal(DefaultDevice),
        #[cfg(feature = "cuda")]
        Ok("cuda") => Device::cuda(0),
        #[cfg(feature = "rocm")]
        Ok("rocm") => Device::rocm(0),
        other => panic!("KILN_TEST_BACKEND={other:?} was not compiled in"),
    }
}

struct Layer {
    name: String,
    bytes: u64,
    call: Box<dyn Fn(Tensor<2>) -> Tensor<2>>,
    times: Vec<f64>,
}

/// Levels and scales without meaning.
fn matrix(format: PackedFormat) -> PackedMatrix {
    let range = format.encoding.levels(format.asymmetric);
    let count = *range.end() - *range.start() + 1;
    let level = |at: usize| match *range.start() + (at * 7919 % 257) as i16 % count {
        0 if format.encoding == Encoding::Sign => 1,
        level => level,
    };
    let levels: Vec<i16> = (0..format.entries()).map(level).collect();
    let shared = format.groups() * format.d_output;
    let zeros = vec![*range.end() as u8 / 2; shared];
    let zeros = format.asymmetric.then_some(&zeros[..]);
    PackedMatrix::pack(format, &levels, &vec![0.01; shared], zeros).expect("levels of the format")
}

fn layers(d_input: usize, d_output: usize, device: &Device) -> Vec<Layer> {
    let x = Tensor::<2>::random([1, d_input], Distribution::Uniform(-1.0, 1.0), device);
    let mut layers = Vec::new();
    for (name, encoding, asymmetric, group, activations) in KINDS {
        let format = PackedFormat {
            encoding,
            asymmetric,
            d_input,
            d_output,
            group: if group == 0 { d_input } else { group },
            scales: FloatType::F16,
        };
        let packed = matrix(format);
        let dense = TensorData::new(packed.dequantize(), [d_input, d_output]);
        let dense = Tensor::<2>::from_data(dense, device);
        let words: Tensor<1, Int> = packed.to_tensor(device);
        let layer = Layer {
            name: name.into(),
            bytes: packed.bytes(),
            call: Box::new(move |x| match activations {
                Some(activations) => integer_linear(x, words.clone(), format, activations),
                None => packed_linear(x, words.clone(), format),
            }),
            times: Vec::new(),
        };
        let expected = match activations {
            Some(Activations::Signs) => {
                let (signs, means) = signs(x.clone());
                linear(signs, dense.clone(), None) * means
            }
            _ => linear(x.clone(), dense.clone(), None),
        };
        let error = ((layer.call)(x.clone()) - expected.clone()).abs().max();
        let error = error.into_scalar::<f32>() / expected.abs().max().into_scalar::<f32>();
        // A GPU may multiply f32 in TF32, and inputs may be rounded to 8 bits.
        assert!(error < 1e-2, "{name}: {error}");
        if layers.is_empty() {
            layers.push(Layer {
                name: "f32".into(),
                bytes: 4 * format.entries() as u64,
                call: Box::new(move |x| linear(x, dense.clone(), None)),
                times: Vec::new(),
            });
        }
        layers.push(layer);
    }
    layers
}

/// Seconds of a call.
fn run(layer: &Layer, x: &Tensor<2>, calls: usize) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        let y = (layer.call)(x.clone());
        std::hint::black_box(y);
    }
    // A device that cannot be waited for has failed before.
    let _ = x.device().sync();
    start.elapsed().as_secs_f64() / calls as f64
}

fn measure(size: [usize; 3], device: &Device) {
    let [rows, d_input, d_output] = size;
    let x = Tensor::<2>::random([rows, d_input], Distribution::Uniform(-1.0, 1.0), device);
    let mut layers = layers(d_input, d_output, device);
    let once: Vec<f64> = layers.iter().map(|layer| run(layer, &x, 2)).collect();
    let calls = |once: f64| ((RUN / once) as usize).clamp(1, 1000);
    let start = Instant::now();
    for _ in 0..MAX_RUNS {
        for (layer, &once) in layers.iter_mut().zip(&once) {
            let time = run(layer, &x, calls(once));
            layer.times.push(time);
        }
        if start.elapsed().as_secs_f64() > PATIENCE {
            break;
        }
    }
    println!(
        "\n{rows} rows, {d_input} x {d_output}, {} runs",
        layers[0].times.len()
    );
    println!(
        "{:20} {:>10} {:>8} {:>8} {:>10}",
        "", "us", "GB/s", "Gop/s", "of f32"
    );
    let mut first = None;
    for layer in &mut layers {
        layer.times.sort_by(f64::total_cmp);
        let time = layer.times[layer.times.len() / 2];
        let dense = *first.get_or_insert(time);
        println!(
            "{:20} {:10.1} {:8.2} {:8.1} {:9.2}x",
            layer.name,
            time * 1e6,
            layer.bytes as f64 / time / 1e9,
            2.0 * (rows * d_input * d_output) as f64 / time / 1e9,
            dense / time
        );
    }
}

fn main() {
    let sizes: Vec<[usize; 3]> = std::env::args()
        .skip(1)
        .map(|size| {
            let numbers: Vec<usize> = size.split('x').filter_map(|n| n.parse().ok()).collect();
            numbers
                .try_into()
                .unwrap_or_else(|_| panic!("{size} is not rows x d_input x d_output"))
        })
        .collect();
    let device = device();
    for size in if sizes.is_empty() {
        SIZES.to_vec()
    } else {
        sizes
    } {
        measure(size, &device);
    }
}
