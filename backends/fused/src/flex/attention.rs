//! Attention on packed projections: one unit of work is one head of one batch row, a block of queries at a time.
//!
//! A block computes the weights of the keys that at least one of its queries sees, and leaves out the others.
//! Backward recomputes the weights P and uses, for each block,
//! ```text
//! dV += P^T dO      dP = dO V^T      dS = P (dP - rowsum(P dP))      dQ = dS K      dK += dS^T Q
//! ```

mod block;

use std::ops::Range;

use self::block::{BLOCK, Block, rows_from};
use super::math::exp;
use super::parallel::{Output, for_each};
use super::product::{Target, View};
use super::simd::{self, Kernel, max, sum};
use crate::mask::AttentionMask;

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

    fn blocks(self, mask: AttentionMask) -> Vec<Block> {
        (0..self.seq)
            .step_by(BLOCK)
            .map(|first| Block::new(mask, first, self.seq))
            .collect()
    }

    /// Weights of a block, `[count, keys]`.
    ///
    /// # Safety
    /// `q` and `k` are the unit's queries and keys.
    unsafe fn weights(self, block: &Block, q: View, k: View, weights: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { block.against_keys(rows_from(q, block.first), k, self, self.scale(), weights) };
        simd::run(Softmax { block, weights });
    }
}

/// A row cut into what a query sees, sinks and band, with zeros written to what it does not see.
#[inline(always)]
fn clear_unseen(row: &mut [f32], [sinks, band]: [Range<usize>; 2]) -> [&mut [f32]; 2] {
    let (row, future) = row.split_at_mut(band.end);
    let (row, band) = row.split_at_mut(band.start);
    let (sinks, gap) = row.split_at_mut(sinks.end);
    gap.fill(0.0);
    future.fill(0.0);
    [sinks, band]
}

/// Scores to weights in place, zero where a query does not see a key.
struct Softmax<'a> {
    block: &'a Block,
    weights: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let rows = self.weights.chunks_exact_mut(self.block.keys());
        for (i, row) in rows.enumerate() {
            let [sinks, band] = clear_unseen(row, self.block.seen(i));
            let mut top = max(band);
            if !sinks.is_empty() {
                top = top.max(max(sinks));
            }
            for x in &mut *sinks {
                *x = exp(*x - top);
            }
            for x in &mut *band {
                *x = exp(*x - top);
            }
            let mut total = sum(band, band, |x, _| x);
            if !sinks.is_empty() {
                total += sum(sinks, sinks, |x, _| x);
            }
            let factor = 1.0 / total;
            for x in sinks {
                *x *= factor;
            }
            for x in band {
                *x *= factor;
            }
        }
    }
}

/// `P (dP - rowsum(P dP))` into `d_weights`, zero where a query does not see a key.
struct SoftmaxAdjoint<'a> {
    block: &'a Block,
    weights: &'a [f32],
    d_weights: &'a mut [f32],
}

impl Kernel for SoftmaxAdjoint<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let keys = self.block.keys();
        let rows = self.weights.chunks_exact(keys);
        let d_rows = self.d_weights.chunks_exact_mut(keys);
        for (i, (row, d_row)) in rows.zip(d_rows).enumerate() {
            let seen = self.block.seen(i);
            let [p_sinks, p_band] = seen.clone().map(|range| &row[range]);
            let [sinks, band] = clear_unseen(d_row, seen);
            let mut mean = sum(p_band, band, |p, d| p * d);
            if !sinks.is_empty() {
                mean += sum(p_sinks, sinks, |p, d| p * d);
            }
            for (d, &p) in sinks.iter_mut().zip(p_sinks) {
                *d = p * (*d - mean);
            }
            for (d, &p) in band.iter_mut().zip(p_band) {
                *d = p * (*d - mean);
            }
        }
    }
}

/// Elements of the weights of the largest block.
fn scratch(blocks: &[Block]) -> usize {
    let sizes = blocks.iter().map(|block| block.count * block.keys());
    sizes.max().unwrap_or(0)
}

/// Mixed values `[batch, seq, heads * d_head]`.
pub(super) fn forward(problem: Problem, mask: AttentionMask, packed: &[f32]) -> Vec<f32> {
    let Problem {
        batch, seq, heads, ..
    } = problem;
    let d_model = problem.d_model();
    assert_eq!(packed.len(), batch * seq * 3 * d_model);
    let mixed = Output::new(batch * seq * d_model);
    let blocks = problem.blocks(mask);
    for_each(batch * heads, |unit| {
        let [q, k, v] = parts(problem, packed, unit);
        let mut weights = vec![0.0; scratch(&blocks)];
        for block in &blocks {
            let weights = &mut weights[..block.count * block.keys()];
            let target = Target {
                start: mixed.start(problem.mixed(unit) + block.first * d_model),
                stride: d_model,
                add: false,
            };
            // SAFETY: the views are this unit's parts of `packed`, the target its own columns of `mixed`.
            unsafe {
                problem.weights(block, q, k, weights);
                block.over_keys(weights, v, problem, 1.0, target);
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
pub(super) fn backward(
    problem: Problem,
    mask: AttentionMask,
    packed: &[f32],
    grad: &[f32],
) -> Vec<f32> {
    let Problem {
        batch, seq, heads, ..
    } = problem;
    let d_model = problem.d_model();
    assert_eq!(packed.len(), batch * seq * 3 * d_model);
    assert_eq!(grad.len(), batch * seq * d_model);
    let d_packed = Output::new(packed.len());
    let blocks = problem.blocks(mask);
    for_each(batch * heads, |unit| {
        let targets = [0, 1, 2].map(|part| Target {
            start: d_packed.start(problem.packed(unit) + part * d_model),
            stride: 3 * d_model,
            add: false,
        });
        let grad = View::rows(grad[problem.mixed(unit)..].as_ptr(), d_model);
        // SAFETY: views and targets are this unit's parts of the buffers.
        unsafe {
            backward_unit(
                problem,
                &blocks,
                parts(problem, packed, unit),
                grad,
                targets,
            )
        };
    });
    // SAFETY: the units' columns cover the buffer; queries are written a block at a time, and all rows of keys and values by
    // the last block, done first, or as zeros before it.
    unsafe { d_packed.finish() }
}

/// # Safety
/// Views and targets are those of one unit.
unsafe fn backward_unit(
    problem: Problem,
    blocks: &[Block],
    [q, k, v]: [View; 3],
    grad: View,
    [d_q, mut d_k, mut d_v]: [Target; 3],
) {
    let mut weights = vec![0.0; scratch(blocks)];
    let mut d_weights = vec![0.0; scratch(blocks)];
    // From the last block to the first: without a window the last one reaches all keys, so that the others can add to it.
    if blocks.last().is_some_and(|last| last.keys() < problem.seq) {
        for target in [&mut d_k, &mut d_v] {
            // SAFETY: the caller's promise.
            unsafe { clear(problem, *target) };
            target.add = true;
        }
    }
    for block in blocks.iter().rev() {
        let weights = &mut weights[..block.count * block.keys()];
        let d_weights = &mut d_weights[..block.count * block.keys()];
        let (queries, grad) = (rows_from(q, block.first), rows_from(grad, block.first));
        let d_queries = Target {
            start: d_q.start.wrapping_add(block.first * d_q.stride),
            ..d_q
        };
        let scale = problem.scale();
        // SAFETY: the caller's promise.
        unsafe {
            problem.weights(block, q, k, weights);
            block.onto_keys(weights, grad, problem, 1.0, d_v);
            block.against_keys(grad, v, problem, 1.0, d_weights);
        }
        simd::run(SoftmaxAdjoint {
            block,
            weights,
            d_weights,
        });
        // SAFETY: as above.
        unsafe {
            block.over_keys(d_weights, k, problem, scale, d_queries);
            block.onto_keys(d_weights, queries, problem, scale, d_k);
        }
        (d_k.add, d_v.add) = (true, true);
    }
}

/// Zeros to all rows of a unit's keys or values.
///
/// # Safety
/// The target is that of one unit.
unsafe fn clear(problem: Problem, target: Target) {
    for row in 0..problem.seq {
        // SAFETY: the caller's promise: `seq` rows of `d_head` elements, `stride` apart. Zero bits are 0.0.
        unsafe {
            target
                .start
                .add(row * target.stride)
                .write_bytes(0, problem.d_head)
        };
    }
}
