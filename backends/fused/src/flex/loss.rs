//! Cross-entropy: `log sum_j exp(l_j) - l_target`, and its gradient `g (softmax(l) - onehot(target))`.

use std::mem::MaybeUninit;

use super::math::exp;
use super::parallel::{Output, for_each_piece};
use super::simd::{self, Kernel, max, sum};

struct Forward<'a> {
    logits: &'a [f32],
    targets: &'a [usize],
    nats: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.logits.len() / self.targets.len();
        let rows = self.logits.chunks_exact(width);
        for ((row, &target), nats) in rows.zip(self.targets).zip(self.nats) {
            let top = max(row);
            let total = sum(row, row, |l, _| exp(l - top));
            nats.write(total.ln() + (top - row[target]));
        }
    }
}

/// Nats `[tokens]` from logits `[tokens, vocab]`.
pub(super) fn forward(logits: &[f32], targets: &[usize], vocab: usize) -> Vec<f32> {
    let nats = Output::new(targets.len());
    for_each_piece(targets.len(), vocab, |_, rows| {
        simd::run(Forward {
            logits: &logits[rows.start * vocab..rows.end * vocab],
            targets: &targets[rows.clone()],
            // SAFETY: pieces do not overlap.
            nats: unsafe { nats.part(rows) },
        });
    });
    // SAFETY: the pieces cover all rows.
    unsafe { nats.finish() }
}

struct Backward<'a> {
    logits: &'a [f32],
    targets: &'a [usize],
    grad: &'a [f32],
    d_logits: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let width = self.logits.len() / self.targets.len();
        let rows = self.logits.chunks_exact(width);
        let outputs = self.d_logits.chunks_exact_mut(width);
        let labels = self.targets.iter().zip(self.grad);
        for ((row, output), (&target, &g)) in rows.zip(outputs).zip(labels) {
            let top = max(row);
            let factor = g / sum(row, row, |l, _| exp(l - top));
            for (output, &l) in output.iter_mut().zip(row) {
                output.write(exp(l - top) * factor);
            }
            output[target].write(exp(row[target] - top) * factor - g);
        }
    }
}

/// Gradient of the logits.
pub(super) fn backward(logits: &[f32], targets: &[usize], vocab: usize, grad: &[f32]) -> Vec<f32> {
    let d_logits = Output::new(logits.len());
    for_each_piece(targets.len(), vocab, |_, rows| {
        let range = rows.start * vocab..rows.end * vocab;
        simd::run(Backward {
            logits: &logits[range.clone()],
            targets: &targets[rows.clone()],
            grad: &grad[rows],
            // SAFETY: pieces do not overlap.
            d_logits: unsafe { d_logits.part(range) },
        });
    });
    // SAFETY: the pieces cover all rows.
    unsafe { d_logits.finish() }
}
