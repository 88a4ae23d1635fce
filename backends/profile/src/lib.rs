//! What a device runs, kernel by kernel, on its own clock.
//!
//! [`record`] watches a piece of work. CubeCL's runtimes put an event before and after every kernel that is issued meanwhile and wait
//! for none of them, so that the device goes from one to the next as it does without; the times are read when all is done. Work of a
//! library that CubeCL knows nothing of is told by `enclosed`.
//!
//! A kernel's name says what it does, not for whom: [`operation`] names what kernels are issued for, with what it computes and moves.
//! Where nothing is recorded it costs one relaxed load of a flag, and its arguments are not evaluated.

#[cfg(feature = "_cube")]
mod cube;

#[cfg(feature = "_cube")]
pub use cube::{enclosed, on_thread_of};

use std::time::Duration;

use burn::tensor::Device;

/// What kernels are issued for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Operation {
    /// Its name, which those who read recordings know.
    pub name: &'static str,
    /// Floating-point operations that it takes; 0 where nobody counts them.
    pub flops: f64,
    /// Bytes that it must read and write, each buffer once; 0 where nobody counts them.
    pub bytes: f64,
}

/// Something that was issued to the device.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The kernel's name: the path of a Rust type, or what `enclosed` was given.
    pub kernel: String,
    /// What it was issued for, as an index of [`Recording::operations`].
    pub operation: Option<usize>,
    /// When it ran; none where the device does not tell.
    pub span: Option<Span>,
}

/// A time on the device's clock, from some moment before the recording on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// From.
    pub start: Duration,
    /// To.
    pub end: Duration,
}

impl Span {
    /// How long it is.
    pub fn length(self) -> Duration {
        self.end.saturating_sub(self.start)
    }
}

/// What was issued while it was watched.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    /// In the order of issue.
    pub launches: Vec<Launch>,
    /// What launches were issued for, in the order of their beginning.
    pub operations: Vec<Operation>,
    /// Whether the device has a clock of its own. Without one every launch was waited for, and none has a span.
    pub device_clock: bool,
}

impl Recording {
    /// The time in which at least one launch ran.
    pub fn busy(&self) -> Duration {
        let mut spans: Vec<Span> = self.spans().collect();
        spans.sort_unstable();
        let mut busy = Duration::ZERO;
        let mut until = Duration::ZERO;
        for Span { start, end } in spans {
            busy += end.saturating_sub(start.max(until));
            until = until.max(end);
        }
        busy
    }

    /// From the start of the first launch to the end of the last; none without times.
    pub fn extent(&self) -> Option<Span> {
        Some(Span {
            start: self.spans().map(|span| span.start).min()?,
            end: self.spans().map(|span| span.end).max()?,
        })
    }

    fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        self.launches.iter().filter_map(|launch| launch.span)
    }
}

/// Does a piece of work on a device and tells what it issued; no recording where the device is none of CubeCL's.
///
/// The work runs on the thread that CubeCL keeps for the device, where an event costs no way to it and back. Everything that the
/// process issues meanwhile is recorded, on other threads and devices too, and a recording within another takes its launches from it.
///
/// # Panics
/// Where the work does.
pub fn record<T: Send + 'static>(
    device: &Device,
    work: impl FnOnce() -> T + Send,
) -> (T, Option<Recording>) {
    #[cfg(feature = "_cube")]
    if let burn::backend::DispatchDevice::Cube(device) = device.clone().inner().as_dispatch() {
        let (done, recording) = cube::record(&device.client(), work);
        return (done, Some(recording));
    }
    let _ = device;
    (work(), None)
}

/// Does a piece of work, whose launches are for the operation.
pub fn operation<T>(of: impl FnOnce() -> Operation, work: impl FnOnce() -> T) -> T {
    #[cfg(feature = "_cube")]
    {
        cube::operation(of, work)
    }
    #[cfg(not(feature = "_cube"))]
    {
        let _ = of;
        work()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(span: Option<[u64; 2]>) -> Launch {
        Launch {
            kernel: "k".into(),
            operation: None,
            span: span.map(|[start, end]| Span {
                start: Duration::from_micros(start),
                end: Duration::from_micros(end),
            }),
        }
    }

    #[test]
    fn time_of_several_at_once_counts_once() {
        let recording = Recording {
            // Out of order, one within another, two that overlap, a gap, one without a time.
            launches: [
                Some([20, 30]),
                Some([0, 10]),
                Some([2, 5]),
                Some([8, 14]),
                None,
            ]
            .map(launch)
            .into(),
            ..Recording::default()
        };
        assert_eq!(recording.busy(), Duration::from_micros(24));
        let extent = recording.extent().unwrap();
        assert_eq!(extent.length(), Duration::from_micros(30));
        assert_eq!(Recording::default().extent(), None);
        assert_eq!(Recording::default().busy(), Duration::ZERO);
    }

    #[test]
    fn a_device_without_kernels_does_the_work_alone() {
        let (done, recording) = record(&Device::flex(), || operation(|| unreachable!(), || 7));
        assert_eq!((done, recording), (7, None));
    }
}
