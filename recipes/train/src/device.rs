//! From a backend's name to a device that answers.

#[cfg(feature = "_cube")]
mod kept;
mod nccl;
mod precision;
mod shortcoming;

use std::panic::{self, AssertUnwindSafe};

use burn::tensor::{Device, Tensor, TensorData};
use thiserror::Error;

pub use nccl::has_nccl;
pub use precision::check_precision;

/// A backend of Burn, chosen at run time among those compiled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Pure Rust on the CPU.
    Flex,
    /// Any graphics API that wgpu finds.
    Wgpu,
    /// Vulkan.
    Vulkan,
    /// The browser's WebGPU.
    Webgpu,
    /// Metal.
    Metal,
    /// CUDA.
    Cuda,
    /// ROCm.
    Rocm,
}

/// A device that answered.
#[derive(Debug)]
pub struct OpenDevice {
    /// The device, without autodiff.
    pub device: Device,
    /// How reports call it: "flex", "cuda:1".
    pub name: String,
}

/// The backend cannot be had.
#[derive(Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum DeviceError {
    /// No backend of this name.
    #[error(
        "unknown backend `{name}`; the backends are flex, wgpu, vulkan, webgpu, metal, cuda and rocm"
    )]
    Unknown {
        /// What was given.
        name: String,
    },
    /// The binary was built without it.
    #[error(
        "backend `{name}` is not compiled into this binary, which has: {compiled}; run through `cargo xtask ... --backend {name}`, which builds what it needs, or build with `--features {name}`"
    )]
    NotCompiled {
        /// What was asked for.
        name: &'static str,
        /// What there is.
        compiled: String,
    },
    /// Compiled in, but no device answers.
    #[error(
        "backend `{name}` has no device {index} on this machine ({reason}); `cargo xtask doctor` says what is missing, and `--backend flex` runs on any CPU"
    )]
    Absent {
        /// What was asked for.
        name: &'static str,
        /// Device number.
        index: usize,
        /// What the driver said.
        reason: String,
    },
    /// The device answers, but no result of it can be trusted.
    #[error(
        "backend `{name}` multiplies matrices wrongly on device {index}: entries of a [{ROWS}, {INNER}] x [{INNER}, {COLUMNS}] product of whole numbers, which is exact in every precision, are off by up to {error}; update its driver, or use another device or `--backend flex`"
    )]
    WrongProduct {
        /// What was asked for.
        name: &'static str,
        /// Device number.
        index: usize,
        /// The largest difference of an entry; infinite for one that is no number or missing.
        error: f32,
    },
    /// Several devices of CUDA have nothing to add up with.
    #[error(
        "several devices of `cuda` add their gradients up through NCCL, and there is no libnccl.so to load: install the package `libnccl-dev` of NVIDIA or the distribution, or put a link of this name to the libnccl.so.2 of `pip install nvidia-nccl-cu13` into a folder of LD_LIBRARY_PATH; or train on one device"
    )]
    NoNccl,
    /// The device has no arithmetic of this type.
    #[error(
        "the device does not compute in {precision}, but in {others}: set `precision` to one of these, or give it with --precision where a finished run is used"
    )]
    Precision {
        /// What was asked for.
        precision: &'static str,
        /// What it has.
        others: String,
    },
}

impl std::str::FromStr for Backend {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        Backend::ALL
            .into_iter()
            .find(|backend| backend.name() == name)
            .ok_or_else(|| DeviceError::Unknown { name: name.into() })
    }
}

impl Backend {
    /// Every backend Kiln knows.
    pub const ALL: [Backend; 7] = [
        Backend::Flex,
        Backend::Wgpu,
        Backend::Vulkan,
        Backend::Webgpu,
        Backend::Metal,
        Backend::Cuda,
        Backend::Rocm,
    ];

    /// The name that `--backend` takes; also the Cargo feature's.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Flex => "flex",
            Backend::Wgpu => "wgpu",
            Backend::Vulkan => "vulkan",
            Backend::Webgpu => "webgpu",
            Backend::Metal => "metal",
            Backend::Cuda => "cuda",
            Backend::Rocm => "rocm",
        }
    }

    /// Whether this binary has it.
    pub fn is_compiled(self) -> bool {
        match self {
            Backend::Flex => cfg!(feature = "flex"),
            Backend::Wgpu => cfg!(feature = "wgpu"),
            Backend::Vulkan => cfg!(feature = "vulkan"),
            Backend::Webgpu => cfg!(feature = "webgpu"),
            Backend::Metal => cfg!(feature = "metal"),
            Backend::Cuda => cfg!(feature = "cuda"),
            Backend::Rocm => cfg!(feature = "rocm"),
        }
    }

    /// Opens device `index` and computes something small on it, so that a missing driver is an error here and not a
    /// panic in the middle of a run, and a driver that multiplies matrices wrongly is not found out by the loss.
    ///
    /// # Errors
    /// [`DeviceError::NotCompiled`], [`DeviceError::Absent`] or [`DeviceError::WrongProduct`].
    pub fn open(self, index: usize) -> Result<OpenDevice, DeviceError> {
        if !self.is_compiled() {
            let compiled: Vec<_> = Backend::ALL
                .into_iter()
                .filter(|backend| backend.is_compiled())
                .map(Backend::name)
                .collect();
            return Err(DeviceError::NotCompiled {
                name: self.name(),
                compiled: compiled.join(", "),
            });
        }
        #[cfg(feature = "_cube")]
        kept::keep_kernels();
        // Drivers answer absence with a panic; the hook is silenced so that the user reads our error alone.
        let hook = panic::take_hook();
        panic::set_hook(Box::new(|_| {}));
        let probed = panic::catch_unwind(AssertUnwindSafe(|| {
            let device = self.device(index);
            let answer = (Tensor::<1>::ones([2], &device) + 1.0).sum().into_data();
            let error = answer
                .iter::<f32>()
                .eq([4.0])
                .then(|| product_error(&device));
            (device, error)
        }));
        panic::set_hook(hook);
        let absent = |reason: String| DeviceError::Absent {
            name: self.name(),
            index,
            reason,
        };
        match probed {
            Ok((device, Some(0.0))) => Ok(OpenDevice {
                device,
                name: match index {
                    0 => self.name().into(),
                    index => format!("{}:{index}", self.name()),
                },
            }),
            Ok((_, Some(error))) => Err(DeviceError::WrongProduct {
                name: self.name(),
                index,
                error,
            }),
            Ok((_, None)) => Err(absent("it adds wrongly".into())),
            Err(payload) => Err(absent(first_line(payload.as_ref()))),
        }
    }

    /// The device by number: 0 is the best one the API finds, as every runtime orders them.
    #[allow(
        unused_variables,
        reason = "the CPU backend has one device; the others are behind features"
    )]
    fn device(self, index: usize) -> Device {
        #[cfg(any(
            feature = "wgpu",
            feature = "vulkan",
            feature = "metal",
            feature = "webgpu"
        ))]
        let kind = match index {
            0 => burn::tensor::DeviceKind::DefaultDevice,
            other => burn::tensor::DeviceKind::DiscreteGpu(other),
        };
        match self {
            #[cfg(feature = "flex")]
            Backend::Flex if index == 0 => Device::flex(),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu => Device::wgpu(kind),
            #[cfg(feature = "vulkan")]
            Backend::Vulkan => Device::vulkan(kind),
            #[cfg(feature = "webgpu")]
            Backend::Webgpu => Device::webgpu(kind),
            #[cfg(feature = "metal")]
            Backend::Metal => Device::metal(kind),
            #[cfg(feature = "cuda")]
            Backend::Cuda => Device::cuda(index),
            #[cfg(feature = "rocm")]
            Backend::Rocm => Device::rocm(index),
            _ => panic!("there is no such device"),
        }
    }
}

/// The product that a device must get right: larger than one tile of a kernel, and not a multiple of one in two axes.
const ROWS: usize = 64;
const INNER: usize = 96;
const COLUMNS: usize = 80;

/// Whole numbers from -3 to 3 without a pattern that wrong indexing would leave as it is. Products and sums of them stay
/// below 2048, so every format and every order of adding up gives the same.
fn whole_numbers(len: usize, seed: u32) -> Vec<f32> {
    let scatter = |i: u32| (i ^ seed).wrapping_mul(0x9E37_79B1) >> 16;
    (0..len as u32)
        .map(|i| (scatter(i) % 7) as f32 - 3.0)
        .collect()
}

/// The largest error of an entry of a small matrix product on the device.
fn product_error(device: &Device) -> f32 {
    let (left, right) = (
        whole_numbers(ROWS * INNER, 1),
        whole_numbers(INNER * COLUMNS, 2),
    );
    let upload = |values: &[f32], shape: [usize; 2]| {
        Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), device)
    };
    let product = upload(&left, [ROWS, INNER]).matmul(upload(&right, [INNER, COLUMNS]));
    let found: Vec<f32> = product.into_data().iter::<f32>().collect();
    largest_difference(&found, &host_product(&left, &right))
}

fn host_product(left: &[f32], right: &[f32]) -> Vec<f32> {
    let entry = |row: usize, column: usize| -> f32 {
        (0..INNER)
            .map(|k| left[row * INNER + k] * right[k * COLUMNS + column])
            .sum()
    };
    (0..ROWS * COLUMNS)
        .map(|i| entry(i / COLUMNS, i % COLUMNS))
        .collect()
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    if found.len() != expected.len() {
        return f32::INFINITY;
    }
    let differences = found.iter().zip(expected).map(|(x, y)| (x - y).abs());
    // `max` alone would pass over what is no number.
    differences.fold(0.0, |worst, d| {
        if d.is_nan() {
            f32::INFINITY
        } else {
            worst.max(d)
        }
    })
}

fn first_line(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("the driver gave no reason");
    text.lines().next().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_are_listed() {
        for backend in Backend::ALL {
            assert_eq!(backend.name().parse(), Ok(backend));
        }
        let error = "cdua".parse::<Backend>().unwrap_err().to_string();
        assert!(
            error.contains("`cdua`") && error.contains("vulkan"),
            "{error}"
        );
    }

    #[cfg(not(feature = "rocm"))]
    #[test]
    fn a_backend_that_is_not_there_says_how_to_get_it() {
        let error = Backend::Rocm.open(0).unwrap_err().to_string();
        assert!(
            error.contains("`rocm` is not compiled") && error.contains("--features rocm"),
            "{error}"
        );
    }

    #[cfg(feature = "flex")]
    #[test]
    fn the_cpu_has_one_device() {
        assert!(Backend::Flex.open(0).is_ok());
        let error = Backend::Flex.open(3).unwrap_err().to_string();
        assert!(error.contains("no device 3"), "{error}");
    }

    #[cfg(feature = "flex")]
    #[test]
    fn a_right_product_is_exact() {
        assert_eq!(product_error(&Device::flex()), 0.0);
    }

    #[test]
    fn a_wrong_product_is_measured() {
        let (left, right) = (
            whole_numbers(ROWS * INNER, 1),
            whole_numbers(INNER * COLUMNS, 2),
        );
        let expected = host_product(&left, &right);
        assert!(
            expected
                .iter()
                .all(|x| x.abs() < 2048.0 && x.fract() == 0.0)
        );
        for (at, value, error) in [
            (0, 1.0, 1.0),
            (5119, -2.5, 2.5),
            (77, f32::NAN, f32::INFINITY),
        ] {
            let mut found = expected.clone();
            found[at] += value;
            assert_eq!(largest_difference(&found, &expected), error);
        }
        assert_eq!(largest_difference(&expected[1..], &expected), f32::INFINITY);
        // The errors of a kernel: rows exchanged, the last part of a sum left out.
        let mut exchanged = expected.clone();
        exchanged.rotate_left(COLUMNS);
        assert!(largest_difference(&exchanged, &expected) >= 1.0);
        let mut short = right;
        short[(INNER - 1) * COLUMNS..].fill(0.0);
        assert!(largest_difference(&host_product(&left, &short), &expected) >= 1.0);
    }

    #[test]
    fn a_wrong_product_names_device_and_error() {
        let error = DeviceError::WrongProduct {
            name: "vulkan",
            index: 1,
            error: 12.5,
        };
        assert_eq!(
            error.to_string(),
            "backend `vulkan` multiplies matrices wrongly on device 1: entries of a [64, 96] x [96, 80] product of whole numbers, which is exact in every precision, are off by up to 12.5; update its driver, or use another device or `--backend flex`"
        );
    }

    /// xtask imports nothing of the workspace, so it names the backends once more.
    #[test]
    fn xtask_knows_the_same_backends() {
        let source = include_str!("../../../xtask/src/backend.rs");
        let start = source.find("pub fn name(self)").expect("fn name");
        let named: Vec<_> = source[start..]
            .lines()
            .skip(2) // the function and its match
            .map_while(|line| line.trim().strip_prefix("Backend::")?.split_once(" => "))
            .collect();
        let expected = Backend::ALL.map(|b| (format!("{b:?}"), format!("{:?},", b.name())));
        let expected: Vec<_> = expected
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        assert_eq!(named, expected);
    }
}
