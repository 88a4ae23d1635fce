//! The solve in double precision: dense elimination, scans, adjoints. Plain loops over one sequence at a time.

#![allow(
    clippy::needless_range_loop,
    reason = "a position's index runs over many arrays at once"
)]

use num_complex::Complex64 as C;

/// One (batch row, head): its matrix, right-hand sides `[seq][columns]`, and what enters.
pub struct Chain {
    pub alpha: Vec<C>,
    pub upper: f64,
    pub lower: f64,
    pub resolvent: C,
    pub values: Vec<Vec<f64>>,
    pub entering: Vec<C>,
}

/// Cotangents of a [`Chain`].
pub struct ChainGradients {
    pub alpha: Vec<C>,
    pub upper: C,
    pub lower: C,
    pub resolvent: C,
    pub values: Vec<Vec<C>>,
    pub entering: Vec<C>,
}

impl Chain {
    /// `L_0, L_1, .. L_N`
    fn left(&self) -> Vec<C> {
        let mut out = vec![self.resolvent];
        for &alpha in &self.alpha {
            out.push((alpha - self.upper * self.lower * out[out.len() - 1]).inv());
        }
        out
    }

    /// `d_0, d_1, .. d_N`
    pub fn causal(&self) -> Vec<Vec<C>> {
        let left = self.left();
        let mut out = vec![self.entering.clone()];
        for (i, u) in self.values.iter().enumerate() {
            let d = u.iter().zip(&out[i]);
            out.push(d.map(|(u, d)| left[i + 1] * (u - self.lower * d)).collect());
        }
        out
    }

    pub fn full(&self) -> Vec<Vec<C>> {
        let values = self.values.iter();
        let values = values.map(|row| row.iter().map(|&u| C::from(u)).collect());
        self.solve(self.upper, self.lower, values.collect())
    }

    /// Both halves, fresh, with these numbers above and below the diagonal.
    fn solve(&self, upper: f64, lower: f64, given: Vec<Vec<C>>) -> Vec<Vec<C>> {
        let left = Chain {
            resolvent: C::ZERO,
            alpha: self.alpha.clone(),
            values: Vec::new(),
            entering: Vec::new(),
            ..*self
        }
        .left();
        let mut x = given;
        let (n, columns) = (x.len(), x[0].len());
        for i in 0..n {
            for k in 0..columns {
                let before = if i > 0 { x[i - 1][k] } else { C::ZERO };
                x[i][k] = left[i + 1] * (x[i][k] - lower * before);
            }
        }
        for i in (0..n - 1).rev() {
            for k in 0..columns {
                let after = x[i + 1][k];
                x[i][k] -= left[i + 1] * upper * after;
            }
        }
        x
    }

    /// The solution for the leading `n x n` block.
    pub fn dense(&self, n: usize) -> Vec<Vec<C>> {
        let columns = self.entering.len();
        let mut rows: Vec<Vec<C>> = (0..n)
            .map(|i| {
                let mut row = vec![C::ZERO; n + columns];
                row[i] = self.alpha[i];
                if i > 0 {
                    row[i - 1] = self.lower.into();
                }
                if i + 1 < n {
                    row[i + 1] = self.upper.into();
                }
                for (k, &u) in self.values[i].iter().enumerate() {
                    row[n + k] = u.into();
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
        rows.into_iter().map(|row| row[n..].to_vec()).collect()
    }

    /// By the cotangent `t_i` of `d_i` itself, and lam for the resolvents.
    pub fn causal_adjoint(&self, g: &[Vec<C>]) -> ChainGradients {
        let (left, d) = (self.left(), self.causal());
        let (n, columns, beta) = (g.len(), g[0].len(), self.upper * self.lower);
        let mut t = g.to_vec();
        for i in (0..n - 1).rev() {
            for k in 0..columns {
                let after = t[i + 1][k];
                t[i][k] -= self.lower * left[i + 2] * after;
            }
        }
        let mut out = ChainGradients {
            alpha: vec![C::ZERO; n],
            upper: C::ZERO,
            lower: C::ZERO,
            resolvent: C::ZERO,
            values: vec![vec![C::ZERO; columns]; n],
            entering: vec![C::ZERO; columns],
        };
        let mut d_beta = C::ZERO;
        let mut carry = C::ZERO; // beta L_{i+1}^2 lam_{i+1}
        for i in (0..n).rev() {
            let mut lam = carry;
            for k in 0..columns {
                lam += t[i][k] * (self.values[i][k] - self.lower * d[i][k]);
                out.values[i][k] = left[i + 1] * t[i][k];
                out.lower -= out.values[i][k] * d[i][k];
            }
            let w = left[i + 1] * left[i + 1] * lam;
            out.alpha[i] = -w;
            d_beta += left[i] * w;
            carry = beta * w;
        }
        for k in 0..columns {
            out.entering[k] = -self.lower * out.values[0][k];
        }
        out.resolvent = carry;
        out.upper = self.lower * d_beta;
        out.lower += self.upper * d_beta;
        out
    }

    pub fn full_adjoint(&self, g: &[Vec<C>]) -> ChainGradients {
        let x = self.full();
        let y = self.solve(self.lower, self.upper, g.to_vec());
        let (n, columns) = (g.len(), g[0].len());
        let dot = |i: usize, j: usize| -> C { y[i].iter().zip(&x[j]).map(|(y, x)| y * x).sum() };
        ChainGradients {
            alpha: (0..n).map(|i| -dot(i, i)).collect(),
            upper: (1..n).map(|i| -dot(i - 1, i)).sum(),
            lower: (1..n).map(|i| -dot(i, i - 1)).sum(),
            resolvent: C::ZERO,
            entering: vec![C::ZERO; columns],
            values: y,
        }
    }
}
