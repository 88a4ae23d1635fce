//! Work on a device that is ordered once and repeated as a whole.
//!
//! To give a device a training step launch by launch takes the host some tens of microseconds for each, and a small model's step, or
//! one of many short operations, waits for it. [`record`] has the device write the launches of a piece of work down instead of making
//! them: a CUDA or HIP graph, or on wgpu a list of dispatches, which CubeCL keeps. [`Graph::replay`] makes them all again in one order.
//!
//! A graph holds addresses. What it reads has to lie where it lay, and is changed there ([`write_ids`], or an optimizer that works in
//! place); what it makes lies in the same place after each repetition, and the tensors that the recorded work returned show the newest.
//! The memory that a graph touches, apart from what it only reads, is its own until it is dropped.
//!
//! What cannot be recorded: reading numbers back, copying new ones to the device, and whatever the host decides from step to step, such
//! as the seed of a random mask. The work runs once before it is recorded, so that kernels are compiled and memory is found.

#[cfg(feature = "_cube")]
mod cube;

use burn::tensor::{Device, Int, Tensor};

/// Why work was not recorded, or cannot be repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// A device that keeps no graphs.
    #[error("{device} keeps no graphs: give it the work launch by launch")]
    NoGraphs {
        /// The device.
        device: String,
    },
    /// Something in the work cannot be recorded.
    #[error("the device did not record the work: {reason}")]
    Refused {
        /// What the runtime said.
        reason: String,
    },
    /// A tensor that a graph reads is somewhere else now.
    #[error("a tensor that the graph reads is no longer where it was: record the work again")]
    Moved,
    /// Numbers for a tensor that cannot take them.
    #[error("{found} numbers cannot be written into a tensor of {expected} of type {dtype}")]
    Ids {
        /// How many were given.
        found: usize,
        /// How many it holds.
        expected: usize,
        /// What it holds.
        dtype: String,
    },
}

/// Where tensors lie on their device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(Vec<(usize, u64)>);

impl Places {
    /// Adds where a tensor of floats lies; nothing for one of no CubeCL device.
    pub fn add<const D: usize>(&mut self, tensor: Tensor<D>) {
        #[cfg(feature = "_cube")]
        self.0.extend(cube::place(tensor));
        #[cfg(not(feature = "_cube"))]
        let _ = tensor;
    }
}

/// A piece of work that a device has written down.
#[derive(Debug)]
pub struct Graph {
    #[cfg(feature = "_cube")]
    recorded: cube::Recorded,
    reads: Places,
}

impl Graph {
    /// Does the work again, after all that the device was given before; does not wait for it. `reads` are the tensors that were named
    /// when it was recorded.
    ///
    /// # Errors
    /// [`GraphError::Moved`] if they lie elsewhere, with nothing done; [`GraphError::Refused`] if the device does not take it.
    pub fn replay(&self, reads: &Places) -> Result<(), GraphError> {
        if *reads != self.reads {
            return Err(GraphError::Moved);
        }
        #[cfg(feature = "_cube")]
        self.recorded.replay()?;
        Ok(())
    }
}

/// Whether to repeat work on a device as a graph has been found to pay: on CUDA so far. wgpu keeps lists of dispatches, which it gives to
/// the device one by one again.
pub fn pays(device: &Device) -> bool {
    #[cfg(feature = "cuda")]
    if let burn::backend::DispatchDevice::Cube(burn_cubecl::CubeDevice::Cuda(_)) =
        device.clone().inner().as_dispatch()
    {
        return true;
    }
    let _ = device;
    false
}

/// Does `work` once, and has the device write it down a second time. Returns what the second run made, the numbers of which are there
/// after the first [`Graph::replay`].
///
/// `reads` are tensors from before that the work reads and that others may replace: [`Graph::replay`] looks where they are. Whatever
/// else from before the work reads has to stay as long as the graph.
///
/// To be called on the device's own thread, where nothing of others comes between; `work` makes the same launches in both runs.
///
/// # Errors
/// [`GraphError::NoGraphs`], with nothing done, or [`GraphError::Refused`]; the device then goes on as before.
pub fn record<T>(
    device: &Device,
    reads: Places,
    work: impl FnMut() -> T,
) -> Result<(T, Graph), GraphError> {
    #[cfg(feature = "_cube")]
    if let burn::backend::DispatchDevice::Cube(device) = device.clone().inner().as_dispatch() {
        let (done, recorded) = cube::record(&device.client(), work)?;
        return Ok((done, Graph { recorded, reads }));
    }
    let _ = (reads, work);
    Err(no_graphs(device))
}

/// Puts ids where a tensor has its own, so that a graph that reads them reads the new ones.
///
/// # Errors
/// [`GraphError::NoGraphs`] for a tensor of no CubeCL device; [`GraphError::Ids`] unless the tensor is packed, holds `i32`, and as many.
pub fn write_ids<const D: usize>(tensor: Tensor<D, Int>, ids: &[i32]) -> Result<(), GraphError> {
    let device = tensor.device();
    #[cfg(feature = "_cube")]
    if let burn::backend::DispatchDevice::Cube(_) = device.clone().inner().as_dispatch() {
        return cube::write_ids(tensor, ids);
    }
    let _ = ids;
    Err(no_graphs(&device))
}

fn no_graphs(device: &Device) -> GraphError {
    GraphError::NoGraphs {
        device: format!("{device:?}"),
    }
}
