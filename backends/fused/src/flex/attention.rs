//! Causal attention on packed projections: one unit of work is one head of one batch row, a block of queries at a time.
//!
//! Backward recomputes the weights P and uses, for each block,
//! ```text
//! dV += P^T dO      dP = dO V^T      dS = P (dP - rowsum(P dP))      dQ = dS K      dK += dS^T Q
//! ```

use gemm::Parallelism;

use super::math::exp;
use super::parallel::{Output, for_each};
use super::product::{Target, View, product};
use super::simd::{self, Kernel, max, sum};

/// Queries that are handled together: keys after the last of them are left out.
const BLOCK: usize = 64;

/// `[batch, seq, 3 * heads * d_head]`
#[derive(Clone, Copy)]
pub(super) struct Problem {
    pub batch: usize,
    pub seq: usize,
    pub heads: usize,
    pub d_head: usize,
}

impl Problem {
    fn d_model(self) -> usize {
        self.heads * self.d_head
    }

    fn scale(self) -> f32 {
        (self.d_head as f32).sqrt().recip()
    }

    /// Offset of the queries of unit `unit`; keys and values follow `d_model` and `2 d_model` later.
    fn packed(self, unit: usize) -> usize {
        unit / self.heads * self.seq * 3 * self.d_model() + unit % self.heads * self.d_head
    }

    /// Offset of the mixed values of unit `unit`.
    fn mixed(self, unit: usize) -> usize {
        unit / self.heads * self.seq * self.d_model() + unit % self.heads * self.d_head
    }

    /// First query and number of queries of each block.
    fn blocks(self) -> impl DoubleEndedIterator<Item = (usize, usize)> {
        (0..self.seq)
            .step_by(BLOCK)
            .map(move |first| (first, BLOCK.min(self.seq - first)))
    }

    /// `[first .. first + count, 0 .. first + count]` of the weights, rows of `first + count`.
    ///
    /// # Safety
    /// `q` and `k` are the unit's queries and keys.
    unsafe fn weights(self, q: View, k: View, first: usize, count: usize, weights: &mut [f32]) {
        let keys = first + count;
        let target = Target {
            start: weights.as_mut_ptr(),
            stride: keys,
            add: false,
        };
        let (sizes, q) = ([count, keys, self.d_head], rows_from(q, first));
        // SAFETY: the caller's promise; `weights` has room for the block.
        unsafe {
            product(
                sizes,
                target,
                q,
                k.transposed(),
                self.scale(),
                Parallelism::None,
            );
        }
        simd::run(Softmax {
            weights: &mut weights[..count * keys],
            first,
            keys,
        });
    }
}

/// The view from row `first` on.
fn rows_from(view: View, first: usize) -> View {
    View {
        start: view.start.wrapping_offset(first as isize * view.row),
        ..view
    }
}

/// Scores to weights in place: row `i` over keys `0 ..= first + i`, zero after them.
struct Softmax<'a> {
    weights: &'a mut [f32],
    first: usize,
    keys: usize,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (i, row) in self.weights.chunks_exact_mut(self.keys).enumerate() {
            let (past, future) = row.split_at_mut(self.first + i + 1);
            let top = max(past);
            for x in &mut *past {
                *x = exp(*x - top);
            }
            let factor = 1.0 / sum(past, past, |x, _| x);
            for x in past {
                *x *= factor;
            }
            future.fill(0.0);
        }
    }
}

/// `P (dP - rowsum(P dP))` into `d_weights`, zero in the future.
struct SoftmaxAdjoint<'a> {
    weights: &'a [f32],
    d_weights: &'a mut [f32],
    first: usize,
    keys: usize,
}

impl Kernel for SoftmaxAdjoint<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let rows = self.weights.chunks_exact(self.keys);
        let d_rows = self.d_weights.chunks_exact_mut(self.keys);
        for (i, (row, d_row)) in rows.zip(d_rows).enumerate() {
            let (past, future) = d_row.split_at_mut(self.first + i + 1);
            let row = &row[..past.len()];
            let mean = sum(row, past, |p, d| p * d);
            for (d, &p) in past.iter_mut().zip(row) {
                *d = p * (*d - mean);
            }
            future.fill(0.0);
        }
    }
}

/// Mixed values `[batch, seq, heads * d_head]`.
pub(super) fn forward(problem: Problem, packed: &[f32]) -> Vec<f32> {
    let Problem {
        batch,
        seq,
        heads,
        d_head,
    } = problem;
    let d_model = problem.d_model();
    assert_eq!(packed.len(), batch * seq * 3 * d_model);
    let mixed = Output::new(batch * seq * d_model);
    for_each(batch * heads, |unit| {
        let [q, k, v] = parts(problem, packed, unit);
        let mut weights = vec![0.0; BLOCK.min(seq) * seq];
        for (first, count) in problem.blocks() {
            let keys = first + count;
            let target = Target {
                start: mixed.start(problem.mixed(unit) + first * d_model),
                stride: d_model,
                add: false,
            };
            // SAFETY: the views are this unit's parts of `packed`, the target its own columns of `mixed`.
            unsafe {
                problem.weights(q, k, first, count, &mut weights);
                let weights = View::rows(weights.as_ptr(), keys);
                product(
                    [count, d_head, keys],
                    target,
                    weights,
                    v,
                    1.0,
                    Parallelism::None,
                );
            }
        }
    });
    // SAFETY: the units' columns and the blocks' rows cover the buffer.
    unsafe { mixed.finish() }
}

/// Queries, keys and values of a unit.
fn parts(problem: Problem, packed: &[f32], unit: usize) -> [View; 3] {
    let d_model = problem.d_model();
    [0, 1, 2].map(|part| {
        let start = packed[problem.packed(unit) + part * d_model..].as_ptr();
        View::rows(start, 3 * d_model)
    })
}

/// Gradient of the packed projections.
pub(super) fn backward(problem: Problem, packed: &[f32], grad: &[f32]) -> Vec<f32> {
    let Problem {
        batch, seq, heads, ..
    } = problem;
    let d_model = problem.d_model();
    assert_eq!(packed.len(), batch * seq * 3 * d_model);
    assert_eq!(grad.len(), batch * seq * d_model);
    let d_packed = Output::new(packed.len());
    for_each(batch * heads, |unit| {
        let targets = [0, 1, 2].map(|part| Target {
            start: d_packed.start(problem.packed(unit) + part * d_model),
            stride: 3 * d_model,
            add: false,
        });
        let grad = View::rows(grad[problem.mixed(unit)..].as_ptr(), d_model);
        // SAFETY: views and targets are this unit's parts of the buffers.
        unsafe { backward_unit(problem, parts(problem, packed, unit), grad, targets) };
    });
    // SAFETY: the units' columns cover the buffer; the last block, done first, writes all rows of keys and values.
    unsafe { d_packed.finish() }
}

/// # Safety
/// Views and targets are those of one unit.
unsafe fn backward_unit(
    problem: Problem,
    [q, k, v]: [View; 3],
    grad: View,
    [d_q, d_k, d_v]: [Target; 3],
) {
    let Problem { seq, d_head, .. } = problem;
    let mut weights = vec![0.0; BLOCK.min(seq) * seq];
    let mut d_weights = vec![0.0; BLOCK.min(seq) * seq];
    // From the last block to the first: the last one reaches all keys, so that the others can add to it.
    for (first, count) in problem.blocks().rev() {
        let keys = first + count;
        let add = keys < seq;
        let grad = rows_from(grad, first);
        // SAFETY: the caller's promise.
        unsafe { problem.weights(q, k, first, count, &mut weights) };
        let on_weights = Target {
            start: d_weights.as_mut_ptr(),
            stride: keys,
            add: false,
        };
        let serial = Parallelism::None;
        let p = View::rows(weights.as_ptr(), keys);
        // SAFETY: as above; both scratch buffers have room for the block.
        unsafe {
            product(
                [keys, d_head, count],
                Target { add, ..d_v },
                p.transposed(),
                grad,
                1.0,
                serial,
            );
            product(
                [count, keys, d_head],
                on_weights,
                grad,
                v.transposed(),
                1.0,
                serial,
            );
        }
        simd::run(SoftmaxAdjoint {
            weights: &weights[..count * keys],
            d_weights: &mut d_weights[..count * keys],
            first,
            keys,
        });
        let d_s = View::rows(d_weights.as_ptr(), keys);
        let rows = Target {
            start: d_q.start.wrapping_add(first * d_q.stride),
            ..d_q
        };
        let (q, scale) = (rows_from(q, first), problem.scale());
        // SAFETY: as above.
        unsafe {
            product([count, d_head, keys], rows, d_s, k, scale, serial);
            product(
                [keys, d_head, count],
                Target { add, ..d_k },
                d_s.transposed(),
                q,
                scale,
                serial,
            );
        }
    }
}
