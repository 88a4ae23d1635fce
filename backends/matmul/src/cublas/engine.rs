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
        result::{event, malloc_sync, stream},
        sys::{self, CUevent_flags, CUevent_wait_flags},
    },
};

use super::plan::{Plan, Problem, WORKSPACE};

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

/// Enqueues `d = a b` behind everything that was enqueued on the device; false if the library has no algorithm for it.
///
/// # Safety
/// The context of the device must be current, and the addresses those of matrices as the problem says, whose memory is not
/// written by work that does not wait for the device's queue.
pub(super) unsafe fn enqueue(device: DeviceId, problem: Problem, at: [u64; 3]) -> bool {
    with_engine(device, |engine| {
        let handle = engine.handle;
        let plan = engine
            .plans
            .entry(problem)
            .or_insert_with(|| Plan::new(handle, &problem).ok());
        let Some(plan) = plan else {
            return false;
        };
        let [before, after] = engine.events;
        // SAFETY: events, stream and context are live, the addresses are as the caller promises.
        let done = unsafe {
            between(engine.context, engine.stream, before, after, || {
                plan.enqueue(handle, at, engine.workspace, engine.stream.cast())
                    .map_err(|error| error.to_string())
            })
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
