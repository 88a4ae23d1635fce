//! The solve on Flex: one unit of work walks all columns of one (batch row, head), vectorised over the columns.

mod causal;
mod full;

pub(super) use self::{
    causal::{eliminate, eliminate_adjoint},
    full::{solve, solve_adjoint},
};
use super::{
    plan::{Block, Dims, Kernel, Output, load, run_sequences},
    simd::{Lanes, Pair, mul},
};

/// The dimensions of `[batch, seq, heads, columns]`.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub batch: usize,
    pub seq: usize,
    pub heads: usize,
    pub columns: usize,
}

impl Shape {
    /// The dimensions of `L`.
    pub fn dims(self) -> Dims {
        Dims {
            batch: self.batch,
            seq: self.seq,
            heads: self.heads,
        }
    }

    /// The shape of real values.
    pub fn real(self) -> [usize; 4] {
        [self.batch, self.seq, self.heads, self.columns]
    }

    /// The shape of complex values.
    pub fn complex(self) -> [usize; 4] {
        [self.batch, self.seq, self.heads, 2 * self.columns]
    }

    fn sequences(self) -> usize {
        self.batch * self.heads
    }

    fn positions(self) -> usize {
        self.batch * self.seq * self.heads
    }

    /// Runs the kernel on every sequence.
    fn run(self, kernel: &impl Kernel) {
        run_sequences(self.sequences(), self.seq, self.columns, kernel);
    }

    /// The row of position `i` of a sequence in `[batch, seq, heads, ..]`.
    #[inline(always)]
    fn row(self, sequence: usize, i: usize) -> usize {
        (sequence / self.heads * self.seq + i) * self.heads + sequence % self.heads
    }

    /// Where `Re L_i` of a sequence stands in `[batch, seq, 2 * heads]`, `heads` before `Im L_i`.
    #[inline(always)]
    fn feature(self, sequence: usize, i: usize) -> usize {
        (sequence / self.heads * self.seq + i) * 2 * self.heads + sequence % self.heads
    }

    /// `L_i` of a sequence.
    #[inline(always)]
    fn resolvent(self, features: &[f32], sequence: usize, i: usize) -> (f32, f32) {
        let at = self.feature(sequence, i);
        (features[at], features[at + self.heads])
    }

    /// The block's columns of complex row `row` of `[.., 2 * columns]`.
    #[inline(always)]
    fn pair<const W: usize>(self, source: &[f32], row: usize, block: Block) -> Pair<W> {
        Pair::load(source, 2 * row * self.columns, self.columns, block)
    }

    /// Writes the block's columns of complex row `row`.
    ///
    /// # Safety
    /// No other thread writes them.
    #[inline(always)]
    unsafe fn write<const W: usize>(
        self,
        target: &Output<f32>,
        row: usize,
        block: Block,
        x: &Pair<W>,
    ) {
        let start = 2 * row * self.columns + block.first;
        // SAFETY: the caller's promise.
        unsafe {
            target.write(start, &x.re, block.count);
            target.write(start + self.columns, &x.im, block.count);
        }
    }
}

/// `L (g - coupling x)` in every lane.
#[inline(always)]
fn step<const W: usize>(left: (f32, f32), coupling: f32, g: &Pair<W>, x: &Pair<W>) -> Pair<W> {
    let mut out = Pair::ZERO;
    for l in 0..W {
        let rest = (g.re[l] - coupling * x.re[l], g.im[l] - coupling * x.im[l]);
        (out.re[l], out.im[l]) = mul(left, rest);
    }
    out
}

/// `x <- d - L coupling x` in every lane: one step of back substitution.
#[inline(always)]
fn substitute<const W: usize>(left: (f32, f32), coupling: f32, d: &Pair<W>, x: &mut Pair<W>) {
    let gate = (left.0 * coupling, left.1 * coupling);
    for l in 0..W {
        let known = mul(gate, (x.re[l], x.im[l]));
        x.re[l] = d.re[l] - known.0;
        x.im[l] = d.im[l] - known.1;
    }
}

#[inline(always)]
fn conj<const W: usize>(mut x: Pair<W>) -> Pair<W> {
    for l in 0..W {
        x.im[l] = -x.im[l];
    }
    x
}

#[inline(always)]
fn product<const W: usize>(x: &Pair<W>, y: &Pair<W>) -> Pair<W> {
    let mut out = Pair::ZERO;
    for l in 0..W {
        (out.re[l], out.im[l]) = mul((x.re[l], x.im[l]), (y.re[l], y.im[l]));
    }
    out
}

/// The sum over lanes, in halves: a chain of additions would wait for each of them.
#[inline(always)]
fn over_lanes<const W: usize>(mut lanes: Lanes<W>) -> f32 {
    let mut half = W / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// The block's columns of row `row` of the real `[.., columns]`.
#[inline(always)]
fn real<const W: usize>(shape: Shape, values: &[f32], row: usize, block: Block) -> Pair<W> {
    let start = row * shape.columns + block.first;
    Pair {
        re: load(values, start, block.count, 0.0),
        im: [0.0; W],
    }
}

/// `sign` times number `k` of the `width` totals of every sequence, added up over the batch in order: `[heads]`.
fn reduce(totals: &[f64], shape: Shape, width: usize, k: usize, sign: f64) -> Vec<f32> {
    let sum = |head: usize| {
        let rows = (0..shape.batch).map(|batch| totals[(batch * shape.heads + head) * width + k]);
        (sign * rows.sum::<f64>()) as f32
    };
    (0..shape.heads).map(sum).collect()
}
