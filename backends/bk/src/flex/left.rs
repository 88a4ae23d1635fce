//! `bk_left` on Flex: one pass forward, one pass back, nothing recomputed.

use super::{
    plan::{Block, Dims, Kernel, Output, load, run},
    simd::{Lanes, Medium, Pair, mul, square},
    sums::{Parameters, Sums, approximate, reduce},
};
use crate::rule::GradRule;

struct Forward<'a> {
    dims: Dims,
    potential: &'a [f32],
    hopping: &'a [f32],
    energy: &'a [f32],
    state: &'a [f32],
    features: Output<f32>,
}

/// Features `[batch, seq, 2 * heads]` from contiguous arguments.
pub(super) fn forward(
    dims: Dims,
    potential: &[f32],
    hopping: &[f32],
    energy: &[f32],
    state: &[f32],
) -> Vec<f32> {
    let kernel = Forward {
        dims,
        potential,
        hopping,
        energy,
        state,
        features: Output::new(dims.features().iter().product()),
    };
    run(dims, &kernel);
    // SAFETY: the blocks cover every head of every batch row, and each writes all its positions.
    unsafe { kernel.features.finish() }
}

impl Kernel for Forward<'_> {
    #[inline(always)]
    fn run<const W: usize>(&self, block: Block) {
        let dims = self.dims;
        let Block {
            batch,
            first,
            count,
        } = block;
        let medium = Medium::<W>::load(dims, self.hopping, self.energy, block);
        let mut x = Pair::load(self.state, 2 * dims.heads * batch, dims.heads, block);
        for i in 0..dims.seq {
            let start = dims.row(batch, i, dims.heads) + first;
            let a: Lanes<W> = load(self.potential, start, count, 0.0);
            medium.advance(&a, &mut x);
            let out = dims.row(batch, i, 2 * dims.heads) + first;
            // SAFETY: these columns belong to this block alone.
            unsafe {
                self.features.write(out, &x.re, count);
                self.features.write(out + dims.heads, &x.im, count);
            }
        }
    }
}

struct Backward<'a> {
    dims: Dims,
    features: &'a [f32],
    hopping: &'a [f32],
    state: &'a [f32],
    grad: &'a [f32],
    rule: GradRule,
    d_potential: Output<f32>,
    d_state: Output<f32>,
    totals: Output<f64>,
}

/// Gradients of potential `[batch, seq, heads]`, parameters, and state `[batch, 2 * heads]`.
pub(super) fn backward(
    dims: Dims,
    features: &[f32],
    hopping: &[f32],
    state: &[f32],
    grad: &[f32],
    rule: GradRule,
) -> (Vec<f32>, Parameters, Vec<f32>) {
    let Dims { batch, seq, heads } = dims;
    let kernel = Backward {
        dims,
        features,
        hopping,
        state,
        grad,
        rule,
        d_potential: Output::new(batch * seq * heads),
        d_state: Output::new(2 * batch * heads),
        totals: Output::new(3 * batch * heads),
    };
    run(dims, &kernel);
    // SAFETY: the blocks cover every head of every batch row, and each writes all its positions and totals.
    let (d_potential, d_state, totals) = unsafe {
        (
            kernel.d_potential.finish(),
            kernel.d_state.finish(),
            kernel.totals.finish(),
        )
    };
    (d_potential, reduce(&totals, heads), d_state)
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run<const W: usize>(&self, block: Block) {
        let dims = self.dims;
        let heads = dims.heads;
        let beta: Lanes<W> = load(self.hopping, block.first, block.count, 0.0);
        let row = |i: usize| dims.row(block.batch, i, 2 * heads);
        let blend = self.rule.blend();
        let mut sums = Sums::<W>::new();
        let mut carry = Pair::<W>::ZERO; // beta w_{i+1}
        let mut x = Pair::<W>::load(self.features, row(dims.seq - 1), heads, block);
        for i in (0..dims.seq).rev() {
            let before = match i {
                0 => Pair::load(self.state, 2 * heads * block.batch, heads, block),
                _ => Pair::load(self.features, row(i - 1), heads, block),
            };
            let g = Pair::<W>::load(self.grad, row(i), heads, block);
            let d_a = match blend {
                None => exact(&beta, &x, &before, &g, &mut carry, &mut sums),
                Some(t) => {
                    let held = [sums.run[0], sums.run[1]];
                    exact(&beta, &x, &before, &g, &mut carry, &mut sums);
                    [sums.run[0], sums.run[1]] = held;
                    stand_in(t, &x, &g, &mut sums)
                }
            };
            sums.end_of_position(i);
            let start = dims.row(block.batch, i, heads) + block.first;
            // SAFETY: these columns belong to this block alone.
            unsafe { self.d_potential.write(start, &d_a, block.count) };
            x = before;
        }
        let d_state = 2 * heads * block.batch + block.first;
        let d_state_im: Lanes<W> = carry.im.map(|im| -im);
        // SAFETY: these places belong to this block alone.
        unsafe {
            self.d_state.write(d_state, &carry.re, block.count);
            self.d_state
                .write(d_state + heads, &d_state_im, block.count);
            sums.write(dims, block, &self.totals);
        }
    }
}

/// `w = L^2 (g + carry)`; adds `w` to `-d alpha` and `L_{i-1} w` to `d beta`; the carry becomes `beta w`.
#[inline(always)]
fn exact<const W: usize>(
    beta: &Lanes<W>,
    x: &Pair<W>,
    before: &Pair<W>,
    g: &Pair<W>,
    carry: &mut Pair<W>,
    sums: &mut Sums<W>,
) -> Lanes<W> {
    let mut d_a = [0.0; W];
    for l in 0..W {
        let lam = (carry.re[l] + g.re[l], carry.im[l] - g.im[l]);
        let w = mul(square(x.re[l], x.im[l]), lam);
        d_a[l] = -w.0;
        sums.run[0][l] += w.0;
        sums.run[1][l] += w.1;
        sums.run[2][l] += before.re[l] * w.0 - before.im[l] * w.1;
        carry.re[l] = beta[l] * w.0;
        carry.im[l] = beta[l] * w.1;
    }
    d_a
}

/// The approximate rules in the place of `-d alpha`.
#[inline(always)]
fn stand_in<const W: usize>(t: f32, x: &Pair<W>, g: &Pair<W>, sums: &mut Sums<W>) -> Lanes<W> {
    let mut d_a = [0.0; W];
    for l in 0..W {
        let v = approximate((g.re[l], -g.im[l]), square(x.re[l], x.im[l]), t);
        d_a[l] = -v.0;
        sums.run[0][l] += v.0;
        sums.run[1][l] += v.1;
    }
    d_a
}
