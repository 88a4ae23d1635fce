//! Resolvent attention in double precision, from dense inverses of the leading blocks.

use kiln_bk::ResolventForm;
use num_complex::Complex64 as C;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::common::{Problem, widen};

/// What gradients are of, in the order of [`Exact::inputs`].
pub const NAMES: [&str; 8] = [
    "d q",
    "d k",
    "d v",
    "d potential",
    "d hopping",
    "d energy",
    "d state.left",
    "d state.memory",
];

/// A problem with the weights of a linear loss, in double precision, laid out as the tensors are.
#[derive(Clone)]
pub struct Exact {
    pub form: ResolventForm,
    pub batch: usize,
    pub seq: usize,
    pub heads: usize,
    pub d_key: usize,
    pub d_value: usize,
    pub inputs: [Vec<f64>; 8],
    /// Of the output, of `state.left` and of `state.memory`.
    pub weights: [Vec<f64>; 3],
}

/// Output, `state.left` and `state.memory`.
pub type Values = [Vec<f64>; 3];

impl Exact {
    /// `[batch, seq, heads, d_key, d_value]`
    pub fn random(dims: [usize; 5], form: ResolventForm, with_state: bool) -> Self {
        let [batch, seq, heads, d_key, d_value] = dims;
        let chain = Problem::random(batch, seq, heads, with_state);
        let mut rng = ChaCha8Rng::seed_from_u64(7 + seq as u64);
        // Numbers that single precision has, so that both sides see the same ones.
        let mut draw = |len: usize| -> Vec<f64> {
            (0..len)
                .map(|_| f64::from(rng.random_range(-1.0_f32..1.0)))
                .collect()
        };
        let rows = match form {
            ResolventForm::Born => d_key,
            ResolventForm::Complex => 2 * d_key,
        };
        let memory = batch * heads * rows * d_value;
        Self {
            form,
            batch,
            seq,
            heads,
            d_key,
            d_value,
            inputs: [
                draw(batch * seq * heads * d_key),
                draw(batch * seq * heads * d_key),
                draw(batch * seq * heads * d_value),
                widen(&chain.potential),
                widen(&chain.hopping),
                widen(&chain.energy),
                widen(&chain.state),
                if with_state {
                    draw(memory)
                } else {
                    vec![0.0; memory]
                },
            ],
            weights: [
                draw(batch * seq * heads * d_value),
                draw(2 * batch * heads),
                draw(memory),
            ],
        }
    }

    pub fn rows(&self) -> usize {
        self.inputs[7].len() / (self.batch * self.heads * self.d_value)
    }

    pub fn values(&self) -> Values {
        let mut values = self.weights.each_ref().map(|w| vec![0.0; w.len()]);
        for batch in 0..self.batch {
            for head in 0..self.heads {
                self.one(batch, head, &mut values);
            }
        }
        values
    }

    pub fn loss(&self) -> f64 {
        let values = self.values();
        let pairs = values.iter().zip(&self.weights);
        pairs
            .flat_map(|(v, w)| v.iter().zip(w))
            .map(|(v, w)| v * w)
            .sum()
    }

    /// Central differences of the loss by every input.
    pub fn gradients(&self) -> [Vec<f64>; 8] {
        const STEP: f64 = 1e-5;
        let mut moved = self.clone();
        std::array::from_fn(|input| {
            let one = |i: usize| {
                let value = self.inputs[input][i];
                moved.inputs[input][i] = value + STEP;
                let above = moved.loss();
                moved.inputs[input][i] = value - STEP;
                let below = moved.loss();
                moved.inputs[input][i] = value;
                (above - below) / (2.0 * STEP)
            };
            (0..self.inputs[input].len()).map(one).collect()
        })
    }

    /// One sequence. With an entering `L_0`, the first diagonal element is `a_1 - z - beta L_0`, and what was before weighs
    /// `-sqrt(beta) G_i1` times its own normalisation.
    fn one(&self, batch: usize, head: usize, values: &mut Values) {
        let [q, k, v, potential, hopping, energy, left, memory] = &self.inputs;
        let Self {
            seq,
            heads,
            d_key,
            d_value,
            ..
        } = *self;
        let z = C::new(energy[head], energy[heads + head]);
        let (beta, eta) = (hopping[head], z.im);
        let at = |i: usize, width: usize| ((batch * seq + i) * heads + head) * width;
        let own_left = 2 * batch * heads + head;
        let entering = C::new(left[own_left], left[own_left + heads]);
        let mut matrix = vec![vec![C::ZERO; seq]; seq];
        for i in 0..seq {
            matrix[i][i] = potential[at(i, 1)] - z;
            if i > 0 {
                matrix[i][i - 1] = C::from(beta.sqrt());
                matrix[i - 1][i] = C::from(beta.sqrt());
            }
        }
        matrix[0][0] -= beta * entering;

        // T as complex numbers, `[d_key, d_value]`.
        let rows = self.rows();
        let own_memory = (batch * heads + head) * rows * d_value;
        let memory = &memory[own_memory..][..rows * d_value];
        let before: Vec<C> = (0..d_key * d_value)
            .map(|at| match self.form {
                ResolventForm::Born => C::from(memory[at]),
                ResolventForm::Complex => C::new(memory[at], -memory[d_key * d_value + at]),
            })
            .collect();
        let mut state = before.clone();
        let mut last = entering;
        for i in 0..seq {
            let row = last_row(&matrix, i + 1);
            last = row[i];
            // (weight of what was before, weights of the positions)
            let weigh = |g: C, source: f64| match self.form {
                ResolventForm::Born => C::from(g.norm_sqr() * source / last.im),
                ResolventForm::Complex => g * (source / last.im).sqrt(),
            };
            let on_before = weigh(-beta.sqrt() * row[0], entering.im);
            state = before.iter().map(|t| on_before * t).collect();
            for j in 0..=i {
                let weight = weigh(row[j], eta);
                for r in 0..d_key {
                    for c in 0..d_value {
                        state[r * d_value + c] +=
                            weight * k[at(j, d_key) + r] * v[at(j, d_value) + c];
                    }
                }
            }
            for r in 0..d_key {
                for c in 0..d_value {
                    values[0][at(i, d_value) + c] +=
                        state[r * d_value + c].re * q[at(i, d_key) + r];
                }
            }
        }
        values[1][own_left] = last.re;
        values[1][own_left + heads] = last.im;
        for (at, t) in state.iter().enumerate() {
            values[2][own_memory + at] = t.re;
            if self.form == ResolventForm::Complex {
                values[2][own_memory + d_key * d_value + at] = -t.im;
            }
        }
    }
}

/// Row n of the inverse of the leading n x n block, by Gaussian elimination of its transpose with pivots.
pub fn last_row(matrix: &[Vec<C>], n: usize) -> Vec<C> {
    let mut a: Vec<Vec<C>> = (0..n)
        .map(|i| (0..n).map(|j| matrix[j][i]).collect())
        .collect();
    let mut x = vec![C::ZERO; n];
    x[n - 1] = C::ONE;
    for column in 0..n {
        let pivot = (column..n)
            .max_by(|&i, &j| a[i][column].norm().total_cmp(&a[j][column].norm()))
            .unwrap();
        a.swap(column, pivot);
        x.swap(column, pivot);
        let (above, below) = a.split_at_mut(column + 1);
        let own = &above[column];
        for (offset, row) in below.iter_mut().enumerate() {
            let factor = row[column] / own[column];
            if factor == C::ZERO {
                continue;
            }
            for (target, source) in row[column..].iter_mut().zip(&own[column..]) {
                *target -= factor * source;
            }
            let known = x[column];
            x[column + 1 + offset] -= factor * known;
        }
    }
    for i in (0..n).rev() {
        let known: C = (i + 1..n).map(|j| a[i][j] * x[j]).sum();
        x[i] = (x[i] - known) / a[i][i];
    }
    x
}
