//! LayerNorm and RMSNorm: `x' = (x - mean) r`, `y = gamma x'`, with `mean = 0` for RMSNorm.

use std::mem::MaybeUninit;

use super::parallel::{Output, add_pieces, for_each_piece, piece_rows};
use super::simd::{self, Kernel, sum};

/// What both directions know.
#[derive(Clone, Copy)]
pub(super) struct Problem<'a> {
    /// `[rows, gamma.len()]`
    pub x: &'a [f32],
    pub gamma: &'a [f32],
    pub epsilon: f32,
    pub centred: bool,
}

impl Problem<'_> {
    fn rows(&self) -> usize {
        self.x.len() / self.gamma.len()
    }

    /// Mean and `r = 1 / sqrt(mean (x - mean)^2 + epsilon)` of a row.
    #[inline(always)]
    fn moments(&self, x: &[f32]) -> (f32, f32) {
        let width = x.len() as f32;
        let mean = match self.centred {
            true => sum(x, x, |x, _| x) / width,
            false => 0.0,
        };
        let variance = sum(x, x, |x, _| (x - mean) * (x - mean)) / width;
        (mean, 1.0 / (variance + self.epsilon).sqrt())
    }
}

struct Forward<'a> {
    problem: Problem<'a>,
    y: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let gamma = self.problem.gamma;
        let width = gamma.len();
        let rows = self.problem.x.chunks_exact(width);
        for (x, y) in rows.zip(self.y.chunks_exact_mut(width)) {
            let (mean, r) = self.problem.moments(x);
            for ((y, &x), &gamma) in y.iter_mut().zip(x).zip(gamma) {
                y.write((x - mean) * r * gamma);
            }
        }
    }
}

pub(super) fn forward(problem: Problem) -> Vec<f32> {
    let width = problem.gamma.len();
    let y = Output::new(problem.x.len());
    for_each_piece(problem.rows(), width, |_, rows| {
        let range = rows.start * width..rows.end * width;
        simd::run(Forward {
            problem: Problem {
                x: &problem.x[range.clone()],
                ..problem
            },
            // SAFETY: pieces do not overlap.
            y: unsafe { y.part(range) },
        });
    });
    // SAFETY: the pieces cover all rows, and each row is written.
    unsafe { y.finish() }
}

struct Backward<'a> {
    problem: Problem<'a>,
    grad: &'a [f32],
    d_x: &'a mut [MaybeUninit<f32>],
    /// The sum over the rows of the piece.
    d_gamma: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Backward<'_> {
    type Output = ();

    /// `d x = r (g gamma - mean(g gamma) - x' mean(g gamma x'))`, the first mean for LayerNorm only.
    #[inline(always)]
    fn run(self) {
        let gamma = self.problem.gamma;
        let width = gamma.len();
        let mut total = vec![0.0_f32; width];
        let mut weighted = vec![0.0_f32; width]; // g gamma
        let mut normal = vec![0.0_f32; width]; // x'
        let rows = self.problem.x.chunks_exact(width);
        let grads = self.grad.chunks_exact(width);
        for ((x, g), d_x) in rows.zip(grads).zip(self.d_x.chunks_exact_mut(width)) {
            let (mean, r) = self.problem.moments(x);
            let (weighted, normal) = (&mut weighted[..width], &mut normal[..width]);
            let (total, x, g) = (&mut total[..width], &x[..width], &g[..width]);
            for i in 0..width {
                normal[i] = (x[i] - mean) * r;
                weighted[i] = g[i] * gamma[i];
                total[i] += g[i] * normal[i];
            }
            let along = sum(weighted, normal, |w, n| w * n) / width as f32;
            let shift = match self.problem.centred {
                true => sum(weighted, weighted, |w, _| w) / width as f32,
                false => 0.0,
            };
            for ((d_x, &weighted), &normal) in d_x.iter_mut().zip(&*weighted).zip(&*normal) {
                d_x.write(r * (weighted - shift - normal * along));
            }
        }
        self.d_gamma.write_copy_of_slice(&total);
    }
}

/// Gradients of x and gamma.
pub(super) fn backward(problem: Problem, grad: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let width = problem.gamma.len();
    let rows = problem.rows();
    let pieces = rows.div_ceil(piece_rows(width));
    let d_x = Output::new(problem.x.len());
    let d_gamma = Output::new(pieces * width);
    for_each_piece(rows, width, |index, rows| {
        let range = rows.start * width..rows.end * width;
        // SAFETY: pieces do not overlap.
        let partial = unsafe { d_gamma.part(index * width..(index + 1) * width) };
        simd::run(Backward {
            problem: Problem {
                x: &problem.x[range.clone()],
                ..problem
            },
            grad: &grad[range.clone()],
            // SAFETY: pieces do not overlap.
            d_x: unsafe { d_x.part(range) },
            d_gamma: partial,
        });
    });
    // SAFETY: the pieces cover all rows, and each row and each partial sum is written.
    unsafe { (d_x.finish(), add_pieces(&d_gamma.finish(), width)) }
}
