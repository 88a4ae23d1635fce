//! The operation in double precision: as a sum over pairs of positions, and as a recurrence with its reverse sweep.

use crate::common::Problem;

/// A problem in double precision.
#[derive(Clone)]
pub struct Exact {
    dims: [usize; 5],
    /// q, k, v, log_decay, state
    pub inputs: [Vec<f64>; 5],
    weights: Vec<f64>,
    state_weights: Vec<f64>,
}

/// Output and final state.
pub struct Values {
    pub output: Vec<f64>,
    pub state: Vec<f64>,
}

impl From<&Problem> for Exact {
    fn from(p: &Problem) -> Self {
        let widen = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        Self {
            dims: [p.batch, p.seq, p.heads, p.d_key, p.d_value],
            inputs: [&p.q, &p.k, &p.v, &p.log_decay, &p.state].map(|x| widen(x)),
            weights: widen(&p.weights),
            state_weights: widen(&p.state_weights),
        }
    }
}

impl Exact {
    /// Batch rows and heads.
    fn units(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let [batch, _, heads, ..] = self.dims;
        (0..batch).flat_map(move |b| (0..heads).map(move |h| (b, h)))
    }

    /// Where position i of a unit lies in `[batch, seq, heads, width]`.
    fn at(&self, (b, h): (usize, usize), i: usize, width: usize) -> std::ops::Range<usize> {
        let [_, seq, heads, ..] = self.dims;
        let start = ((b * seq + i) * heads + h) * width;
        start..start + width
    }

    /// Where the state of a unit lies.
    fn state_at(&self, (b, h): (usize, usize)) -> std::ops::Range<usize> {
        let [_, _, heads, d_key, d_value] = self.dims;
        let size = d_key * d_value;
        (b * heads + h) * size..(b * heads + h + 1) * size
    }

    /// `y_i = sum_j exp(g_{j+1} + .. + g_i) (q_i . k_j) v_j + exp(g_1 + .. + g_i) S_0^T q_i`, and the final state alike.
    pub fn quadratic(&self) -> Values {
        let [_, seq, _, d_key, d_value] = self.dims;
        let [q, k, v, gates, entering] = &self.inputs;
        let mut output = vec![0.0; v.len()];
        let mut state = vec![0.0; entering.len()];
        for unit in self.units() {
            for i in 0..seq {
                let (query, target) = (&q[self.at(unit, i, d_key)], self.at(unit, i, d_value));
                let mut decay = 1.0;
                for j in (0..=i).rev() {
                    let key = &k[self.at(unit, j, d_key)];
                    let score: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                    let values = &v[self.at(unit, j, d_value)];
                    for (y, v) in output[target.clone()].iter_mut().zip(values) {
                        *y += decay * score * v;
                    }
                    decay *= gates[self.at(unit, j, 1)][0].exp();
                }
                let entering = &entering[self.state_at(unit)];
                for (y, column) in output[target].iter_mut().zip(0..) {
                    let rows = query.iter().zip(entering[column..].iter().step_by(d_value));
                    *y += decay * rows.map(|(q, s)| q * s).sum::<f64>();
                }
            }
            let target = &mut state[self.state_at(unit)];
            let mut decay = 1.0;
            for j in (0..seq).rev() {
                let (key, values) = (&k[self.at(unit, j, d_key)], &v[self.at(unit, j, d_value)]);
                for (row, k) in target.chunks_exact_mut(d_value).zip(key) {
                    row.iter_mut()
                        .zip(values)
                        .for_each(|(s, v)| *s += decay * k * v);
                }
                decay *= gates[self.at(unit, j, 1)][0].exp();
            }
            let entering = &entering[self.state_at(unit)];
            target
                .iter_mut()
                .zip(entering)
                .for_each(|(s, e)| *s += decay * e);
        }
        Values { output, state }
    }

    pub fn loss(&self, values: &Values) -> f64 {
        let sum = |x: &[f64], w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
        sum(&values.output, &self.weights) + sum(&values.state, &self.state_weights)
    }

    /// Values and gradients by the recurrence, for sequences that are too long for pairs.
    pub fn sweep(&self) -> (Values, [Vec<f64>; 5]) {
        let [_, seq, _, d_key, d_value] = self.dims;
        let [q, k, v, gates, entering] = &self.inputs;
        let mut values = Values {
            output: vec![0.0; v.len()],
            state: vec![0.0; entering.len()],
        };
        let mut gradients = [q, k, v, gates, entering].map(|x| vec![0.0; x.len()]);
        let [d_q, d_k, d_v, d_gates, d_entering] = &mut gradients;
        let size = d_key * d_value;
        for unit in self.units() {
            let mut states = entering[self.state_at(unit)].to_vec();
            for i in 0..seq {
                let (query, key) = (&q[self.at(unit, i, d_key)], &k[self.at(unit, i, d_key)]);
                let written = &v[self.at(unit, i, d_value)];
                let gate = gates[self.at(unit, i, 1)][0].exp();
                for r in 0..d_key {
                    for c in 0..d_value {
                        let s = gate * states[i * size + r * d_value + c] + key[r] * written[c];
                        states.push(s);
                        values.output[self.at(unit, i, d_value).start + c] += s * query[r];
                    }
                }
            }
            values.state[self.state_at(unit)].copy_from_slice(&states[seq * size..]);
            let mut carry = self.state_weights[self.state_at(unit)].to_vec();
            for i in (0..seq).rev() {
                let (keys, columns) = (self.at(unit, i, d_key), self.at(unit, i, d_value));
                let (query, key) = (&q[keys.clone()], &k[keys.clone()]);
                let (dy, written) = (&self.weights[columns.clone()], &v[columns.clone()]);
                let gate = gates[self.at(unit, i, 1)][0].exp();
                let mut d_gate = 0.0;
                for r in 0..d_key {
                    for c in 0..d_value {
                        let at = r * d_value + c;
                        let d_state = carry[at] + query[r] * dy[c];
                        d_q[keys.start + r] += states[(i + 1) * size + at] * dy[c];
                        d_k[keys.start + r] += d_state * written[c];
                        d_v[columns.start + c] += d_state * key[r];
                        carry[at] = gate * d_state;
                        d_gate += carry[at] * states[i * size + at];
                    }
                }
                d_gates[self.at(unit, i, 1)][0] = d_gate;
            }
            d_entering[self.state_at(unit)].copy_from_slice(&carry);
        }
        (values, gradients)
    }
}

mod tests {
    use super::*;
    use crate::common::{Gates, NAMES};

    /// The sweep's values are the sum over pairs, and its gradients that sum's central differences.
    #[test]
    fn the_sweep_agrees_with_pairs_and_finite_differences() {
        for (dims, gates) in [
            ([1, 1, 1, 2, 3], Gates::Moderate),
            ([2, 7, 2, 3, 2], Gates::Moderate),
            ([1, 9, 1, 2, 2], Gates::Weak),
        ] {
            let exact = Exact::from(&Problem::random(dims, gates, true));
            let (values, gradients) = exact.sweep();
            let pairs = exact.quadratic();
            let all = |v: &Values| [v.output.clone(), v.state.clone()].concat();
            for (found, expected) in all(&values).iter().zip(all(&pairs)) {
                assert!((found - expected).abs() < 1e-12, "{found}, not {expected}");
            }
            for (input, name) in NAMES.iter().enumerate() {
                for (i, found) in gradients[input].iter().enumerate() {
                    let shifted = |by: f64| {
                        let mut moved = exact.clone();
                        moved.inputs[input][i] += by;
                        moved.loss(&moved.quadratic())
                    };
                    let step = 1e-4;
                    let difference = (shifted(step) - shifted(-step)) / (2.0 * step);
                    let error = (found - difference).abs() / difference.abs().max(1.0);
                    assert!(error < 1e-6, "{name}[{i}]: {found}, not {difference}");
                }
            }
        }
    }
}
