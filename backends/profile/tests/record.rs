//! What a recording holds, on the backend of `KILN_TEST_BACKEND`.

#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{Device, Tensor};
use kiln_profile::{Operation, Recording, operation, record};

fn device() -> Device {
    match std::env::var("KILN_TEST_BACKEND").as_deref() {
        Ok("flex") | Err(_) => Device::flex(),
        #[cfg(feature = "vulkan")]
        Ok("vulkan") => Device::vulkan(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "wgpu")]
        Ok("wgpu") => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "metal")]
        Ok("metal") => Device::metal(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "cuda")]
        Ok("cuda") => Device::cuda(0),
        #[cfg(feature = "rocm")]
        Ok("rocm") => Device::rocm(0),
        other => panic!("KILN_TEST_BACKEND={other:?} was not compiled in"),
    }
}

fn on_flex() -> bool {
    matches!(
        std::env::var("KILN_TEST_BACKEND").as_deref(),
        Ok("flex") | Err(_)
    )
}

/// What has a time lies within the recording, in the order of issue: one stream runs one after the other.
fn assert_ordered(recording: &Recording) {
    let spans: Vec<_> = recording
        .launches
        .iter()
        .filter_map(|launch| launch.span)
        .collect();
    assert_eq!(spans.is_empty(), !recording.device_clock);
    assert!(spans.iter().all(|span| span.end >= span.start));
    assert!(spans.is_sorted_by_key(|span| span.start), "{spans:?}");
    if let Some(extent) = recording.extent() {
        assert!(recording.busy() <= extent.length());
    }
}

/// One test, as a recording takes everything that the process issues.
#[test]
fn kernels_are_recorded_with_what_they_are_for() {
    let device = device();
    let x = Tensor::<1>::from_floats([0.5, -1.0, 2.0, 4.0], &device);
    let known = |name| {
        move || Operation {
            name,
            flops: 8.0,
            bytes: 32.0,
        }
    };
    let ([sine, exp, plain], recording) = record(&device, || {
        // A device that runs behind has its launches issued when a result is read.
        let plain = x.clone().cos().into_data();
        let (sine, exp) = operation(known("outer"), || {
            let sine = x.clone().sin().into_data();
            let exp = operation(known("inner"), || x.clone().exp().into_data());
            (sine, exp)
        });
        [sine, exp, plain]
    });
    for (found, expected) in [
        (sine, f32::sin as fn(f32) -> f32),
        (exp, f32::exp),
        (plain, f32::cos),
    ] {
        let found: Vec<f32> = found.iter().collect();
        let close = |(&x, y): (&f32, f32)| (x - y).abs() < 1e-4 * y.abs().max(1.0);
        let inputs = [0.5, -1.0, 2.0, 4.0].map(expected);
        assert!(found.iter().zip(inputs).all(close), "{found:?}");
    }
    let Some(recording) = recording else {
        assert!(on_flex(), "a device of CubeCL has kernels");
        return;
    };
    assert!(!on_flex());
    let names: Vec<_> = recording.operations.iter().map(|of| of.name).collect();
    assert_eq!(names, ["outer", "inner"]);
    let of: Vec<_> = recording
        .launches
        .iter()
        .map(|launch| launch.operation)
        .collect();
    assert_eq!(of, [None, Some(0), Some(1)], "{:?}", recording.launches);
    assert_ordered(&recording);

    // A panic reaches the caller, and ends the recording: what comes later is not kept anywhere.
    let failed = catch_unwind(AssertUnwindSafe(|| {
        record(&device, || -> () { panic!("in the work") })
    }));
    assert_eq!(
        failed.unwrap_err().downcast_ref::<&str>(),
        Some(&"in the work")
    );
    let unwatched = operation(
        || unreachable!("nothing is recorded"),
        || x.sum().into_scalar::<f32>(),
    );
    assert_eq!(unwatched, 5.5);
    let ((), empty) = record(&device, || ());
    let empty = empty.unwrap();
    assert_eq!(empty, Recording::default());
}
