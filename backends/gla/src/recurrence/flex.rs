//! The Flex implementation: batch rows and blocks of channels in parallel, positions one after the other.

use burn::{
    backend::{Flex, TensorMetadata, tensor::FloatTensor},
    tensor::DType,
};
use rayon::prelude::*;

use super::{RecurrenceAdjoint, RecurrenceBackend};
use crate::flex::{Output, tensor};

type FlexTensor = FloatTensor<Flex>;

/// Channels that a unit of work carries: a cache line of states in each of its registers' worth of vectors.
const BLOCK: usize = 64;

#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    seq: usize,
    channels: usize,
}

impl Shape {
    fn of(x: &FlexTensor) -> Self {
        let [batch, seq, channels] = x.shape().dims();
        Self {
            batch,
            seq,
            channels,
        }
    }

    fn len(self) -> usize {
        self.batch * self.seq * self.channels
    }

    /// Calls with every batch row and block of channels: the row, the block's first channel, and its width.
    fn for_each_block(self, work: impl Fn(usize, usize, usize) + Sync) {
        let blocks = self.channels.div_ceil(BLOCK);
        (0..self.batch * blocks).into_par_iter().for_each(|unit| {
            let (row, first) = (unit / blocks, unit % blocks * BLOCK);
            work(row, first, BLOCK.min(self.channels - first));
        });
    }
}

impl RecurrenceBackend for Flex {
    fn linear_recurrence(decay: FlexTensor, input: FlexTensor, entering: FlexTensor) -> FlexTensor {
        let [decay, input, entering] = [decay, input, entering].map(|x| x.to_contiguous());
        let shape = Shape::of(&decay);
        let (a, x, h0): (&[f32], &[f32], &[f32]) =
            (decay.storage(), input.storage(), entering.storage());
        let states = Output::new(shape.len());
        shape.for_each_block(|row, first, width| {
            let mut state = [0.0; BLOCK];
            let state = &mut state[..width];
            state.copy_from_slice(&h0[row * shape.channels + first..][..width]);
            for t in 0..shape.seq {
                let at = (row * shape.seq + t) * shape.channels + first;
                let (a, x) = (&a[at..][..width], &x[at..][..width]);
                for ((h, a), x) in state.iter_mut().zip(a).zip(x) {
                    *h = a * *h + x;
                }
                // SAFETY: no other block writes these channels of this position.
                unsafe {
                    states
                        .start(at, width)
                        .copy_from_nonoverlapping(state.as_ptr(), width)
                };
            }
        });
        // SAFETY: the blocks cover every channel of every position.
        let states = unsafe { states.finish() };
        tensor(states, [shape.batch, shape.seq, shape.channels], DType::F32)
    }
}

impl RecurrenceAdjoint for Flex {
    fn linear_recurrence_adjoint(
        decay: FlexTensor,
        states: FlexTensor,
        entering: FlexTensor,
        d_states: FlexTensor,
    ) -> [FlexTensor; 3] {
        let [decay, states, entering, d_states] =
            [decay, states, entering, d_states].map(|x| x.to_contiguous());
        let shape = Shape::of(&decay);
        let Shape {
            batch,
            seq,
            channels,
        } = shape;
        let (a, h, h0): (&[f32], &[f32], &[f32]) =
            (decay.storage(), states.storage(), entering.storage());
        let dy: &[f32] = d_states.storage();
        let [d_decay, d_input] = [Output::new(shape.len()), Output::new(shape.len())];
        let d_entering = Output::new(batch * channels);
        shape.for_each_block(|row, first, width| {
            let start = row * channels + first;
            let mut carry = [0.0; BLOCK];
            let carry = &mut carry[..width];
            for t in (0..seq).rev() {
                let at = (row * seq + t) * channels + first;
                let before = match t {
                    0 => &h0[start..][..width],
                    _ => &h[at - channels..][..width],
                };
                let (a, dy) = (&a[at..][..width], &dy[at..][..width]);
                // SAFETY: no other block writes these channels of this position, and both are written before they are read.
                let [d_a, d_x] = [&d_decay, &d_input].map(|output| {
                    let start = output.start(at, width);
                    unsafe {
                        start.write_bytes(0, width);
                        std::slice::from_raw_parts_mut(start, width)
                    }
                });
                for i in 0..width {
                    let gradient = dy[i] + carry[i];
                    d_x[i] = gradient;
                    d_a[i] = gradient * before[i];
                    carry[i] = a[i] * gradient;
                }
            }
            // SAFETY: no other block writes these channels of this row.
            unsafe {
                d_entering
                    .start(start, width)
                    .copy_from_nonoverlapping(carry.as_ptr(), width)
            };
        });
        // SAFETY: the blocks cover every channel of every row and position.
        let [d_decay, d_input, d_entering] =
            [d_decay, d_input, d_entering].map(|output| unsafe { output.finish() });
        [
            tensor(d_decay, [batch, seq, channels], DType::F32),
            tensor(d_input, [batch, seq, channels], DType::F32),
            tensor(d_entering, [batch, channels], DType::F32),
        ]
    }
}
