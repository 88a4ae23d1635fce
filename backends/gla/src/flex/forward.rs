//! Values, chunk by chunk: [`chunked`](crate::chunked) has the equations.

use super::{
    kernel::{Chunk, Inputs, Problem, Scratch, adding, fresh, is_zero, matrix, own, view, write},
    output::Output,
    product::{Target, product},
    simd::{self, Scale, Weigh},
};

/// The output, and with `keep` the states before every chunk and after the last, `[batch, heads, chunks + 1, d_key,
/// d_value]`; without it the last of them alone.
pub(super) fn forward(
    problem: Problem,
    inputs: Inputs,
    entering: &[f32],
    keep: bool,
) -> (Vec<f32>, Vec<f32>) {
    let (size, units) = (problem.state(), problem.units());
    inputs.check(problem);
    assert_eq!(entering.len(), units * size);
    let kept = if keep { problem.chunks() + 1 } else { 1 };
    let output = Output::new(units * problem.seq * problem.d_value);
    let states = Output::new(units * kept * size);
    problem.for_each_unit(|scratch, unit| {
        let own_states = states.start(unit * kept * size, kept * size);
        let state = &mut entering[unit * size..][..size].to_vec();
        for (index, span) in problem.spans().enumerate() {
            if keep {
                // SAFETY: one of the states of this unit.
                unsafe { write(state, own_states.add(index * size)) };
            }
            let chunk = inputs.chunk(problem, unit, span);
            let target = own(problem, &output, unit, span, problem.d_value);
            // SAFETY: the target is this chunk's part of the output.
            unsafe { forward_chunk(problem, scratch, chunk, state, target) };
        }
        // SAFETY: the last of the states of this unit.
        unsafe { write(state, own_states.add((kept - 1) * size)) };
    });
    // SAFETY: the chunks of all units cover the output, and every unit writes all its states.
    unsafe { (output.finish(), states.finish()) }
}

/// Writes the chunk's output, and advances the state.
///
/// # Safety
/// Nothing else uses the target, rows of `d_value`.
unsafe fn forward_chunk(
    problem: Problem,
    scratch: &mut Scratch,
    chunk: Chunk,
    state: &mut [f32],
    target: Target,
) {
    let Problem { d_key, d_value, .. } = problem;
    let Chunk { count, q, k, v, .. } = chunk;
    let Scratch {
        decay,
        squares,
        keys,
        ..
    } = scratch;
    decay.load(chunk.log_decay.values, chunk.log_decay.stride, count);
    let scores = &mut squares[0][..count * count];
    let keys = &mut keys[..count * d_key];
    // SAFETY: the views are rows of the chunk or scratch matrices, which the sizes fit.
    unsafe {
        let sizes = [count, count, d_key];
        product(sizes, fresh(scores, count), view(q), view(k).transposed());
    }
    simd::run(Weigh { decay, scores });
    // SAFETY: as above.
    unsafe {
        product(
            [count, d_value, count],
            target,
            matrix(scores, count),
            view(v),
        )
    };
    if !is_zero(state) {
        simd::run(Scale {
            rows: q,
            factors: &decay.entering,
            scaled: keys,
        });
        let sizes = [count, d_value, d_key];
        // SAFETY: as above.
        unsafe {
            product(
                sizes,
                adding(target),
                matrix(keys, d_key),
                matrix(state, d_value),
            )
        };
    }
    simd::run(Scale {
        rows: k,
        factors: &decay.leaving,
        scaled: keys,
    });
    let whole = decay.whole();
    state.iter_mut().for_each(|s| *s *= whole);
    let (sizes, written) = ([d_key, d_value, count], matrix(keys, d_key).transposed());
    // SAFETY: as above.
    unsafe { product(sizes, adding(fresh(state, d_value)), written, view(v)) };
}
