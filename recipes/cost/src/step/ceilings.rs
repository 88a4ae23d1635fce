//! Rates that a device reaches with one operation at a time, as the measure of what a step reaches.

use std::time::Duration;

use burn::tensor::{DType, Device, Distribution, Tensor};
use kiln_profile::{Recording, Span, record};

use super::operations::Ceilings;

/// Products begin with so many rows.
const LEAST_ROWS: usize = 512;
/// And end with so many, or where one takes [`LONG_ENOUGH`].
const MOST_ROWS: usize = 8192;
const LONG_ENOUGH: Duration = Duration::from_millis(1);

/// Numbers of the tensor that a pass goes over: more than caches hold, and no more than every API binds as one buffer.
const PASS_NUMBERS: usize = 1 << 25;

/// Calls, the fastest of which counts.
const CALLS: usize = 10;

/// The ceilings of a device in an element type; none where it has no clock of its own.
pub(super) fn measure(device: &Device, dtype: DType) -> Option<Ceilings> {
    let mut rows = LEAST_ROWS;
    let mut shortest = product(device, dtype, rows)?;
    while rows < MOST_ROWS && shortest < LONG_ENOUGH {
        rows *= 2;
        shortest = product(device, dtype, rows)?;
    }
    let numbers = Tensor::<1>::ones([PASS_NUMBERS], device).cast(DType::F32);
    let pass = fastest(device, || {
        let _ = numbers.clone().neg();
    })?;
    let pass_bytes = (PASS_NUMBERS * DType::F32.size()) as u64;
    Some(Ceilings {
        product_rows: rows,
        flops_per_second: 2.0 * (rows as f64).powi(3) / shortest.as_secs_f64(),
        pass_bytes,
        bytes_per_second: 2.0 * pass_bytes as f64 / pass.as_secs_f64(),
    })
}

fn product(device: &Device, dtype: DType, rows: usize) -> Option<Duration> {
    let random = || {
        let values = Tensor::<2>::random([rows, rows], Distribution::Default, device);
        values.cast(dtype)
    };
    let (x, weight) = (random(), random());
    fastest(device, || {
        let _ = kiln_matmul::linear(x.clone(), weight.clone());
    })
}

/// The time of the fastest of several calls; none where the device gives none.
fn fastest(device: &Device, mut call: impl FnMut() + Send) -> Option<Duration> {
    // The first is compiled and tuned.
    call();
    device.sync().ok()?;
    let (synced, recording) = record(device, || {
        (0..CALLS).for_each(|_| call());
        device.sync().is_ok()
    });
    shortest_of(&recording?, CALLS).filter(|_| synced)
}

/// The shortest of calls that all issue the same launches.
fn shortest_of(recording: &Recording, calls: usize) -> Option<Duration> {
    let each = recording.launches.len() / calls;
    if each == 0 {
        return None;
    }
    let calls = recording.launches.chunks_exact(each);
    let times = calls.map(|launches| {
        let lengths = launches.iter().map(|launch| launch.span.map(Span::length));
        lengths.sum::<Option<Duration>>()
    });
    times.min().flatten().filter(|time| !time.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_profile::Launch;

    #[test]
    fn the_fastest_call_counts_with_all_its_launches() {
        let launch = |length: Option<u64>| Launch {
            kernel: "k".into(),
            operation: None,
            span: length.map(|length| Span {
                start: Duration::from_micros(5),
                end: Duration::from_micros(5 + length),
            }),
        };
        let shortest = |lengths: &[Option<u64>], calls| {
            let recording = Recording {
                launches: lengths.iter().copied().map(launch).collect(),
                ..Recording::default()
            };
            shortest_of(&recording, calls)
        };
        let calls = [Some(1), Some(9), Some(4), Some(3)];
        assert_eq!(shortest(&calls, 2), Some(Duration::from_micros(7)));
        assert_eq!(shortest(&[Some(1), None, Some(4), Some(3)], 2), None);
        assert_eq!(shortest(&[], 2), None);
        assert_eq!(shortest(&[Some(0), Some(0)], 2), None);
    }

    #[test]
    fn a_device_without_kernels_has_no_ceilings() {
        assert_eq!(measure(&Device::flex(), DType::F32), None);
    }
}
