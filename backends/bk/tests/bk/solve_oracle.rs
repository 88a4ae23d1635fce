//! Random problems for the solve, and their values and gradients in double precision.

use burn::tensor::{Device, Tensor};
use kiln_bk::SolveState;
use num_complex::Complex64 as C;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    common::{tensor, vector},
    solve_chain::Chain,
};

/// The arguments, in this order: potential, upper, lower, energy, values, `L_0`, `d_0`; laid out as the tensors are.
pub const ARGUMENTS: [&str; 7] = [
    "potential",
    "upper",
    "lower",
    "energy",
    "values",
    "state.resolvent",
    "state.values",
];

/// A random problem. The loss is the sum of the output times the weights, in the precision of the device.
#[derive(Clone, Debug)]
pub struct Problem {
    pub batch: usize,
    pub seq: usize,
    pub heads: usize,
    pub columns: usize,
    pub with_state: bool,
    /// In the order of [`ARGUMENTS`], all of them representable in single precision.
    pub arguments: [Vec<f64>; 7],
    pub weights: Vec<f64>,
}

impl Problem {
    pub fn random([batch, seq, heads, columns]: [usize; 4], with_state: bool) -> Self {
        let seed = batch * 1_000_003 + seq * 1009 + heads * 31 + columns * 2;
        let mut rng = ChaCha8Rng::seed_from_u64((seed + usize::from(with_state)) as u64);
        let mut draw = |len: usize, low: f32, high: f32| -> Vec<f64> {
            (0..len)
                .map(|_| f64::from(rng.random_range(low..high)))
                .collect()
        };
        let potential = draw(batch * seq * heads, -2.5, 2.5);
        let (mut upper, mut lower) = (draw(heads, 0.4, 1.3), draw(heads, 0.4, 1.3));
        // Only the product must not be negative.
        upper[0] *= -1.0;
        lower[0] *= -1.0;
        let mut energy = draw(heads, -1.0, 1.0);
        energy.extend(draw(heads, 0.3, 1.2));
        let values = draw(batch * seq * heads * columns, -1.0, 1.0);
        let mut resolvent = vec![0.0; 2 * batch * heads];
        let mut entering = vec![0.0; 2 * batch * heads * columns];
        if with_state {
            for row in resolvent.chunks_exact_mut(2 * heads) {
                row[..heads].copy_from_slice(&draw(heads, -1.0, 1.0));
                row[heads..].copy_from_slice(&draw(heads, 0.01, 1.0));
            }
            entering = draw(entering.len(), -1.0, 1.0);
        }
        let weights = draw(2 * batch * seq * heads * columns, -1.0, 1.0);
        Self {
            batch,
            seq,
            heads,
            columns,
            with_state,
            arguments: [potential, upper, lower, energy, values, resolvent, entering],
            weights,
        }
    }

    pub fn name(&self) -> String {
        format!(
            "batch {} seq {} heads {} columns {} state {}",
            self.batch, self.seq, self.heads, self.columns, self.with_state
        )
    }

    pub fn tensors(&self, device: &Device) -> Inputs {
        let (batch, seq, heads, columns) = (self.batch, self.seq, self.heads, self.columns);
        let [a, b, c, z, u, l, d] = self.arguments.each_ref().map(|x| narrow(x));
        Inputs {
            potential: tensor(&a, [batch, seq, heads], device),
            upper: tensor(&b, [heads], device),
            lower: tensor(&c, [heads], device),
            energy: tensor(&z, [2, heads], device),
            values: tensor(&u, [batch, seq, heads, columns], device),
            state: SolveState {
                resolvent: tensor(&l, [batch, 2 * heads], device),
                values: tensor(&d, [batch, heads, 2 * columns], device),
            },
        }
    }

    pub fn weights(&self, device: &Device) -> Tensor<4> {
        let shape = [self.batch, self.seq, self.heads, 2 * self.columns];
        tensor(&narrow(&self.weights), shape, device)
    }

    fn chain(&self, batch: usize, head: usize) -> Chain {
        let Self { seq, heads, .. } = *self;
        let columns = self.columns;
        let [a, b, c, z, u, l, d] = &self.arguments;
        let z = C::new(z[head], z[heads + head]);
        let row = batch * heads + head;
        let l = &l[2 * heads * batch..];
        let d = &d[2 * columns * row..];
        Chain {
            alpha: (0..seq)
                .map(|i| a[(batch * seq + i) * heads + head] - z)
                .collect(),
            upper: b[head],
            lower: c[head],
            resolvent: C::new(l[head], l[heads + head]),
            values: (0..seq)
                .map(|i| {
                    let start = ((batch * seq + i) * heads + head) * columns;
                    u[start..start + columns].to_vec()
                })
                .collect(),
            entering: (0..columns).map(|k| C::new(d[k], d[columns + k])).collect(),
        }
    }

    /// Fills `[batch, seq, heads, 2 * columns]` sequence by sequence.
    fn each(&self, solution: impl Fn(&Chain) -> Vec<Vec<C>>) -> Vec<f64> {
        let Self {
            batch, seq, heads, ..
        } = *self;
        let columns = self.columns;
        let mut out = vec![0.0; 2 * batch * seq * heads * columns];
        for b in 0..batch {
            for h in 0..heads {
                for (i, row) in solution(&self.chain(b, h)).iter().enumerate() {
                    let start = ((b * seq + i) * heads + h) * 2 * columns;
                    for (k, x) in row.iter().enumerate() {
                        out[start + k] = x.re;
                        out[start + columns + k] = x.im;
                    }
                }
            }
        }
        out
    }

    pub fn causal(&self) -> Vec<f64> {
        self.each(|chain| chain.causal()[1..].to_vec())
    }

    pub fn full(&self) -> Vec<f64> {
        self.each(Chain::full)
    }

    /// `(H - z)^-1 u` by Gaussian elimination with row exchanges.
    pub fn dense(&self) -> Vec<f64> {
        self.each(|chain| chain.dense(self.seq))
    }

    /// The last entry of the dense solution of every leading block. No state.
    pub fn dense_causal(&self) -> Vec<f64> {
        self.each(|chain| {
            let last = |n: usize| chain.dense(n).pop().expect("not empty");
            (1..=self.seq).map(last).collect()
        })
    }

    /// Gradients of the loss, in the order of [`ARGUMENTS`].
    pub fn gradients(&self, full: bool) -> [Vec<f64>; 7] {
        let Self {
            batch, seq, heads, ..
        } = *self;
        let columns = self.columns;
        let mut out = self.arguments.clone().map(|x| vec![0.0; x.len()]);
        for b in 0..batch {
            for h in 0..heads {
                let row = |i: usize| (b * seq + i) * heads + h;
                let g: Vec<Vec<C>> = (0..seq)
                    .map(|i| {
                        let w = &self.weights[2 * columns * row(i)..][..2 * columns];
                        (0..columns)
                            .map(|k| C::new(w[k], -w[columns + k]))
                            .collect()
                    })
                    .collect();
                let chain = self.chain(b, h);
                let found = if full {
                    chain.full_adjoint(&g)
                } else {
                    chain.causal_adjoint(&g)
                };
                for i in 0..seq {
                    let d_alpha = found.alpha[i];
                    out[0][row(i)] = d_alpha.re;
                    out[3][h] -= d_alpha.re;
                    out[3][heads + h] += d_alpha.im;
                    for k in 0..columns {
                        out[4][row(i) * columns + k] = found.values[i][k].re;
                    }
                }
                out[1][h] += found.upper.re;
                out[2][h] += found.lower.re;
                out[5][2 * heads * b + h] = found.resolvent.re;
                out[5][2 * heads * b + heads + h] = -found.resolvent.im;
                for (k, d) in found.entering.iter().enumerate() {
                    let start = (b * heads + h) * 2 * columns;
                    out[6][start + k] = d.re;
                    out[6][start + columns + k] = -d.im;
                }
            }
        }
        out
    }

    pub fn loss(&self, full: bool) -> f64 {
        let output = if full { self.full() } else { self.causal() };
        output.iter().zip(&self.weights).map(|(x, w)| x * w).sum()
    }
}

/// The arguments of the operations.
#[derive(Clone)]
pub struct Inputs {
    pub potential: Tensor<3>,
    pub upper: Tensor<1>,
    pub lower: Tensor<1>,
    pub energy: Tensor<2>,
    pub values: Tensor<4>,
    pub state: SolveState,
}

impl Inputs {
    pub fn require_grad(self) -> Self {
        Self {
            potential: self.potential.require_grad(),
            upper: self.upper.require_grad(),
            lower: self.lower.require_grad(),
            energy: self.energy.require_grad(),
            values: self.values.require_grad(),
            state: SolveState {
                resolvent: self.state.resolvent.require_grad(),
                values: self.state.values.require_grad(),
            },
        }
    }

    /// Gradients in the order of [`ARGUMENTS`], none where the loss does not depend on the argument.
    pub fn gradients(&self, loss: Tensor<1>) -> [Option<Vec<f32>>; 7] {
        let grads = loss.backward();
        [
            self.potential.grad(&grads).map(vector),
            self.upper.grad(&grads).map(vector),
            self.lower.grad(&grads).map(vector),
            self.energy.grad(&grads).map(vector),
            self.values.grad(&grads).map(vector),
            self.state.resolvent.grad(&grads).map(vector),
            self.state.values.grad(&grads).map(vector),
        ]
    }
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}
