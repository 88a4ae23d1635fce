//! Causal depthwise convolution: `u_t = sum_j w_j x_{t - (width - 1) + j}` a channel, `y = silu(u)` or `u`.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::math::sigmoid;
use super::parallel::{Output, add_pieces, for_each_piece, piece_rows};
use super::simd::{self, Kernel};

/// What both directions know.
#[derive(Clone, Copy)]
pub(super) struct Problem<'a> {
    /// `[batch, past + seq, channels]`
    pub x: &'a [f32],
    /// `[width, channels]`: the taps of all channels side by side, the present one last.
    pub taps: &'a [f32],
    /// Rows of x that stand before the first output; in front of them are zeros.
    pub past: usize,
    pub seq: usize,
    pub channels: usize,
    pub silu: bool,
}

impl Problem<'_> {
    fn batch(&self) -> usize {
        self.x.len() / ((self.past + self.seq) * self.channels)
    }

    fn width(&self) -> usize {
        self.taps.len() / self.channels
    }

    /// The taps that reach a row of x from output row `row` of `[batch * seq]`, each with the number of that row of x.
    #[inline(always)]
    fn reads(&self, row: usize) -> impl Iterator<Item = (usize, usize)> {
        let (lane, at) = (row / self.seq, row % self.seq + self.past);
        let (length, last) = (self.past + self.seq, self.width() - 1);
        (last.saturating_sub(at)..=last).map(move |tap| (tap, lane * length + at + tap - last))
    }

    /// The taps through which row `row` of x (`[batch * (past + seq)]`) is read, each with the number of the output row.
    #[inline(always)]
    fn readers(&self, row: usize) -> impl Iterator<Item = (usize, usize)> {
        let length = self.past + self.seq;
        let (lane, at) = (row / length, row % length);
        let (past, seq, last) = (self.past, self.seq, self.width() - 1);
        (0..=last).filter_map(move |tap| {
            let t = (at + last - tap).checked_sub(past)?;
            (t < seq).then_some((tap, lane * seq + t))
        })
    }

    #[inline(always)]
    fn row<'b>(&self, values: &'b [f32], row: usize) -> &'b [f32] {
        &values[row * self.channels..][..self.channels]
    }

    /// u of one output row.
    #[inline(always)]
    fn convolve(&self, row: usize, u: &mut [f32]) {
        let u = &mut u[..self.channels];
        u.fill(0.0);
        for (tap, source) in self.reads(row) {
            let (w, x) = (self.row(self.taps, tap), self.row(self.x, source));
            for c in 0..self.channels {
                u[c] += w[c] * x[c];
            }
        }
    }
}

struct Forward<'a> {
    problem: Problem<'a>,
    rows: Range<usize>,
    y: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let problem = self.problem;
        let mut u = vec![0.0_f32; problem.channels];
        let outputs = self.y.chunks_exact_mut(problem.channels);
        for (row, y) in self.rows.zip(outputs) {
            problem.convolve(row, &mut u);
            if problem.silu {
                for (y, &u) in y.iter_mut().zip(&u) {
                    y.write(u * sigmoid(u));
                }
            } else {
                y.write_copy_of_slice(&u);
            }
        }
    }
}

/// `[batch, seq, channels]`
pub(super) fn forward(problem: Problem) -> Vec<f32> {
    let channels = problem.channels;
    let rows = problem.batch() * problem.seq;
    let y = Output::new(rows * channels);
    for_each_piece(rows, channels, |_, rows| {
        simd::run(Forward {
            problem,
            rows: rows.clone(),
            // SAFETY: pieces do not overlap.
            y: unsafe { y.part(rows.start * channels..rows.end * channels) },
        });
    });
    // SAFETY: the pieces cover all rows, and each row is written.
    unsafe { y.finish() }
}

struct Inner<'a> {
    problem: Problem<'a>,
    rows: Range<usize>,
    grad: &'a [f32],
    /// Gradient of u.
    d_u: &'a mut [MaybeUninit<f32>],
    /// The sum over the rows of the piece.
    d_taps: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Inner<'_> {
    type Output = ();

    /// `d u = g s (1 + u (1 - s))`, `d w_j = sum_t d u_t x_{t - (width - 1) + j}`
    #[inline(always)]
    fn run(self) {
        let problem = self.problem;
        let channels = problem.channels;
        let mut u = vec![0.0_f32; channels];
        let mut total = vec![0.0_f32; problem.taps.len()];
        let outputs = self.d_u.chunks_exact_mut(channels);
        for (row, output) in self.rows.zip(outputs) {
            let g = problem.row(self.grad, row);
            if problem.silu {
                problem.convolve(row, &mut u);
                for (u, &g) in u.iter_mut().zip(g) {
                    let s = sigmoid(*u);
                    *u = g * s * (1.0 + *u * (1.0 - s));
                }
            } else {
                u.copy_from_slice(g);
            }
            output.write_copy_of_slice(&u);
            for (tap, source) in problem.reads(row) {
                let x = problem.row(problem.x, source);
                let total = &mut total[tap * channels..][..channels];
                for c in 0..channels {
                    total[c] += u[c] * x[c];
                }
            }
        }
        self.d_taps.write_copy_of_slice(&total);
    }
}

struct Outer<'a> {
    problem: Problem<'a>,
    rows: Range<usize>,
    d_u: &'a [f32],
    d_x: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Outer<'_> {
    type Output = ();

    /// `d x_s = sum_j w_j d u_{s + (width - 1) - j}`
    #[inline(always)]
    fn run(self) {
        let problem = self.problem;
        let channels = problem.channels;
        let mut sum = vec![0.0_f32; channels];
        for (row, d_x) in self.rows.zip(self.d_x.chunks_exact_mut(channels)) {
            sum.fill(0.0);
            for (tap, reader) in problem.readers(row) {
                let (w, d_u) = (
                    problem.row(problem.taps, tap),
                    problem.row(self.d_u, reader),
                );
                for c in 0..channels {
                    sum[c] += w[c] * d_u[c];
                }
            }
            d_x.write_copy_of_slice(&sum);
        }
    }
}

/// Gradients of x and of the taps.
pub(super) fn backward(problem: Problem, grad: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let channels = problem.channels;
    let (rows, taps) = (problem.batch() * problem.seq, problem.taps.len());
    let pieces = rows.div_ceil(piece_rows(channels));
    let (d_u, d_taps) = (Output::new(rows * channels), Output::new(pieces * taps));
    for_each_piece(rows, channels, |index, rows| {
        let range = rows.start * channels..rows.end * channels;
        // SAFETY: pieces do not overlap.
        let (d_u, d_taps) = unsafe {
            (
                d_u.part(range),
                d_taps.part(index * taps..(index + 1) * taps),
            )
        };
        simd::run(Inner {
            problem,
            rows,
            grad,
            d_u,
            d_taps,
        });
    });
    // SAFETY: the pieces cover all rows, and each row and each partial sum is written.
    let (d_u, d_taps) = unsafe { (d_u.finish(), add_pieces(&d_taps.finish(), taps)) };
    let d_x = Output::new(problem.x.len());
    for_each_piece(problem.x.len() / channels, channels, |_, rows| {
        simd::run(Outer {
            problem,
            rows: rows.clone(),
            d_u: &d_u,
            // SAFETY: pieces do not overlap.
            d_x: unsafe { d_x.part(rows.start * channels..rows.end * channels) },
        });
    });
    // SAFETY: the pieces cover all rows, and each row is written.
    unsafe { (d_x.finish(), d_taps) }
}

/// Rows and columns changed: `[rows, cols]` to `[cols, rows]`.
pub(super) fn transposed(values: &[f32], cols: usize) -> Vec<f32> {
    let rows = values.len() / cols;
    (0..values.len())
        .map(|i| values[i % rows * cols + i / rows])
        .collect()
}
