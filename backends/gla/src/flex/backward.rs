//! Gradients, chunk by chunk from the last to the first: [`chunked`](crate::chunked) has the equations.

use super::{
    kernel::{
        Chunk, Inputs, Problem, Scratch, adding, copy, fresh, is_zero, matrix, own, packed, rows,
        view, write,
    },
    output::Output,
    product::{Target, product},
    simd::{self, Dots, Rows, Scale, WeighAdjoint},
};

/// Gradients of the arguments.
pub(super) struct Gradients {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub log_decay: Vec<f32>,
    pub state: Vec<f32>,
}

/// Buffers of the gradients of the arguments.
struct Outputs {
    q: Output,
    k: Output,
    v: Output,
    log_decay: Output,
}

/// From the states that [`forward`] kept, and the gradients of output and final state.
pub(super) fn backward(
    problem: Problem,
    inputs: Inputs,
    states: &[f32],
    d_output: &[f32],
    d_state: &[f32],
) -> Gradients {
    let (size, units) = (problem.state(), problem.units());
    let kept = problem.chunks() + 1;
    inputs.check(problem);
    assert_eq!(states.len(), units * kept * size);
    assert_eq!(d_output.len(), inputs.v.len());
    assert_eq!(d_state.len(), units * size);
    let outputs = Outputs {
        q: Output::new(inputs.q.len()),
        k: Output::new(inputs.k.len()),
        v: Output::new(inputs.v.len()),
        log_decay: Output::new(inputs.log_decay.len()),
    };
    let d_entering = Output::new(units * size);
    problem.for_each_unit(|scratch, unit| {
        scratch
            .state
            .copy_from_slice(&d_state[unit * size..][..size]);
        for (index, span) in problem.spans().enumerate().rev() {
            let before = &states[(unit * kept + index) * size..][..size];
            let chunk = inputs.chunk(problem, unit, span);
            let dy = rows(problem, d_output, unit, span.0, problem.d_value);
            let target = |output, width| own(problem, output, unit, span, width);
            let targets = Targets {
                q: target(&outputs.q, problem.d_key),
                k: target(&outputs.k, problem.d_key),
                v: target(&outputs.v, problem.d_value),
                log_decay: target(&outputs.log_decay, 1),
            };
            // SAFETY: the targets are this chunk's parts of the outputs.
            unsafe { backward_chunk(problem, scratch, chunk, before, dy, targets) };
        }
        // SAFETY: this unit's state.
        unsafe { write(&scratch.state, d_entering.start(unit * size, size)) };
    });
    // SAFETY: the chunks of all units cover the buffers.
    unsafe {
        Gradients {
            q: outputs.q.finish(),
            k: outputs.k.finish(),
            v: outputs.v.finish(),
            log_decay: outputs.log_decay.finish(),
            state: d_entering.finish(),
        }
    }
}

/// Where the gradients of a chunk go.
#[derive(Clone, Copy)]
struct Targets {
    q: Target,
    k: Target,
    v: Target,
    log_decay: Target,
}

/// Writes the chunk's gradients, and takes `scratch.state` from the gradient of the state after the chunk to that of the
/// one before it.
///
/// # Safety
/// Nothing else uses the targets, rows of `d_key`, `d_key`, `d_value` and one.
unsafe fn backward_chunk(
    problem: Problem,
    scratch: &mut Scratch,
    chunk: Chunk,
    before: &[f32],
    dy: Rows,
    targets: Targets,
) {
    let Problem { d_key, d_value, .. } = problem;
    let Chunk { count, q, k, v, .. } = chunk;
    let Scratch {
        decay,
        squares,
        keys,
        values,
        columns,
        state,
    } = scratch;
    let [scores, d_scores, paths] = squares.each_mut().map(|x| &mut x[..count * count]);
    let [crossing, column_sums, through_q, through_k] = columns.each_mut().map(|x| &mut x[..count]);
    let (keys, values) = (&mut keys[..count * d_key], &mut values[..count * d_value]);
    decay.load(chunk.log_decay.values, chunk.log_decay.stride, count);
    let square = |inner| [count, count, inner];
    let (by_key, by_value) = ([count, d_key, count], [count, d_value, count]);
    let (from_state, to_state) = ([count, d_key, d_value], [d_key, d_value, count]);

    // SAFETY: the views are rows of the chunk or scratch matrices, which the sizes fit, and the targets
    // are the caller's promise.
    unsafe {
        product(
            square(d_key),
            fresh(scores, count),
            view(q),
            view(k).transposed(),
        );
        product(
            square(d_value),
            fresh(d_scores, count),
            view(dy),
            view(v).transposed(),
        );
    }
    simd::run(WeighAdjoint {
        decay,
        scores,
        d_scores,
        paths,
        crossing,
        column_sums,
    });
    let (weights, d_scores) = (matrix(scores, count), matrix(d_scores, count));
    // SAFETY: as above.
    unsafe { product(by_value, targets.v, weights.transposed(), view(dy)) };

    // What goes through the state after the chunk.
    let mut through_state = 0.0;
    let mut d_k = targets.k;
    through_k.fill(0.0);
    if !is_zero(state) {
        let after = matrix(state, d_value);
        simd::run(Scale {
            rows: v,
            factors: &decay.leaving,
            scaled: values,
        });
        // SAFETY: as above.
        unsafe {
            product(
                from_state,
                fresh(keys, d_key),
                matrix(values, d_value),
                after.transposed(),
            );
            copy(keys, d_key, d_k);
        }
        simd::run(Dots {
            a: k,
            b: packed(keys, d_key),
            dots: through_k,
        });
        d_k = adding(d_k);
        simd::run(Scale {
            rows: k,
            factors: &decay.leaving,
            scaled: keys,
        });
        // SAFETY: as above.
        unsafe {
            product(
                [count, d_value, d_key],
                adding(targets.v),
                matrix(keys, d_key),
                after,
            )
        };
        let mut dot = [0.0];
        let whole = |values| Rows {
            values,
            stride: 0,
            width: before.len(),
        };
        simd::run(Dots {
            a: whole(before),
            b: whole(state),
            dots: &mut dot,
        });
        through_state = decay.whole() * dot[0];
    }
    // SAFETY: as above.
    unsafe { product(by_key, d_k, d_scores.transposed(), view(q)) };

    // What goes through the state before it.
    simd::run(Scale {
        rows: dy,
        factors: &decay.entering,
        scaled: values,
    });
    let scaled_dy = matrix(values, d_value);
    let mut d_q = targets.q;
    through_q.fill(0.0);
    if !is_zero(before) {
        let before = matrix(before, d_value).transposed();
        // SAFETY: as above.
        unsafe {
            product(from_state, fresh(keys, d_key), scaled_dy, before);
            copy(keys, d_key, d_q);
        }
        simd::run(Dots {
            a: q,
            b: packed(keys, d_key),
            dots: through_q,
        });
        d_q = adding(d_q);
    }
    // SAFETY: as above.
    unsafe { product(by_key, d_q, d_scores, view(k)) };
    let whole = decay.whole();
    state.iter_mut().for_each(|s| *s *= whole);
    let (read, d_before) = (view(q).transposed(), adding(fresh(state, d_value)));
    // SAFETY: as above.
    unsafe { product(to_state, d_before, read, scaled_dy) };

    let mut after = 0.0; // sums over t >= i
    for (crossing, through_q) in crossing.iter_mut().zip(&*through_q).rev() {
        after += through_q;
        *crossing += after + through_state;
    }
    let mut earlier = 0.0; // sums over j < i
    for (i, (crossing, through_k)) in crossing.iter().zip(&*through_k).enumerate() {
        // SAFETY: the caller's promise.
        unsafe { *targets.log_decay.start.add(i * targets.log_decay.stride) = crossing + earlier };
        earlier += through_k;
    }
}
