//! The recurrence over chunks: `S_n = exp(w_n) S_{n-1} + U_n`, and backward from the last to the first.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{FOUR, Format};

/// Chunks whose states are loaded together, ahead of the recurrence that waits for them.
const AHEAD: usize = 8;

/// `states [rows, chunks + 1, d_key, d_value]`, from what `write_states` made of every chunk. `entering [rows, d_key, d_value]` becomes number
/// 0, backward number `chunks`, or zeros do where nothing enters and `entering` is not read; `last` is the other end. Sums are single
/// precision, whatever states are kept in.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn carry_states<E: Float>(
    entering: &[Vector<f32, Const<FOUR>>],
    whole: &[f32],
    writes: &[Vector<f32, Const<FOUR>>],
    states: &mut [Vector<E, Const<FOUR>>],
    last: &mut [Vector<f32, Const<FOUR>>],
    rows: usize,
    chunks: usize,
    #[comptime] format: Format,
    #[comptime] reverse: bool,
    #[comptime] enters: bool,
) {
    let lines = comptime!(format.state() / FOUR);
    let row = ABSOLUTE_POS / lines;
    if row >= rows {
        terminate!();
    }
    let line = ABSOLUTE_POS % lines;
    let first = row * (chunks + 1) * lines + line;
    let gates = row * chunks;
    let mut state = Vector::<f32, Const<FOUR>>::new(0.0f32);
    if comptime!(enters) {
        state = entering[row * lines + line];
    }
    if comptime!(reverse) {
        states[first + chunks * lines] = Vector::<E, Const<FOUR>>::cast_from(state);
    } else {
        states[first] = Vector::<E, Const<FOUR>>::cast_from(state);
    }
    let mut chunk = 0;
    while chunk < chunks {
        let mut written = Array::<Vector<f32, Const<FOUR>>>::new(AHEAD);
        let mut decay = Array::<f32>::new(AHEAD);
        #[unroll]
        for i in 0..AHEAD {
            let n = min(chunk + i, chunks - 1);
            if comptime!(reverse) {
                written[i] = writes[first + (chunks - 1 - n) * lines];
                decay[i] = whole[gates + chunks - 1 - n];
            } else {
                written[i] = writes[first + (n + 1) * lines];
                decay[i] = whole[gates + n];
            }
        }
        #[unroll]
        for i in 0..AHEAD {
            let n = chunk + i;
            if n < chunks {
                state = state * Vector::<f32, Const<FOUR>>::new(decay[i].exp()) + written[i];
                let kept = Vector::<E, Const<FOUR>>::cast_from(state);
                if comptime!(reverse) {
                    states[first + (chunks - 1 - n) * lines] = kept;
                } else {
                    states[first + (n + 1) * lines] = kept;
                }
            }
        }
        chunk += AHEAD;
    }
    last[row * lines + line] = state;
}
