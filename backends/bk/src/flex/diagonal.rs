//! `bk_diagonal` on Flex: two sweeps forward, three back, with the sweeps' values in scratch memory of the block.

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
    features: Output<f32>,
}

/// Features `[batch, seq, 2 * heads]` from contiguous arguments.
pub(super) fn forward(dims: Dims, potential: &[f32], hopping: &[f32], energy: &[f32]) -> Vec<f32> {
    let kernel = Forward {
        dims,
        potential,
        hopping,
        energy,
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
        let medium = Medium::<W>::load(dims, self.hopping, self.energy, block);
        let a = |i: usize| potential::<W>(dims, self.potential, i, block);
        let right = sweep_right(dims, &medium, a);
        let mut left = Pair::<W>::ZERO; // L_{i-1}
        for i in 0..dims.seq {
            let a = a(i);
            let centre = centre(&medium, &a, &left, right.get(i + 1));
            medium.advance(&a, &mut left);
            let out = dims.row(block.batch, i, 2 * dims.heads) + block.first;
            // SAFETY: these columns belong to this block alone.
            unsafe {
                self.features.write(out, &centre.re, block.count);
                self.features
                    .write(out + dims.heads, &centre.im, block.count);
            }
        }
    }
}

struct Backward<'a> {
    dims: Dims,
    potential: &'a [f32],
    hopping: &'a [f32],
    energy: &'a [f32],
    grad: &'a [f32],
    rule: GradRule,
    d_potential: Output<f32>,
    totals: Output<f64>,
}

/// Gradients of potential `[batch, seq, heads]` and parameters.
pub(super) fn backward(
    dims: Dims,
    potential: &[f32],
    hopping: &[f32],
    energy: &[f32],
    grad: &[f32],
    rule: GradRule,
) -> (Vec<f32>, Parameters) {
    let Dims { batch, seq, heads } = dims;
    let kernel = Backward {
        dims,
        potential,
        hopping,
        energy,
        grad,
        rule,
        d_potential: Output::new(batch * seq * heads),
        totals: Output::new(3 * batch * heads),
    };
    run(dims, &kernel);
    // SAFETY: the blocks cover every head of every batch row, and each writes all its positions and totals.
    let (d_potential, totals) = unsafe { (kernel.d_potential.finish(), kernel.totals.finish()) };
    (d_potential, reduce(&totals, heads))
}

/// What the sweep from the right leaves at a position for the sweep from the left.
#[derive(Clone, Copy)]
struct Half<const W: usize> {
    /// `m_i = g_i G_ii^2`
    m: Pair<W>,
    /// What this sweep contributes to `-d alpha_i`: `m_i + u_i`, or all of an approximate rule.
    minus_d_alpha: Pair<W>,
}

impl Kernel for Backward<'_> {
    #[inline(always)]
    fn run<const W: usize>(&self, block: Block) {
        let dims = self.dims;
        let medium = Medium::<W>::load(dims, self.hopping, self.energy, block);
        let a = |i: usize| potential::<W>(dims, self.potential, i, block);
        let right = sweep_right(dims, &medium, a);
        let mut left = Vec::with_capacity(dims.seq + 1); // L_0 ..= L_N
        left.push(Pair::<W>::ZERO);
        for i in 0..dims.seq {
            let mut x = left[i];
            medium.advance(&a(i), &mut x);
            left.push(x);
        }

        let blend = self.rule.blend();
        let mut sums = Sums::<W>::new();
        let mut halves = Vec::with_capacity(dims.seq); // last position first
        let mut carry = Pair::<W>::ZERO; // lam_i
        for i in (0..dims.seq).rev() {
            let g = dims.row(block.batch, i, 2 * dims.heads);
            let g = Pair::<W>::load(self.grad, g, dims.heads, block);
            let (before, own) = (left[i], left[i + 1]);
            let centre = centre(&medium, &a(i), &before, right.get(i + 1));
            halves.push(from_right(
                blend, &medium, &g, &centre, &own, &before, &mut carry, &mut sums,
            ));
            sums.end_of_position(i);
        }

        let exact = if blend.is_none() { 1.0 } else { 0.0 };
        let mut carry = Pair::<W>::ZERO; // rho_i
        for (i, half) in halves.iter().rev().enumerate() {
            let after = right.get(i + 1).copied().unwrap_or(Pair::ZERO);
            let own = right[i];
            let d_a = from_left(exact, &medium, half, &own, &after, &mut carry, &mut sums);
            sums.end_of_position(i);
            let start = dims.row(block.batch, i, dims.heads) + block.first;
            // SAFETY: these columns belong to this block alone.
            unsafe { self.d_potential.write(start, &d_a, block.count) };
        }
        // SAFETY: these totals belong to this block alone.
        unsafe { sums.write(dims, block, &self.totals) };
    }
}

/// `u_i = L_i^2 lam_i` joins `m_i`; adds `L_{i-1} (m_i + u_i)` to `d beta`; the carry becomes `lam_{i-1}`.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "an inlined loop body: separate arrays are what the compiler vectorises"
)]
fn from_right<const W: usize>(
    blend: Option<f32>,
    medium: &Medium<W>,
    g: &Pair<W>,
    centre: &Pair<W>,
    own: &Pair<W>,
    before: &Pair<W>,
    carry: &mut Pair<W>,
    sums: &mut Sums<W>,
) -> Half<W> {
    let mut out = Half {
        m: Pair::ZERO,
        minus_d_alpha: Pair::ZERO,
    };
    for l in 0..W {
        let squared = square(centre.re[l], centre.im[l]);
        let m = mul(squared, (g.re[l], -g.im[l]));
        let u = mul(square(own.re[l], own.im[l]), (carry.re[l], carry.im[l]));
        let both = (m.0 + u.0, m.1 + u.1);
        sums.run[2][l] += before.re[l] * both.0 - before.im[l] * both.1;
        carry.re[l] = medium.beta[l] * both.0;
        carry.im[l] = medium.beta[l] * both.1;
        (out.m.re[l], out.m.im[l]) = m;
        (out.minus_d_alpha.re[l], out.minus_d_alpha.im[l]) = both;
    }
    if let Some(t) = blend {
        for l in 0..W {
            let squared = square(centre.re[l], centre.im[l]);
            let kept = approximate((g.re[l], -g.im[l]), squared, t);
            (out.minus_d_alpha.re[l], out.minus_d_alpha.im[l]) = kept;
        }
    }
    out
}

/// `v_i = R_i^2 rho_i` completes `-d alpha_i` where `exact` is one; adds `R_{i+1} (m_i + v_i)` to `d beta`; the carry
/// becomes `rho_{i+1}`.
#[inline(always)]
fn from_left<const W: usize>(
    exact: f32,
    medium: &Medium<W>,
    half: &Half<W>,
    own: &Pair<W>,
    after: &Pair<W>,
    carry: &mut Pair<W>,
    sums: &mut Sums<W>,
) -> Lanes<W> {
    let mut d_a = [0.0; W];
    for l in 0..W {
        let v = mul(square(own.re[l], own.im[l]), (carry.re[l], carry.im[l]));
        let both = (half.m.re[l] + v.0, half.m.im[l] + v.1);
        sums.run[2][l] += after.re[l] * both.0 - after.im[l] * both.1;
        carry.re[l] = medium.beta[l] * both.0;
        carry.im[l] = medium.beta[l] * both.1;
        let re = half.minus_d_alpha.re[l] + exact * v.0;
        sums.run[0][l] += re;
        sums.run[1][l] += half.minus_d_alpha.im[l] + exact * v.1;
        d_a[l] = -re;
    }
    d_a
}

#[inline(always)]
fn potential<const W: usize>(dims: Dims, potential: &[f32], i: usize, block: Block) -> Lanes<W> {
    let start = dims.row(block.batch, i, dims.heads) + block.first;
    load(potential, start, block.count, 0.0)
}

/// `R_1 ..= R_N`, position `i` (from zero) at `[i]`.
#[inline(always)]
fn sweep_right<const W: usize>(
    dims: Dims,
    medium: &Medium<W>,
    potential: impl Fn(usize) -> Lanes<W>,
) -> Vec<Pair<W>> {
    let mut right = vec![Pair::ZERO; dims.seq];
    let mut x = Pair::<W>::ZERO;
    for i in (0..dims.seq).rev() {
        medium.advance(&potential(i), &mut x);
        right[i] = x;
    }
    right
}

/// `G_ii = 1 / (a_i - z - beta (L_{i-1} + R_{i+1}))`
#[inline(always)]
fn centre<const W: usize>(
    medium: &Medium<W>,
    a: &Lanes<W>,
    left: &Pair<W>,
    right: Option<&Pair<W>>,
) -> Pair<W> {
    let right = right.copied().unwrap_or(Pair::ZERO);
    let mut centre = Pair::<W>::ZERO;
    for l in 0..W {
        let (re, im) = (left.re[l] + right.re[l], left.im[l] + right.im[l]);
        (centre.re[l], centre.im[l]) = medium.resolvent(l, a[l], re, im);
    }
    centre
}
