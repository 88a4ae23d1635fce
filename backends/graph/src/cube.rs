//! Graphs of CubeCL's runtimes.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::backend::Cube;
use burn::tensor::{DType, Int, Tensor};
use burn_cubecl::cubecl::{bytes::Bytes, client, prelude::Client};

use crate::GraphError;

/// A graph that the runtime keeps.
#[derive(Debug)]
pub(crate) struct Recorded(client::Graph);

impl Recorded {
    pub fn replay(&self) -> Result<(), GraphError> {
        // SAFETY: pages that the recorded launches touched are the graph's as long as it lives, so that nobody else is given their
        // memory, and what they read lies where it lay, as the caller of `Graph::replay` has shown. Orders are given in turn, by the
        // thread that recorded.
        unsafe { self.0.replay() }.map_err(refused)
    }
}

pub(crate) fn record<T>(
    client: &Client,
    mut work: impl FnMut() -> T,
) -> Result<(T, Recorded), GraphError> {
    client.graph_prepare().map_err(refused)?;
    let warm = catch_unwind(AssertUnwindSafe(|| drop(work())));
    if let Err(payload) = warm {
        let _ = client.stop_capture();
        return Err(panicked(&*payload));
    }
    if let Err(error) = client.start_capture() {
        let _ = client.stop_capture();
        return Err(refused(error));
    }
    // A device that records has to be stopped, whatever becomes of the work.
    let done = catch_unwind(AssertUnwindSafe(work));
    let graph = client.stop_capture();
    match (done, graph) {
        (Ok(done), Ok(graph)) => Ok((done, Recorded(graph))),
        (Err(payload), _) => Err(panicked(&*payload)),
        (Ok(_), Err(error)) => Err(refused(error)),
    }
}

fn refused(error: impl std::fmt::Display) -> GraphError {
    GraphError::Refused {
        reason: error.to_string(),
    }
}

fn panicked(payload: &(dyn Any + Send)) -> GraphError {
    let words = payload.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| payload.downcast_ref::<&str>().copied());
    refused(words.unwrap_or("it panicked"))
}

/// The buffer of a tensor, and where in it the tensor begins.
pub(crate) fn place<const D: usize>(tensor: Tensor<D>) -> Option<(usize, u64)> {
    let tensor = tensor.try_into_primitive::<Cube>().ok()?;
    let handle = &tensor.handle;
    let id = handle.memory.descriptor().id.value;
    Some((id, handle.offset_start.unwrap_or(0)))
}

pub(crate) fn write_ids<const D: usize>(
    tensor: Tensor<D, Int>,
    ids: &[i32],
) -> Result<(), GraphError> {
    let expected = tensor.shape().num_elements();
    let dtype = tensor.dtype();
    let unfit = || GraphError::Ids {
        found: ids.len(),
        expected,
        dtype: format!("{dtype:?}"),
    };
    let tensor = tensor.try_into_primitive::<Cube>().map_err(|_| unfit())?;
    if dtype != DType::I32 || expected != ids.len() || !tensor.is_contiguous() {
        return Err(unfit());
    }
    let bytes = Bytes::from_elems(ids.to_vec());
    tensor.client.write(&tensor.handle, bytes);
    Ok(())
}
