//! Double-precision counterparts: dense inverse, scans, adjoints. Plain loops over one sequence at a time.

use num_complex::Complex64 as C;

use crate::common::{Problem, widen};

/// A problem in double precision, laid out as the tensors are.
#[derive(Clone)]
pub struct Exact {
    pub batch: usize,
    pub seq: usize,
    pub heads: usize,
    pub potential: Vec<f64>,
    pub hopping: Vec<f64>,
    pub energy: Vec<f64>,
    pub state: Vec<f64>,
}

/// Gradients in the order and layout of the arguments.
pub struct Gradients {
    pub potential: Vec<f64>,
    pub hopping: Vec<f64>,
    pub energy: Vec<f64>,
    pub state: Vec<f64>,
}

impl Gradients {
    pub fn each(&self) -> [(&'static str, &[f64]); 4] {
        [
            ("d potential", &self.potential),
            ("d hopping", &self.hopping),
            ("d energy", &self.energy),
            ("d state", &self.state),
        ]
    }
}

/// One sequence: its `alpha_i`, hopping and entering state.
struct Chain {
    alpha: Vec<C>,
    beta: f64,
    state: C,
}

/// Cotangents of one sequence's `alpha_i`, hopping and state.
struct ChainGradients {
    alpha: Vec<C>,
    beta: f64,
    state: C,
}

impl From<&Problem> for Exact {
    fn from(problem: &Problem) -> Self {
        Self {
            batch: problem.batch,
            seq: problem.seq,
            heads: problem.heads,
            potential: widen(&problem.potential),
            hopping: widen(&problem.hopping),
            energy: widen(&problem.energy),
            state: widen(&problem.state),
        }
    }
}

impl Exact {
    fn chain(&self, b: usize, h: usize) -> Chain {
        let Self { seq, heads, .. } = *self;
        let z = C::new(self.energy[h], self.energy[heads + h]);
        let row = &self.state[2 * heads * b..];
        Chain {
            alpha: (0..seq)
                .map(|i| self.potential[(b * seq + i) * heads + h] - z)
                .collect(),
            beta: self.hopping[h],
            state: C::new(row[h], row[heads + h]),
        }
    }

    /// Fills `[batch, seq, 2 * heads]` sequence by sequence.
    fn features(&self, values: impl Fn(&Chain) -> Vec<C>) -> Vec<f64> {
        let (batch, seq, heads) = (self.batch, self.seq, self.heads);
        let mut out = vec![0.0; batch * seq * 2 * heads];
        for b in 0..batch {
            for h in 0..heads {
                for (i, x) in values(&self.chain(b, h)).into_iter().enumerate() {
                    let row = (b * seq + i) * 2 * heads;
                    out[row + h] = x.re;
                    out[row + heads + h] = x.im;
                }
            }
        }
        out
    }

    pub fn left(&self) -> Vec<f64> {
        self.features(|chain| left(chain)[1..].to_vec())
    }

    pub fn diagonal(&self) -> Vec<f64> {
        self.features(|chain| {
            let (left, right) = (left(&chain.fresh()), right(chain));
            diagonal(chain, &left, &right)
        })
    }

    /// `L_i` (last diagonal entry of every leading block's inverse) and `G_ii`, by Gaussian elimination. No state.
    pub fn dense(&self) -> (Vec<f64>, Vec<f64>) {
        let left = self.features(|chain| {
            let block = |n: usize| dense_inverse_diagonal(&chain.alpha[..n], chain.beta)[n - 1];
            (1..=chain.alpha.len()).map(block).collect()
        });
        let all = self.features(|chain| dense_inverse_diagonal(&chain.alpha, chain.beta));
        (left, all)
    }

    fn gradients(
        &self,
        weights: &[f64],
        adjoint: impl Fn(&Chain, &[C]) -> ChainGradients,
    ) -> Gradients {
        let (batch, seq, heads) = (self.batch, self.seq, self.heads);
        let mut out = Gradients {
            potential: vec![0.0; self.potential.len()],
            hopping: vec![0.0; heads],
            energy: vec![0.0; 2 * heads],
            state: vec![0.0; self.state.len()],
        };
        for b in 0..batch {
            for h in 0..heads {
                let row = |i: usize| (b * seq + i) * 2 * heads;
                let g: Vec<C> = (0..seq)
                    .map(|i| C::new(weights[row(i) + h], -weights[row(i) + heads + h]))
                    .collect();
                let found = adjoint(&self.chain(b, h), &g);
                for (i, d_alpha) in found.alpha.iter().enumerate() {
                    out.potential[(b * seq + i) * heads + h] = d_alpha.re;
                    out.energy[h] -= d_alpha.re;
                    out.energy[heads + h] += d_alpha.im;
                }
                out.hopping[h] += found.beta;
                out.state[2 * heads * b + h] = found.state.re;
                out.state[2 * heads * b + heads + h] = -found.state.im;
            }
        }
        out
    }

    pub fn left_gradients(&self, weights: &[f64]) -> Gradients {
        self.gradients(weights, |chain, g| {
            let x = left(chain);
            let n = chain.alpha.len();
            let mut out = ChainGradients {
                alpha: vec![C::ZERO; n],
                beta: 0.0,
                state: C::ZERO,
            };
            let mut carry = C::ZERO;
            for i in (0..n).rev() {
                let lam = g[i] + carry;
                let w = x[i + 1] * x[i + 1] * lam;
                out.alpha[i] = -w;
                out.beta += (x[i] * w).re;
                carry = chain.beta * w;
            }
            out.state = carry;
            out
        })
    }

    /// The formulas with lam and rho in full, one pass each.
    pub fn diagonal_gradients(&self, weights: &[f64]) -> Gradients {
        self.gradients(weights, |chain, g| {
            let (l, r) = (left(&chain.fresh()), right(chain)); // L_i at l[i + 1], R_i at r[i]
            let x = diagonal(chain, &l, &r);
            let (n, beta) = (chain.alpha.len(), chain.beta);
            let m: Vec<C> = (0..n).map(|i| g[i] * x[i] * x[i]).collect();
            let mut lam = vec![C::ZERO; n];
            let mut rho = vec![C::ZERO; n];
            for i in (0..n - 1).rev() {
                lam[i] = beta * (m[i + 1] + l[i + 2] * l[i + 2] * lam[i + 1]);
            }
            for i in 1..n {
                rho[i] = beta * (m[i - 1] + r[i - 1] * r[i - 1] * rho[i - 1]);
            }
            let mut d_beta = C::ZERO;
            let mut alpha = Vec::new();
            for i in 0..n {
                let u = l[i + 1] * l[i + 1] * lam[i];
                let v = r[i] * r[i] * rho[i];
                alpha.push(-(m[i] + u + v));
                d_beta += l[i] * (m[i] + u) + r[i + 1] * (m[i] + v);
            }
            ChainGradients {
                alpha,
                beta: d_beta.re,
                state: C::ZERO,
            }
        })
    }
}

impl Chain {
    fn fresh(&self) -> Self {
        Self {
            alpha: self.alpha.clone(),
            beta: self.beta,
            state: C::ZERO,
        }
    }
}

/// `L_0, L_1, .. L_N`
fn left(chain: &Chain) -> Vec<C> {
    let mut out = vec![chain.state];
    for &alpha in &chain.alpha {
        out.push((alpha - chain.beta * out[out.len() - 1]).inv());
    }
    out
}

/// `R_1, .. R_N, 0`
fn right(chain: &Chain) -> Vec<C> {
    let mut out = vec![C::ZERO];
    for &alpha in chain.alpha.iter().rev() {
        out.push((alpha - chain.beta * out[out.len() - 1]).inv());
    }
    out.reverse();
    out
}

fn diagonal(chain: &Chain, left: &[C], right: &[C]) -> Vec<C> {
    let alpha = chain.alpha.iter().enumerate();
    alpha
        .map(|(i, alpha)| (alpha - chain.beta * (left[i] + right[i + 1])).inv())
        .collect()
}

/// The diagonal of the inverse of the tridiagonal matrix, by Gauss-Jordan elimination with row exchanges.
fn dense_inverse_diagonal(alpha: &[C], beta: f64) -> Vec<C> {
    let n = alpha.len();
    let mut rows: Vec<Vec<C>> = (0..n)
        .map(|i| {
            let mut row = vec![C::ZERO; 2 * n];
            row[i] = alpha[i];
            row[n + i] = C::ONE;
            if i > 0 {
                row[i - 1] = C::from(beta.sqrt());
            }
            if i + 1 < n {
                row[i + 1] = C::from(beta.sqrt());
            }
            row
        })
        .collect();
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| rows[i][k].norm().total_cmp(&rows[j][k].norm()));
        rows.swap(k, pivot.expect("not empty"));
        let scale = rows[k][k].inv();
        rows[k].iter_mut().for_each(|x| *x *= scale);
        let pivot = rows[k].clone();
        for (i, row) in rows.iter_mut().enumerate() {
            if i != k {
                let factor = row[k];
                for (x, p) in row.iter_mut().zip(&pivot) {
                    *x -= factor * p;
                }
            }
        }
    }
    (0..n).map(|i| rows[i][n + i]).collect()
}

/// Largest relative difference between `gradients` and central differences of the linear loss with these weights.
pub fn finite_difference_error(
    problem: &Exact,
    weights: &[f64],
    values: impl Fn(&Exact) -> Vec<f64>,
    gradients: &Gradients,
) -> f64 {
    let loss = |problem: &Exact| -> f64 {
        let values = values(problem);
        values.iter().zip(weights).map(|(x, w)| x * w).sum()
    };
    type Field = fn(&mut Exact) -> &mut Vec<f64>;
    let fields: [Field; 4] = [
        |p| &mut p.potential,
        |p| &mut p.hopping,
        |p| &mut p.energy,
        |p| &mut p.state,
    ];
    let mut worst = 0.0_f64;
    for (field, (_, gradient)) in fields.into_iter().zip(gradients.each()) {
        let scale = gradient.iter().fold(1e-3_f64, |m, x| m.max(x.abs()));
        for (i, &expected) in gradient.iter().enumerate() {
            let step = 1e-5;
            let shifted = |by: f64| {
                let mut problem = problem.clone();
                field(&mut problem)[i] += by;
                loss(&problem)
            };
            let found = (shifted(step) - shifted(-step)) / (2.0 * step);
            worst = worst.max((found - expected).abs() / scale);
        }
    }
    worst
}
