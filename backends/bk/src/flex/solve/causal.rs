//! Forward elimination, and its reverse sweep: the same recurrence run backwards.

use super::{
    super::{
        plan::{Block, Kernel, Output},
        simd::{Pair, mul, square},
        sums::Sums,
    },
    Shape, conj, over_lanes, product, real, reduce, step,
};

struct Eliminate<'a> {
    shape: Shape,
    features: &'a [f32],
    lower: &'a [f32],
    values: &'a [f32],
    state: &'a [f32],
    solution: Output<f32>,
}

/// `d` `[batch, seq, heads, 2 * columns]` from contiguous arguments.
pub(in crate::flex) fn eliminate(
    shape: Shape,
    features: &[f32],
    lower: &[f32],
    values: &[f32],
    state: &[f32],
) -> Vec<f32> {
    let kernel = Eliminate {
        shape,
        features,
        lower,
        values,
        state,
        solution: Output::new(2 * shape.positions() * shape.columns),
    };
    shape.run(&kernel);
    // SAFETY: every sequence wrote all columns of all its positions.
    unsafe { kernel.solution.finish() }
}

impl Kernel for Eliminate<'_> {
    #[inline(always)]
    fn run<const W: usize>(&self, block: Block) {
        let (shape, sequence) = (self.shape, block.batch);
        let c = self.lower[sequence % shape.heads];
        for block in block.pieces(W) {
            let mut d: Pair<W> = shape.pair(self.state, sequence, block);
            for i in 0..shape.seq {
                let row = shape.row(sequence, i);
                let u = real(shape, self.values, row, block);
                let left = shape.resolvent(self.features, sequence, i);
                d = step(left, c, &u, &d);
                // SAFETY: these columns belong to this sequence alone.
                unsafe { shape.write(&self.solution, row, block, &d) };
            }
        }
    }
}

struct EliminateAdjoint<'a> {
    shape: Shape,
    features: &'a [f32],
    lower: &'a [f32],
    state: &'a [f32],
    solution: &'a [f32],
    grad: &'a [f32],
    d_features: Output<f32>,
    d_values: Output<f32>,
    d_state: Output<f32>,
    totals: Output<f64>,
}

/// Gradients of features, lower, values and state.
pub(in crate::flex) fn eliminate_adjoint(
    shape: Shape,
    features: &[f32],
    lower: &[f32],
    state: &[f32],
    solution: &[f32],
    grad: &[f32],
) -> [Vec<f32>; 4] {
    let kernel = EliminateAdjoint {
        shape,
        features,
        lower,
        state,
        solution,
        grad,
        d_features: Output::new(2 * shape.positions()),
        d_values: Output::new(shape.positions() * shape.columns),
        d_state: Output::new(2 * shape.sequences() * shape.columns),
        totals: Output::new(shape.sequences()),
    };
    shape.run(&kernel);
    // SAFETY: every sequence wrote all columns of all its positions, its state and its total.
    unsafe {
        [
            kernel.d_features.finish(),
            reduce(&kernel.totals.finish(), shape, 1, 0, -1.0),
            kernel.d_values.finish(),
            kernel.d_state.finish(),
        ]
    }
}

impl Kernel for EliminateAdjoint<'_> {
    #[inline(always)]
    fn run<const W: usize>(&self, block: Block) {
        let (shape, sequence) = (self.shape, block.batch);
        let c = self.lower[sequence % shape.heads];
        let mut products = vec![(0.0_f32, 0.0_f32); shape.seq]; // s_i . d_i
        let mut sums = Sums::<W, 1>::new();
        for block in block.pieces(W) {
            let mut s = Pair::<W>::ZERO; // s_{i+1}
            let last = shape.row(sequence, shape.seq - 1);
            let mut own: Pair<W> = shape.pair(self.solution, last, block);
            for i in (0..shape.seq).rev() {
                let row = shape.row(sequence, i);
                let before: Pair<W> = match i {
                    0 => shape.pair(self.state, sequence, block),
                    _ => shape.pair(self.solution, shape.row(sequence, i - 1), block),
                };
                let g = conj(shape.pair(self.grad, row, block));
                let left = shape.resolvent(self.features, sequence, i);
                s = step(left, c, &g, &s);
                let dot = product(&s, &own);
                products[i].0 += over_lanes(dot.re);
                products[i].1 += over_lanes(dot.im);
                for l in 0..W {
                    sums.run[0][l] += s.re[l] * before.re[l] - s.im[l] * before.im[l];
                }
                sums.end_of_position(i);
                let start = row * shape.columns + block.first;
                // SAFETY: these columns belong to this sequence alone.
                unsafe { self.d_values.write(start, &s.re, block.count) };
                own = before;
            }
            for l in 0..W {
                s.re[l] *= -c;
                s.im[l] *= c; // of the conjugate
            }
            // SAFETY: the state's columns belong to this sequence alone.
            unsafe { shape.write(&self.d_state, sequence, block, &s) };
        }
        for (i, &dot) in products.iter().enumerate() {
            let (re, im) = shape.resolvent(self.features, sequence, i);
            let q = 1.0 / (re * re + im * im);
            let d_left = mul(dot, square(re * q, -(im * q)));
            let at = shape.feature(sequence, i);
            // SAFETY: this head's features belong to this sequence alone.
            unsafe {
                self.d_features.write(at, &[d_left.0], 1);
                self.d_features.write(at + shape.heads, &[-d_left.1], 1);
            }
        }
        // SAFETY: the total belongs to this sequence alone.
        unsafe { self.totals.write(sequence, &sums.over_lanes(), 1) };
    }
}
