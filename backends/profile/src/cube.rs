//! The observer of CubeCL's launches, and what it keeps.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use burn_cubecl::cubecl::{
    future::block_on,
    logging::{LaunchObservation, LaunchObserver, ProfileDuration, TimingMethod, TimingRequest},
    prelude::Client,
    profile::Instant,
};

use crate::{Launch, Operation, Recording, Span};

/// Whether there is a recorder: all that is asked where nothing is recorded.
static RECORDING: AtomicBool = AtomicBool::new(false);
static RECORDER: Mutex<Option<Arc<Recorder>>> = Mutex::new(None);

thread_local! {
    /// What launches of this thread are for.
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

#[derive(Default)]
struct Recorder {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    launches: Vec<Issued>,
    operations: Vec<Operation>,
}

/// A launch whose times are not read yet.
struct Issued {
    kernel: String,
    operation: Option<usize>,
    profile: Option<ProfileDuration>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn recorder() -> Option<Arc<Recorder>> {
    match RECORDING.load(Ordering::Relaxed) {
        true => lock(&RECORDER).clone(),
        false => None,
    }
}

impl Recorder {
    fn keep(&self, kernel: String, profile: Option<ProfileDuration>) {
        lock(&self.kept).launches.push(Issued {
            kernel,
            operation: CURRENT.get(),
            profile,
        });
    }

    /// Reads the times, which waits for the device.
    fn read(&self, epoch: Instant) -> Recording {
        let Kept {
            launches,
            operations,
        } = std::mem::take(&mut *lock(&self.kept));
        let profiles = launches.iter().filter_map(|launch| launch.profile.as_ref());
        let device_clock = profiles
            .map(ProfileDuration::timing_method)
            .all(|method| method == TimingMethod::Device);
        let read = |issued: Issued| Launch {
            kernel: issued.kernel,
            operation: issued.operation,
            span: issued.profile.and_then(|profile| span(profile, epoch)),
        };
        Recording {
            device_clock: device_clock && !launches.is_empty(),
            launches: launches.into_iter().map(read).collect(),
            operations,
        }
    }
}

/// What the device says; none for the host's clock, which measures submission and waiting too.
fn span(profile: ProfileDuration, epoch: Instant) -> Option<Span> {
    if profile.timing_method() != TimingMethod::Device {
        return None;
    }
    let ticks = block_on(profile.resolve())?;
    let start = ticks.start_duration_since(epoch);
    Some(Span {
        start,
        end: start + ticks.duration(),
    })
}

impl LaunchObserver for Recorder {
    fn launched(&self, kernel: &'static str) {
        self.keep(kernel.into(), None);
    }

    fn timing(&self) -> TimingRequest {
        TimingRequest::Deferred
    }

    /// Comes right after [`Self::launched`] of the same launch, but other threads may launch in between.
    fn profiled(&self, kernel: &'static str, profile: ProfileDuration) {
        let mut kept = lock(&self.kept);
        let mut latest = kept.launches.iter_mut().rev();
        if let Some(launch) =
            latest.find(|launch| launch.profile.is_none() && launch.kernel == kernel)
        {
            launch.profile = Some(profile);
        }
    }
}

/// Makes a recorder the current one until it is dropped.
struct Installed {
    previous: Option<Arc<Recorder>>,
    _observation: LaunchObservation,
}

impl Installed {
    fn new(recorder: Arc<Recorder>) -> Self {
        let previous = lock(&RECORDER).replace(recorder.clone());
        RECORDING.store(true, Ordering::Relaxed);
        Self {
            previous,
            _observation: LaunchObservation::new(recorder),
        }
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let previous = self.previous.take();
        RECORDING.store(previous.is_some(), Ordering::Relaxed);
        *lock(&RECORDER) = previous;
    }
}

pub(crate) fn record<T: Send + 'static>(
    client: &Client,
    work: impl FnOnce() -> T + Send,
) -> (T, Recording) {
    let recorder = Arc::new(Recorder::default());
    let epoch = Instant::now();
    let installed = Installed::new(recorder.clone());
    let done = on_thread_of(client, work);
    drop(installed);
    (done, recorder.read(epoch))
}

/// Does work on the thread that hands a device its orders, with nothing of other threads in between.
///
/// # Panics
/// Where the work does, in the caller's thread as if it had been done there, or if the device's thread is gone.
pub fn on_thread_of<T: Send + 'static>(client: &Client, work: impl FnOnce() -> T + Send) -> T {
    let done = client.exclusive(|| catch_unwind(AssertUnwindSafe(work)));
    match done.expect("the device's own thread") {
        Ok(done) => done,
        Err(payload) => resume_unwind(payload),
    }
}

pub(crate) fn operation<T>(of: impl FnOnce() -> Operation, work: impl FnOnce() -> T) -> T {
    let Some(recorder) = recorder() else {
        return work();
    };
    let number = {
        let mut kept = lock(&recorder.kept);
        kept.operations.push(of());
        kept.operations.len() - 1
    };
    let _outer = Outer(CURRENT.replace(Some(number)));
    work()
}

/// Goes back to the operation around when it is dropped.
struct Outer(Option<usize>);

impl Drop for Outer {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// Does a piece of work that issues something CubeCL does not know of, ordered with the client's stream at both ends: what the stream
/// was given before comes before it, and what it is given afterwards waits for it. A recording has it as one launch, if there was
/// something to issue.
pub fn enclosed<T>(
    client: &Client,
    kernel: impl FnOnce() -> String,
    work: impl FnOnce() -> Option<T>,
) -> Option<T> {
    let Some(recorder) = recorder() else {
        return work();
    };
    // A window is refused while a graph is captured: the work goes on without it.
    let window = client.profile_start().ok();
    let done = work();
    if done.is_none() {
        if let Some(window) = window {
            client.profile_abandon(window);
        }
        return None;
    }
    let profile = window.and_then(|window| client.profile_end(window).ok());
    recorder.keep(kernel(), profile);
    done
}
