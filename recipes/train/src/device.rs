//! From a backend's name to a device that answers.

use std::panic::{self, AssertUnwindSafe};

use burn::tensor::{Device, Tensor};
use thiserror::Error;

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
#[derive(Debug, Error, PartialEq, Eq)]
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
    /// panic in the middle of a run.
    ///
    /// # Errors
    /// [`DeviceError::NotCompiled`] or [`DeviceError::Absent`].
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
        // Drivers answer absence with a panic; the hook is silenced so that the user reads our error alone.
        let hook = panic::take_hook();
        panic::set_hook(Box::new(|_| {}));
        let probed = panic::catch_unwind(AssertUnwindSafe(|| {
            let device = self.device(index);
            let answer = (Tensor::<1>::ones([2], &device) + 1.0).sum().into_data();
            answer.iter::<f32>().eq([4.0]).then_some(device)
        }));
        panic::set_hook(hook);
        let absent = |reason: String| DeviceError::Absent {
            name: self.name(),
            index,
            reason,
        };
        match probed {
            Ok(Some(device)) => Ok(OpenDevice {
                device,
                name: match index {
                    0 => self.name().into(),
                    index => format!("{}:{index}", self.name()),
                },
            }),
            Ok(None) => Err(absent("it adds wrongly".into())),
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
}
