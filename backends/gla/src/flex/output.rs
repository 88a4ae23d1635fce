//! Buffers that several units of work fill at once, each its own part.

use std::mem::ManuallyDrop;

/// A new buffer, not zeroed first.
pub(crate) struct Output {
    buffer: *mut f32,
    len: usize,
    capacity: usize,
}

// SAFETY: what the pointers of `start` are used for is their users' promise, and `finish` takes the value itself.
unsafe impl Sync for Output {}

impl Output {
    pub fn new(len: usize) -> Self {
        let mut buffer = ManuallyDrop::new(Vec::with_capacity(len));
        Self {
            buffer: buffer.as_mut_ptr(),
            len,
            capacity: buffer.capacity(),
        }
    }

    /// Where `len` elements from `index` on are.
    pub fn start(&self, index: usize, len: usize) -> *mut f32 {
        assert!(index + len <= self.len);
        // SAFETY: inside the buffer by the assertion.
        unsafe { self.buffer.add(index) }
    }

    /// The finished buffer. (After a panic in a unit it is leaked instead.)
    ///
    /// # Safety
    /// Every element has been written, and no pointer into the buffer is used any more.
    pub unsafe fn finish(self) -> Vec<f32> {
        // SAFETY: pointer and capacity come from a `Vec` that was forgotten, and `len` elements were written.
        unsafe { Vec::from_raw_parts(self.buffer, self.len, self.capacity) }
    }
}
