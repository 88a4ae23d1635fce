//! Products by cuBLASLt, found at run time, on the buffers of CubeCL's CUDA runtime.
//!
//! # Order
//! The runtime enqueues its kernels on streams that it keeps to itself. The library's work goes to a stream of ours, between two
//! events of the context: it begins after everything that was enqueued on the device before, and what is enqueued afterwards
//! begins after it. Everything happens in one turn on the runtime's own thread for the device, so that nothing comes between.
//!
//! While the runtime records a graph, events of the context are refused: the work then goes to the recorded stream itself.

mod engine;
mod matrix;
mod plan;
mod recorded;

use burn::tensor::{DType, Device};
use burn_cubecl::{
    CubeDevice, cubecl::cuda::CudaRuntime, ops::numeric::empty_device_contiguous_dtype,
    tensor::CubeTensor,
};
use cubecl_runtime::runtime::Runtime;

use self::{matrix::Matrix, plan::Problem};
use crate::backend::Sides;

/// The server behind the clients of CUDA devices.
type Server = <CudaRuntime as Runtime>::Server;

/// The product of two matrices, if the library takes it.
///
/// # Panics
/// If the device or its driver fails.
pub(crate) fn product(
    a: &CubeTensor,
    b: &CubeTensor,
    sides: Sides,
    dtype: DType,
) -> Option<CubeTensor> {
    let call = Call::new(a, b, sides, dtype)?;
    let (client, device) = (call.a.tensor.client.clone(), call.a.tensor.device.clone());
    let shape = [call.a.rows(), call.b.cols()].into();
    let out = empty_device_contiguous_dtype(client, device, shape, dtype);
    call.enqueue(&out).then_some(out)
}

/// Adds the product of two matrices to `sum` where it lies, if the library takes it and nothing else holds the sum.
///
/// # Panics
/// If the shapes do not fit, or the device or its driver fails.
pub(crate) fn add_product(sum: &CubeTensor, a: &CubeTensor, b: &CubeTensor, sides: Sides) -> bool {
    if !sum.can_mut() || !sum.is_contiguous() {
        return false;
    }
    let Some(mut call) = Call::new(a, b, sides, sum.dtype) else {
        return false;
    };
    let shape = [call.a.rows(), call.b.cols()];
    assert_eq!(sum.meta.shape().dims(), shape, "a sum of other products");
    call.problem.add = true;
    call.enqueue(sum)
}

/// Two matrices that the library may have an algorithm for.
struct Call {
    a: Matrix,
    b: Matrix,
    problem: Problem,
}

impl Call {
    fn new(a: &CubeTensor, b: &CubeTensor, sides: Sides, dtype: DType) -> Option<Self> {
        let CubeDevice::Cuda(_) = a.device else {
            return None;
        };
        if !engine::library_found() {
            return None;
        }
        let a = Matrix::new(a.clone(), sides == Sides::LeftTransposed);
        let b = Matrix::new(b.clone(), sides == Sides::RightTransposed);
        let problem = Problem::new(&a, &b, dtype)?;
        Some(Self { a, b, problem })
    }

    /// Multiplies into `out`, which is packed and of the product's shape and type; false if the library has no algorithm.
    fn enqueue(self, out: &CubeTensor) -> bool {
        let Self { a, b, problem } = self;
        let client = out.client.clone();
        let [a, b, d] = [a.tensor.handle, b.tensor.handle, out.handle.clone()];
        let issue = || {
            let done = client.exclusive(|| {
                let pointers = [a, b, d].map(|handle| client.get_resource::<Server>(handle));
                let [a, b, d] =
                    pointers.map(|held| held.expect("buffers of this device, which are written"));
                let at = [&a, &b, &d].map(|held| held.resource().ptr);
                let device = client.service_id().device;
                let recorded = recorded::stream(&client);
                // SAFETY: the buffers are of this device and hold what the problem says, `held` keeps them in place until the work is
                // in the queue of the device, and whoever gets their memory afterwards enqueues behind it.
                unsafe { engine::enqueue(device, problem, at, recorded) }
            });
            done.expect("the device's own thread").then_some(())
        };
        // The client's stream waits for the library's, which waits for it: events in it enclose the product.
        kiln_profile::enclosed(&client, || problem.to_string(), issue).is_some()
    }
}

/// Why the library does not multiply on a device; none if it does.
pub(crate) fn missing(device: &Device) -> Option<String> {
    use burn::backend::DispatchDevice;
    match device.clone().inner().as_dispatch() {
        DispatchDevice::Cube(device @ CubeDevice::Cuda(_)) if engine::library_found() => {
            let client = device.client();
            let id = client.service_id().device;
            // A buffer makes the context current on the device's thread.
            let probe = client.empty(16);
            let found = client.exclusive(|| {
                let held = client.get_resource::<Server>(probe);
                held.map_err(|error| error.to_string())?;
                engine::check(id)
            });
            found.map_err(|error| error.to_string()).and_then(|x| x).err()
        }
        DispatchDevice::Cube(CubeDevice::Cuda(_)) => Some(
            "libcublasLt.so was not found: install CUDA's libraries, or name their folder in LD_LIBRARY_PATH".into(),
        ),
        _ => Some("it is not a CUDA device".into()),
    }
}
