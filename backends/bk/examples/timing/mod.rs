//! Times of work on a device, given call by call and repeated as a graph.
//!
//! A recorded figure is what the work costs inside a larger recording, such as a training step's: the host gives one order for many
//! calls, so that its launches do not count.

use std::time::Instant;

#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
use burn::tensor::DeviceKind::DefaultDevice;
use burn::tensor::{DType, Device, Tensor};
use kiln_graph::{Graph, GraphError, Places, record};

/// What the `kiln` binary allocates with: the system's hands large tensors back to the kernel, which clears every page anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seconds of one repetition of a graph, at the least: some hundred times what the host needs to order it.
const LONG_GRAPH: f64 = 4e-3;
/// Calls of a graph, at most.
const MAX_RECORDED: usize = 256;
/// Seconds of a run, if a single call is not longer.
const LONG_RUN: f64 = 0.04;
/// Calls between two synchronisations, at most.
const MAX_CALLS: usize = 64;
const MAX_RUNS: usize = 51;
/// Of the largest value: how far a repetition may be from plain calls, where timing decides between values a rounding apart.
const SAME: f32 = 1e-5;
/// The same in 16 bits, where such a rounding may move a number to the next one.
const SAME_IN_16_BITS: f32 = 2e-2;

/// The name of the backend that `KILN_TEST_BACKEND` asks for, `flex` when unset.
pub fn backend() -> String {
    std::env::var("KILN_TEST_BACKEND").unwrap_or_else(|_| "flex".into())
}

pub fn on_flex() -> bool {
    backend() == "flex"
}

/// The device of [`backend`], without autodiff.
pub fn device() -> Device {
    match backend().as_str() {
        #[cfg(feature = "flex")]
        "flex" => Device::flex(),
        #[cfg(feature = "wgpu")]
        "wgpu" => Device::wgpu(DefaultDevice),
        #[cfg(feature = "vulkan")]
        "vulkan" => Device::vulkan(DefaultDevice),
        #[cfg(feature = "metal")]
        "metal" => Device::metal(DefaultDevice),
        #[cfg(feature = "cuda")]
        "cuda" => Device::cuda(0),
        #[cfg(feature = "rocm")]
        "rocm" => Device::rocm(0),
        other => panic!("KILN_TEST_BACKEND={other} was not compiled in"),
    }
}

/// Median seconds of a call, of runs of several calls between two synchronisations, for about `patience` seconds.
pub fn plain(device: &Device, patience: f64, call: impl Fn()) -> f64 {
    let run = |calls: usize| {
        let start = Instant::now();
        (0..calls).for_each(|_| call());
        device.sync().unwrap();
        start.elapsed().as_secs_f64() / calls as f64
    };
    device.sync().unwrap();
    run(1); // compiles and tunes what has not been
    let start = Instant::now();
    let calls = ((LONG_RUN / run(1)) as usize).clamp(1, MAX_CALLS);
    let mut times = vec![run(calls)]; // warms up, and counts only if nothing else does
    while times.len() <= MAX_RUNS && start.elapsed().as_secs_f64() < patience {
        times.push(run(calls));
    }
    let counted = if times.len() > 1 {
        &mut times[1..]
    } else {
        &mut times
    };
    counted.sort_by(f64::total_cmp);
    counted[counted.len() / 2]
}

/// As many calls in one graph as make it long, and what the last of them returned. Compiled and tuned by plain calls before.
pub struct Recorded<const D: usize> {
    graph: Graph,
    reads: Places,
    calls: usize,
    result: Tensor<D>,
}

impl<const D: usize> Recorded<D> {
    /// None on a device that keeps no graphs, or not of these calls, which is then said.
    pub fn new(device: &Device, reads: &Places, call: impl Fn() -> Tensor<D>) -> Option<Self> {
        let of = |calls: usize| {
            let work = || (0..calls).fold(None, |_, _| Some(call()));
            match record(device, reads.clone(), work) {
                Ok((result, graph)) => Some(Self {
                    graph,
                    reads: reads.clone(),
                    calls,
                    result: result.expect("a graph has a call at least"),
                }),
                Err(GraphError::NoGraphs { .. }) => None,
                Err(error) => {
                    println!("not recorded: {error}");
                    None
                }
            }
        };
        let one = of(1)?;
        let seconds = plain(device, 0.0, || one.replay());
        match (LONG_GRAPH / seconds).ceil() as usize {
            0 | 1 => Some(one),
            calls => {
                drop(one);
                of(calls.min(MAX_RECORDED))
            }
        }
    }

    fn replay(&self) {
        self.graph.replay(&self.reads).unwrap();
    }

    /// Median seconds of a call.
    pub fn time(&self, device: &Device, patience: f64) -> f64 {
        plain(device, patience, || self.replay()) / self.calls as f64
    }

    /// Repeats the calls on what lies in their inputs now, and compares the last with a plain one. `before` is what they returned for
    /// other inputs, from which the result has to be far: a repetition that does nothing would pass otherwise.
    /// `now` is where they lie.
    pub fn assert_fresh(&self, now: &Places, before: Tensor<D>, plain: Tensor<D>) {
        self.graph.replay(now).unwrap();
        let float = |tensor: Tensor<D>| tensor.cast(DType::F32);
        let tolerance = match plain.dtype() {
            DType::F32 => SAME,
            _ => SAME_IN_16_BITS,
        };
        let largest = |tensor: Tensor<D>| tensor.abs().max().into_scalar::<f32>();
        let [found, before, plain] = [self.result.clone(), before, plain].map(float);
        let scale = largest(plain.clone());
        let error = largest(found.clone() - plain) / scale;
        assert!(error <= tolerance, "a repetition is off by {error:.1e}");
        let moved = largest(found - before) / scale;
        assert!(
            moved > 0.1,
            "other inputs moved a repetition by {moved:.1e}"
        );
    }
}
