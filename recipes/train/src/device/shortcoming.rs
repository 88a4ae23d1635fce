//! What makes a device slower than it could be.

#[cfg(feature = "cuda")]
use super::Backend;
use super::OpenDevice;

impl OpenDevice {
    /// What makes this device slower than it could be, and what to do about it; none if nothing is known.
    pub fn shortcoming(&self) -> Option<String> {
        #[cfg(feature = "cuda")]
        if self.name.starts_with(Backend::Cuda.name()) {
            let missing = kiln_matmul::library_missing(&self.device)?;
            return Some(format!(
                "cuBLASLt does not multiply here, and products of linear layers take several times as long with Burn's kernels: {missing}"
            ));
        }
        None
    }
}
