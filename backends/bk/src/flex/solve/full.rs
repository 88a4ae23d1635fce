//! The whole solve, and the transposed solve with the products that are its gradients.

use super::{
    super::{
        plan::{Block, Kernel, Output},
        simd::Pair,
        sums::Sums,
    },
    Shape, conj, over_lanes, product, real, reduce, step, substitute,
};

struct Solve<'a> {
    shape: Shape,
    features: &'a [f32],
    upper: &'a [f32],
    lower: &'a [f32],
    values: &'a [f32],
    solution: Output<f32>,
}

/// `x` `[batch, seq, heads, 2 * columns]` from contiguous arguments; features are the fresh `L`.
pub(in crate::flex) fn solve(
    shape: Shape,
    features: &[f32],
    upper: &[f32],
    lower: &[f32],
    values: &[f32],
) -> Vec<f32> {
    let kernel = Solve {
        shape,
        features,
        upper,
        lower,
        values,
        solution: Output::new(2 * shape.positions() * shape.columns),
    };
    shape.run(&kernel);
    // SAFETY: every sequence wrote all columns of all its positions.
    unsafe { kernel.solution.finish() }
}

/// Forward elimination of one sequence's columns, from nothing.
#[inline(always)]
fn forward<const W: usize>(
    shape: Shape,
    features: &[f32],
    sequence: usize,
    coupling: f32,
    given: impl Fn(usize) -> Pair<W>,
) -> Vec<Pair<W>> {
    let mut d = Pair::ZERO;
    let mut all = Vec::with_capacity(shape.seq);
    for i in 0..shape.seq {
        let left = shape.resolvent(features, sequence, i);
        d = step(left, coupling, &given(i), &d);
        all.push(d);
    }
    all
}

impl Kernel for Solve<'_> {
    #[inline(always)]
    fn run<const W: usize>(&self, block: Block) {
        let (shape, sequence) = (self.shape, block.batch);
        let head = sequence % shape.heads;
        let (b, c) = (self.upper[head], self.lower[head]);
        for block in block.pieces(W) {
            let given = |i| real::<W>(shape, self.values, shape.row(sequence, i), block);
            let forward = forward(shape, self.features, sequence, c, given);
            let mut x = Pair::ZERO; // x_{i+1}
            for (i, d) in forward.iter().enumerate().rev() {
                let left = shape.resolvent(self.features, sequence, i);
                substitute(left, b, d, &mut x);
                // SAFETY: these columns belong to this sequence alone.
                unsafe { shape.write(&self.solution, shape.row(sequence, i), block, &x) };
            }
        }
    }
}

struct SolveAdjoint<'a> {
    shape: Shape,
    features: &'a [f32],
    upper: &'a [f32],
    lower: &'a [f32],
    solution: &'a [f32],
    grad: &'a [f32],
    d_potential: Output<f32>,
    d_values: Output<f32>,
    totals: Output<f64>,
}

/// Gradients of potential, upper, lower, energy and values; features are the fresh `L`.
pub(in crate::flex) fn solve_adjoint(
    shape: Shape,
    features: &[f32],
    upper: &[f32],
    lower: &[f32],
    solution: &[f32],
    grad: &[f32],
) -> [Vec<f32>; 5] {
    let kernel = SolveAdjoint {
        shape,
        features,
        upper,
        lower,
        solution,
        grad,
        d_potential: Output::new(shape.positions()),
        d_values: Output::new(shape.positions() * shape.columns),
        totals: Output::new(4 * shape.sequences()),
    };
    shape.run(&kernel);
    // SAFETY: every sequence wrote all columns of all its positions, and its totals.
    unsafe {
        let totals = kernel.totals.finish();
        let mut energy = reduce(&totals, shape, 4, 0, 1.0);
        energy.extend(reduce(&totals, shape, 4, 1, -1.0));
        [
            kernel.d_potential.finish(),
            reduce(&totals, shape, 4, 2, -1.0),
            reduce(&totals, shape, 4, 3, -1.0),
            energy,
            kernel.d_values.finish(),
        ]
    }
}

impl Kernel for SolveAdjoint<'_> {
    #[inline(always)]
    fn run<const W: usize>(&self, block: Block) {
        let (shape, sequence) = (self.shape, block.batch);
        let head = sequence % shape.heads;
        let (b, c) = (self.upper[head], self.lower[head]);
        let mut products = vec![0.0_f32; shape.seq]; // Re y_i . x_i
        // y_i . x_i (re, im), Re y_i . x_{i+1}, Re y_i . x_{i-1}
        let mut sums = Sums::<W, 4>::new();
        for block in block.pieces(W) {
            let given = |i| conj(shape.pair(self.grad, shape.row(sequence, i), block));
            let forward = forward(shape, self.features, sequence, b, given);
            let mut y_next = Pair::<W>::ZERO;
            let mut x_next = Pair::<W>::ZERO;
            for (i, forward) in forward.iter().enumerate().rev() {
                let row = shape.row(sequence, i);
                let left = shape.resolvent(self.features, sequence, i);
                let x: Pair<W> = shape.pair(self.solution, row, block);
                let mut y = y_next;
                substitute(left, c, forward, &mut y);
                let dot = product(&y, &x);
                for l in 0..W {
                    sums.run[0][l] += dot.re[l];
                    sums.run[1][l] += dot.im[l];
                    sums.run[2][l] += y.re[l] * x_next.re[l] - y.im[l] * x_next.im[l];
                    sums.run[3][l] += y_next.re[l] * x.re[l] - y_next.im[l] * x.im[l];
                }
                sums.end_of_position(i);
                products[i] += over_lanes(dot.re);
                let start = row * shape.columns + block.first;
                // SAFETY: these columns belong to this sequence alone.
                unsafe { self.d_values.write(start, &y.re, block.count) };
                (y_next, x_next) = (y, x);
            }
        }
        for (i, dot) in products.iter().enumerate() {
            // SAFETY: this head's positions, and the totals, belong to this sequence alone.
            unsafe {
                let at = shape.row(sequence, i);
                self.d_potential.write(at, &[-dot], 1);
            }
        }
        // SAFETY: the totals belong to this sequence alone.
        unsafe { self.totals.write(4 * sequence, &sums.over_lanes(), 4) };
    }
}
