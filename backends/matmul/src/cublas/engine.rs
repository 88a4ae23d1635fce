//! The library's handle, stream and plans on each device.

use std::{
    collections::HashMap,
    mem::MaybeUninit,
    sync::{Mutex, OnceLock, PoisonError},
};

use burn_cubecl::cubecl::device::DeviceId;
use cudarc::{
    cublaslt::{result, sys as lt},
    driver::{
        result::{event, free_sync, malloc_sync, stream},
        sys::{self, CUevent_flags, CUevent_wait_flags},
    },
};

use super::plan::{Plan, Problem, WORKSPACE};

/// Calls of a trial.
const TRIALS: usize = 5;
/// How much longer an algorithm may take and still be as fast as another.
const AS_FAST: f32 = 1.01;

/// Whether the library can be loaded.
pub(super) fn library_found() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    // SAFETY: loading NVIDIA's library runs no code but its own initialisers.
    *FOUND.get_or_init(|| unsafe { lt::is_culib_present() })
}

struct Engine {
    handle: lt::cublasLtHandle_t,
    context: sys::CUcontext,
    stream: sys::CUstream,
    /// What was enqueued before, and our work.
    events: [sys::CUevent; 2],
    workspace: u64,
    /// None where the library has no algorithm.
    plans: HashMap<Problem, Option<Plan>>,
}

// SAFETY: handles of the driver and of the library belong to no thread; the mutex lets one at a time use them.
unsafe impl Send for Engine {}

type Engines = HashMap<DeviceId, Result<Engine, String>>;

/// Calls with the engine of the device whose context is current.
fn with_engine<T>(device: DeviceId, call: impl FnOnce(&mut Engine) -> T) -> Result<T, String> {
    static ENGINES: OnceLock<Mutex<Engines>> = OnceLock::new();
    let mut engines = ENGINES
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let engine = engines.entry(device).or_insert_with(|| {
        // SAFETY: the caller's context is current and lives as long as the process.
        unsafe { Engine::new() }
    });
    match engine {
        Ok(engine) => Ok(call(engine)),
        Err(reason) => Err(reason.clone()),
    }
}

/// Why there is no engine on the device whose context is current.
pub(super) fn check(device: DeviceId) -> Result<(), String> {
    with_engine(device, |_| ())
}

/// Enqueues `d = a b` behind everything that was enqueued on the device, or on the stream that is recorded; false if the library has no
/// algorithm for it.
///
/// # Safety
/// The context of the device must be current, and the addresses those of matrices as the problem says, whose memory is not
/// written by work that does not wait for the device's queue.
pub(super) unsafe fn enqueue(
    device: DeviceId,
    problem: Problem,
    at: [u64; 3],
    recorded: Option<sys::CUstream>,
) -> bool {
    with_engine(device, |engine| {
        let handle = engine.handle;
        let known = engine.plans.get(&problem).copied();
        let plan = known.unwrap_or_else(|| {
            // SAFETY: as the caller promises.
            let chosen = unsafe { engine.choose(&problem, at, recorded.is_some()) };
            engine.plans.insert(problem, chosen);
            chosen
        });
        let Some(plan) = plan else {
            return false;
        };
        let [before, after] = engine.events;
        // SAFETY: events, stream and context are live, the addresses are as the caller promises.
        let done = unsafe {
            let on = |stream: sys::CUstream| {
                plan.enqueue(handle, at, engine.workspace, stream.cast())
                    .map_err(|error| error.to_string())
            };
            match recorded {
                Some(stream) => on(stream),
                None => between(engine.context, engine.stream, before, after, || {
                    on(engine.stream)
                }),
            }
        };
        if let Err(reason) = done {
            panic!("cuBLASLt failed on {problem:?}: {reason}");
        }
        true
    })
    .unwrap_or(false)
}

/// Calls between two events of the context.
unsafe fn between(
    context: sys::CUcontext,
    own: sys::CUstream,
    before: sys::CUevent,
    after: sys::CUevent,
    enqueue: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let named = |what: &'static str| move |error| format!("{what}: {error}");
    // SAFETY: as the caller promises.
    unsafe {
        sys::cuCtxRecordEvent(context, before)
            .result()
            .map_err(named("cuCtxRecordEvent"))?;
        stream::wait_event(own, before, CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT)
            .map_err(named("cuStreamWaitEvent"))?;
        enqueue()?;
        event::record(after, own).map_err(named("cuEventRecord"))?;
        sys::cuCtxWaitEvent(context, after)
            .result()
            .map_err(named("cuCtxWaitEvent"))
    }
}

impl Engine {
    /// The fastest of the algorithms that the library proposes; the first of them where none can be tried, as on a device that records.
    unsafe fn choose(&self, problem: &Problem, at: [u64; 3], recording: bool) -> Option<Plan> {
        let plans = Plan::candidates(self.handle, problem).ok()?;
        let first = *plans.first()?;
        if recording || plans.len() == 1 {
            return Some(first);
        }
        // SAFETY: as the caller promises.
        let times = unsafe { self.times(&plans, problem, at) }.unwrap_or_default();
        let least = times.iter().copied().fold(f32::INFINITY, f32::min);
        // What is as fast within the jitter of a trial is left to the library's judgement.
        let chosen = times.iter().position(|&time| time <= least * AS_FAST);
        Some(chosen.map_or(first, |chosen| plans[chosen]))
    }

    /// Milliseconds that each plan takes on the operands, into memory of its own.
    unsafe fn times(
        &self,
        plans: &[Plan],
        problem: &Problem,
        [a, b, _]: [u64; 3],
    ) -> Result<Vec<f32>, String> {
        let failed = |what: &'static str| move |error| format!("{what}: {error}");
        // SAFETY: operands are as the caller promises; the scratch is as large as the product, and is freed when the device is through.
        unsafe {
            sys::cuCtxSynchronize()
                .result()
                .map_err(failed("cuCtxSynchronize"))?;
            let scratch = malloc_sync(problem.product_bytes()).map_err(failed("cuMemAlloc"))?;
            let timer = || event::create(CUevent_flags::CU_EVENT_DEFAULT);
            let [start, end] =
                [timer(), timer()].map(|event| event.map_err(failed("cuEventCreate")));
            let (start, end) = (start?, end?);
            let trial = |plan: &Plan| {
                let run = |times: usize| {
                    (0..times).try_for_each(|_| {
                        let at = [a, b, scratch];
                        let done =
                            plan.enqueue(self.handle, at, self.workspace, self.stream.cast());
                        done.map_err(|error| error.to_string())
                    })
                };
                run(1)?;
                event::record(start, self.stream).map_err(failed("cuEventRecord"))?;
                run(TRIALS)?;
                event::record(end, self.stream).map_err(failed("cuEventRecord"))?;
                event::synchronize(end).map_err(failed("cuEventSynchronize"))?;
                event::elapsed(start, end).map_err(failed("cuEventElapsedTime"))
            };
            // An algorithm that fails is none.
            let times = plans
                .iter()
                .map(|plan| trial(&plan.alone()).unwrap_or(f32::INFINITY))
                .collect();
            for event in [start, end] {
                event::destroy(event).map_err(failed("cuEventDestroy"))?;
            }
            free_sync(scratch).map_err(failed("cuMemFree"))?;
            Ok(times)
        }
    }

    /// An engine in the current context, if its driver has events of contexts.
    unsafe fn new() -> Result<Self, String> {
        let failed = |what: &'static str| move |error| format!("{what}: {error}");
        let mut context = MaybeUninit::uninit();
        // SAFETY: the pointers are to live locals, which are read after success only.
        let (context, workspace) = unsafe {
            sys::cuCtxGetCurrent(context.as_mut_ptr())
                .result()
                .map_err(failed("cuCtxGetCurrent"))?;
            let workspace = malloc_sync(WORKSPACE).map_err(failed("cuMemAlloc"))?;
            (context.assume_init(), workspace)
        };
        let stream =
            stream::create(stream::StreamKind::NonBlocking).map_err(failed("cuStreamCreate"))?;
        let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING;
        let before = event::create(flags).map_err(failed("cuEventCreate"))?;
        let after = event::create(flags).map_err(failed("cuEventCreate"))?;
        // SAFETY: context, stream and events were just made.
        unsafe { between(context, stream, before, after, || Ok(()))? };
        let handle = result::create_handle().map_err(|error| format!("cublasLtCreate: {error}"))?;
        Ok(Self {
            handle,
            context,
            stream,
            events: [before, after],
            workspace,
            plans: HashMap::new(),
        })
    }
}
