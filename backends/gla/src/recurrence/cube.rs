//! The CubeCL implementation: a unit for every channel of every batch row, which loads positions ahead of the recurrence that waits for
//! them.

use burn::{
    backend::{Cube, tensor::FloatTensor},
    tensor::DType,
};
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
};

use super::{RecurrenceAdjoint, RecurrenceBackend};
use crate::cube::empty;

type Primitive = FloatTensor<Cube>;

/// Positions that are loaded together.
const AHEAD: usize = 8;
/// Units of a cube.
const UNITS: u32 = 128;

/// `states [rows, seq, channels]` from `decay` and `input` of that shape and `entering [rows, channels]`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn sweep(
    decay: &[f32],
    input: &[f32],
    entering: &[f32],
    states: &mut [f32],
    rows: usize,
    seq: usize,
    channels: usize,
) {
    if ABSOLUTE_POS >= rows * channels {
        terminate!();
    }
    let first = ABSOLUTE_POS / channels * seq * channels + ABSOLUTE_POS % channels;
    let mut state = entering[ABSOLUTE_POS];
    let mut t = 0;
    while t < seq {
        let mut a = Array::<f32>::new(AHEAD);
        let mut x = Array::<f32>::new(AHEAD);
        #[unroll]
        for i in 0..AHEAD {
            let at = first + min(t + i, seq - 1) * channels;
            a[i] = decay[at];
            x[i] = input[at];
        }
        #[unroll]
        for i in 0..AHEAD {
            if t + i < seq {
                state = a[i] * state + x[i];
                states[first + (t + i) * channels] = state;
            }
        }
        t += AHEAD;
    }
}

/// Gradients of decay and input, of the shape of the states, and of the entering state.
#[cube(launch_unchecked, address_type = "dynamic")]
fn sweep_back(
    decay: &[f32],
    states: &[f32],
    entering: &[f32],
    d_states: &[f32],
    d_decay: &mut [f32],
    d_input: &mut [f32],
    d_entering: &mut [f32],
    rows: usize,
    seq: usize,
    channels: usize,
) {
    if ABSOLUTE_POS >= rows * channels {
        terminate!();
    }
    let first = ABSOLUTE_POS / channels * seq * channels + ABSOLUTE_POS % channels;
    let mut carry = 0.0f32;
    let mut done = 0;
    while done < seq {
        let mut a = Array::<f32>::new(AHEAD);
        let mut h = Array::<f32>::new(AHEAD);
        let mut dy = Array::<f32>::new(AHEAD);
        #[unroll]
        for i in 0..AHEAD {
            let t = seq - 1 - min(done + i, seq - 1);
            let at = first + t * channels;
            a[i] = decay[at];
            dy[i] = d_states[at];
            // Before the first position stands the entering state.
            h[i] = entering[ABSOLUTE_POS];
            if t > 0 {
                h[i] = states[at - channels];
            }
        }
        #[unroll]
        for i in 0..AHEAD {
            if done + i < seq {
                let at = first + (seq - 1 - done - i) * channels;
                let gradient = dy[i] + carry;
                d_input[at] = gradient;
                d_decay[at] = gradient * h[i];
                carry = a[i] * gradient;
            }
        }
        done += AHEAD;
    }
    d_entering[ABSOLUTE_POS] = carry;
}

/// Cubes for a unit a channel.
fn cubes(client: &Client, rows: usize, channels: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new_1d(UNITS);
    let count = calculate_cube_count_elemwise(client, rows * channels, dim);
    (count, dim)
}

impl RecurrenceBackend for Cube {
    fn linear_recurrence(decay: Primitive, input: Primitive, entering: Primitive) -> Primitive {
        let [decay, input, entering] = [decay, input, entering].map(into_contiguous);
        let [rows, seq, channels] = decay.meta.shape().dims();
        let states = empty(&decay, [rows, seq, channels], DType::F32);
        let (count, dim) = cubes(&decay.client, rows, channels);
        // SAFETY: units stay inside the shapes, and surplus ones leave at once.
        unsafe {
            sweep::launch_unchecked(
                &decay.client.clone(),
                count,
                dim,
                decay.required_address_type(),
                decay.into_buffer_arg(),
                input.into_buffer_arg(),
                entering.into_buffer_arg(),
                states.clone().into_buffer_arg(),
                rows,
                seq,
                channels,
            );
        }
        states
    }
}

impl RecurrenceAdjoint for Cube {
    fn linear_recurrence_adjoint(
        decay: Primitive,
        states: Primitive,
        entering: Primitive,
        d_states: Primitive,
    ) -> [Primitive; 3] {
        let [decay, states, entering, d_states] =
            [decay, states, entering, d_states].map(into_contiguous);
        let [rows, seq, channels] = decay.meta.shape().dims();
        let [d_decay, d_input] = [(); 2].map(|()| empty(&decay, [rows, seq, channels], DType::F32));
        let d_entering = empty(&decay, [rows, channels], DType::F32);
        let (count, dim) = cubes(&decay.client, rows, channels);
        // SAFETY: units stay inside the shapes, and surplus ones leave at once.
        unsafe {
            sweep_back::launch_unchecked(
                &decay.client.clone(),
                count,
                dim,
                decay.required_address_type(),
                decay.into_buffer_arg(),
                states.into_buffer_arg(),
                entering.into_buffer_arg(),
                d_states.into_buffer_arg(),
                d_decay.clone().into_buffer_arg(),
                d_input.clone().into_buffer_arg(),
                d_entering.clone().into_buffer_arg(),
                rows,
                seq,
                channels,
            );
        }
        [d_decay, d_input, d_entering]
    }
}
