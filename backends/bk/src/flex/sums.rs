//! Gradients that sum over positions and batch rows: single precision inside short runs, double precision across them.

use super::{
    plan::{Block, Dims, Output},
    simd::Lanes,
};
use crate::rule::HYP7_FLOOR;

/// Positions added up in single precision before they join the double-precision total.
const RUN: usize = 64;

/// Sums of one block over positions, `K` for every lane.
pub(super) struct Sums<const W: usize, const K: usize = 3> {
    /// Since the last flush. Of left and diagonal: `- sum_i d alpha_i` (re, im) and `d beta`.
    pub run: [Lanes<W>; K],
    total: [[f64; W]; K],
}

impl<const W: usize, const K: usize> Sums<W, K> {
    #[inline(always)]
    pub fn new() -> Self {
        Self {
            run: [[0.0; W]; K],
            total: [[0.0; W]; K],
        }
    }

    /// To be called at the end of every position.
    #[inline(always)]
    pub fn end_of_position(&mut self, i: usize) {
        if i.is_multiple_of(RUN) {
            self.flush();
        }
    }

    #[inline(always)]
    fn flush(&mut self) {
        for (total, run) in self.total.iter_mut().zip(&mut self.run) {
            for l in 0..W {
                total[l] += f64::from(run[l]);
                run[l] = 0.0;
            }
        }
    }

    /// The sums over all lanes too.
    #[inline(always)]
    pub fn over_lanes(mut self) -> [f64; K] {
        self.flush();
        self.total.map(|lanes| lanes.iter().sum())
    }
}

impl<const W: usize> Sums<W> {
    /// Writes the block's totals to its place in `[batch, 3, heads]`.
    ///
    /// # Safety
    /// No other thread writes this block's totals.
    #[inline(always)]
    pub unsafe fn write(mut self, dims: Dims, block: Block, totals: &Output<f64>) {
        self.flush();
        for (k, total) in self.total.iter().enumerate() {
            let start = (3 * block.batch + k) * dims.heads + block.first;
            // SAFETY: the range belongs to this block; the rest is the caller's promise.
            unsafe { totals.write(start, total, block.count) };
        }
    }
}

/// Gradients of the parameters.
pub(super) struct Parameters {
    /// `[heads]`
    pub hopping: Vec<f32>,
    /// `[2, heads]`
    pub energy: Vec<f32>,
}

/// Adds `[batch, 3, heads]` up over the batch, in order, so that the result does not depend on the threads.
pub(super) fn reduce(totals: &[f64], heads: usize) -> Parameters {
    let sum = |k: usize, sign: f64| {
        (0..heads).map(move |head| {
            let rows = totals.chunks_exact(3 * heads);
            (sign * rows.map(|row| row[k * heads + head]).sum::<f64>()) as f32
        })
    };
    Parameters {
        energy: sum(0, 1.0).chain(sum(1, -1.0)).collect(),
        hopping: sum(2, 1.0).collect(),
    }
}

/// `(1 - t) g X^2 + t g / X^2` with the divisor floored, in one lane: minus the approximate `d alpha`.
#[inline(always)]
pub(super) fn approximate(g: (f32, f32), squared: (f32, f32), t: f32) -> (f32, f32) {
    let norm = squared.0 * squared.0 + squared.1 * squared.1;
    let scale = t / norm.max(HYP7_FLOOR * HYP7_FLOOR);
    let local = 1.0 - t;
    // g (local X^2 + scale conj(X^2))
    super::simd::mul(
        g,
        ((local + scale) * squared.0, (local - scale) * squared.1),
    )
}
