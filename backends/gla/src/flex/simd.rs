//! What happens to the matrices of a chunk between the products, compiled for the instruction sets of the machine.
//!
//! The arithmetic is written once on slices; products and sums are never fused, so every instruction set gives the same
//! bits.

/// Below this, a product of gates counts as nothing: it leaves room for its factors above the subnormal numbers, which
/// processors handle in microcode.
const NOTHING: f32 = 1e-30;
/// Running sums: enough to hide the latency of an addition.
const LANES: usize = 32;

/// Sequential work.
///
/// Implementations mark `run` and everything it calls `#[inline(always)]`, so that it is compiled anew for every
/// instruction set.
pub(super) trait Kernel {
    fn run(self);
}

/// Runs the kernel with the widest vectors that the processor has.
pub(super) fn run<K: Kernel>(kernel: K) {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature.
            return unsafe { avx512(kernel) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature.
            return unsafe { avx2(kernel) };
        }
    }
    kernel.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512<K: Kernel>(kernel: K) {
    kernel.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<K: Kernel>(kernel: K) {
    kernel.run();
}

/// Rows of `width` elements, each `stride` after the one before.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    pub width: usize,
}

impl Rows<'_> {
    #[inline(always)]
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.stride..][..self.width]
    }
}

/// Gates of a chunk, and their products.
#[derive(Default)]
pub(super) struct Decay {
    /// `exp(g_t)`
    pub gates: Vec<f32>,
    /// `exp(A_t)`
    pub entering: Vec<f32>,
    /// Row t of D while rows are weighed; after the last row, `exp(A_C - A_j)`.
    pub leaving: Vec<f32>,
}

impl Decay {
    /// Gates of `count` positions, each `stride` after the one before.
    ///
    /// What leaves the chunk is the exponential of a sum, rounded once: a product of exponentials near one would lose the
    /// same digits at every position, and in the same direction.
    pub fn load(&mut self, log_decay: &[f32], stride: usize, count: usize) {
        self.gates.clear();
        self.entering.clear();
        self.leaving.clear();
        let mut sum = 0.0;
        for &g in log_decay.iter().step_by(stride).take(count) {
            sum += f64::from(g);
            self.gates.push(above_nothing(g.exp()));
            self.entering.push(above_nothing((sum as f32).exp()));
        }
        self.leaving.resize(count, 1.0);
    }

    /// `exp(A_C)`
    pub fn whole(&self) -> f32 {
        self.entering[self.entering.len() - 1]
    }
}

#[inline(always)]
fn above_nothing(x: f32) -> f32 {
    // Also keeps a NaN.
    if x < NOTHING { 0.0 } else { x }
}

/// `D_tj` of the row after that in `row`, whose diagonal is `row[t]`; returns the elements up to the diagonal.
#[inline(always)]
fn next_row(row: &mut [f32], t: usize, gate: f32) -> &[f32] {
    let (past, _) = row.split_at_mut(t);
    for d in past {
        *d = above_nothing(*d * gate);
    }
    row[t] = 1.0;
    &row[..=t]
}

/// `P = (q k^T) * D` in place of `q k^T`.
pub(super) struct Weigh<'a> {
    pub decay: &'a mut Decay,
    /// `[count, count]`
    pub scores: &'a mut [f32],
}

impl Kernel for Weigh<'_> {
    #[inline(always)]
    fn run(self) {
        let Decay { gates, leaving, .. } = self.decay;
        let count = gates.len();
        for (t, row) in self.scores.chunks_exact_mut(count).enumerate() {
            let decay = next_row(leaving, t, gates[t]);
            let (past, future) = row.split_at_mut(t + 1);
            for (score, d) in past.iter_mut().zip(decay) {
                *score *= d;
            }
            future.fill(0.0);
        }
    }
}

/// `P` in place of `q k^T`, `D * (dy v^T)` in place of `dy v^T`, and the gates' share of the paths inside the chunk,
/// `sum_{t >= i > j} M_tj`, for every i.
pub(super) struct WeighAdjoint<'a> {
    pub decay: &'a mut Decay,
    /// `[count, count]`
    pub scores: &'a mut [f32],
    /// `[count, count]`
    pub d_scores: &'a mut [f32],
    /// `[count, count]`, overwritten
    pub paths: &'a mut [f32],
    /// `[count]`, overwritten
    pub crossing: &'a mut [f32],
    /// `[count]`, overwritten
    pub column_sums: &'a mut [f32],
}

impl Kernel for WeighAdjoint<'_> {
    #[inline(always)]
    fn run(self) {
        let Decay { gates, leaving, .. } = self.decay;
        let count = gates.len();
        let rows = self.scores.chunks_exact_mut(count);
        let d_rows = self.d_scores.chunks_exact_mut(count);
        let paths = self.paths.chunks_exact_mut(count);
        for (t, ((row, d_row), path)) in rows.zip(d_rows).zip(paths).enumerate() {
            let decay = next_row(leaving, t, gates[t]);
            let (past, future) = row.split_at_mut(t + 1);
            let (d_past, d_future) = d_row.split_at_mut(t + 1);
            let path = &mut path[..=t];
            for (((score, d_score), path), d) in past.iter_mut().zip(d_past).zip(path).zip(decay) {
                *score *= d;
                *path = *score * *d_score;
                *d_score *= d;
            }
            future.fill(0.0);
            d_future.fill(0.0);
        }
        // From the last row up, columns are sums over t >= i: then those before i remain to be added up.
        self.column_sums.fill(0.0);
        for (i, path) in self.paths.chunks_exact(count).enumerate().rev() {
            let sums = &mut self.column_sums[..=i];
            for (sum, path) in sums.iter_mut().zip(path) {
                *sum += path;
            }
            self.crossing[i] = sum(&sums[..i], &sums[..i], |x, _| x);
        }
    }
}

/// Rows times a factor each, `[count, width]`.
pub(super) struct Scale<'a> {
    pub rows: Rows<'a>,
    pub factors: &'a [f32],
    pub scaled: &'a mut [f32],
}

impl Kernel for Scale<'_> {
    #[inline(always)]
    fn run(self) {
        let targets = self.scaled.chunks_exact_mut(self.rows.width);
        for (i, (target, &factor)) in targets.zip(self.factors).enumerate() {
            for (target, x) in target.iter_mut().zip(self.rows.row(i)) {
                *target = factor * x;
            }
        }
    }
}

/// `a_i . b_i` for every row.
pub(super) struct Dots<'a> {
    pub a: Rows<'a>,
    pub b: Rows<'a>,
    pub dots: &'a mut [f32],
}

impl Kernel for Dots<'_> {
    #[inline(always)]
    fn run(self) {
        for (i, dot) in self.dots.iter_mut().enumerate() {
            *dot = sum(self.a.row(i), self.b.row(i), |a, b| a * b);
        }
    }
}

/// `sum of(a_i, b_i)` over two slices of one length: [`LANES`] sums side by side, joined pairwise.
#[inline(always)]
fn sum(a: &[f32], b: &[f32], of: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_wide, a_rest) = a.as_chunks::<LANES>();
    let (b_wide, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_wide.iter().zip(b_wide) {
        for l in 0..LANES {
            lanes[l] += of(a[l], b[l]);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += of(a, b);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] += lanes[l + width];
        }
        width /= 2;
    }
    lanes[0]
}
