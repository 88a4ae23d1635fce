//! NVIDIA's library of collective operations, which CubeCL loads when the first one is begun.

/// Whether NCCL can be loaded, which adds up between devices of CUDA.
pub fn has_nccl() -> bool {
    #[cfg(feature = "cuda")]
    // SAFETY: loading it runs its initialisers, as the first collective operation would.
    return unsafe { cudarc::nccl::sys::is_culib_present() };
    #[cfg(not(feature = "cuda"))]
    false
}
