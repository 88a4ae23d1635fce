//! The stream that CubeCL's runtime records.
//!
//! Its streams are its own, and nothing hands them out. Work of a library can be recorded on no other: an event would have to pass
//! between it and the library's stream, and the driver records those of a stream, not of a context. So the streams are read off what
//! the runtime says of itself for debugging, once a recording, and the driver is asked which of them it records. Should the words ever
//! change, none is found, the product is refused, and so is the graph; nothing else depends on them.

use std::{
    collections::HashMap,
    mem::MaybeUninit,
    sync::{Mutex, PoisonError},
};

use burn_cubecl::cubecl::{device::DeviceId, device_handle::DeviceHandle, prelude::Client};
use cudarc::driver::sys::{self, CUstreamCaptureStatus};

use super::Server;

/// The streams of devices that prepare a recording or make one, as addresses.
static STREAMS: Mutex<Option<HashMap<DeviceId, Vec<usize>>>> = Mutex::new(None);

/// What stands before a stream's address where the runtime describes itself.
const BEFORE: &str = "Stream { sys: 0x";

/// The stream that is recorded; none if none is. To be called on the device's own thread.
pub(super) fn stream(client: &Client) -> Option<sys::CUstream> {
    let device = client.service_id().device;
    let mut streams = STREAMS.lock().unwrap_or_else(PoisonError::into_inner);
    if !client.is_capturing() {
        if let Some(streams) = streams.as_mut() {
            streams.remove(&device);
        }
        return None;
    }
    // The first product after the preparation, which no stream is made after.
    let known = streams.get_or_insert_default();
    let known = known.entry(device).or_insert_with(|| described(device));
    let mut found = known.iter().map(|&at| at as sys::CUstream);
    found.find(|&stream| is_recorded(stream))
}

/// The streams that the runtime names.
fn described(device: DeviceId) -> Vec<usize> {
    let server = DeviceHandle::<Server>::new(device);
    let words = server.submit_blocking(|server| format!("{server:?}"));
    words.map_or_else(|_| Vec::new(), |words| addresses(&words))
}

fn addresses(words: &str) -> Vec<usize> {
    let after = words.split(BEFORE).skip(1);
    let digits = after.map(|rest| rest.split(|c: char| !c.is_ascii_hexdigit()).next());
    let address = |digits| usize::from_str_radix(digits, 16).ok();
    let found = digits.flatten().filter_map(address);
    found.filter(|&address| address != 0).collect()
}

fn is_recorded(stream: sys::CUstream) -> bool {
    let mut status = MaybeUninit::uninit();
    // SAFETY: the address is that of a live stream, which the runtime keeps as long as the process; the status is read after success.
    unsafe {
        let asked = sys::cuStreamIsCapturing(stream, status.as_mut_ptr());
        asked.result().is_ok()
            && status.assume_init() == CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_read_off_the_description() {
        let words = "CudaServer { ctx: X { sys: 0x5 }, streams: [Some(StreamWrapper { stream: Stream { sys: 0x7fa0c0, memory: Y }, \
            cursor: 3 }), None, Some(StreamWrapper { stream: Stream { sys: 0x0, memory: Y } }), Some(Stream { sys: 0xAb })] }";
        assert_eq!(addresses(words), [0x7f_a0c0, 0xab]);
        assert!(addresses("Stream { handle: 0x7fa0c0 }").is_empty());
    }
}
