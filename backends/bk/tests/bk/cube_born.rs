//! Gates and left resolvents in one pass, every strategy forced in turn, against the oracle.
#![cfg(feature = "_cube")]

use kiln_bk::cube::{born_gates, born_gates_adjoint};

use crate::{
    common::{
        GRADIENT_TOLERANCE, Problem, VALUE_TOLERANCE, assert_close, device, on_flex, tensor, vector,
    },
    cube::{cases, name},
    oracle::Exact,
};

/// What the kernels keep of `x = beta Im L / eta` where it is zero.
const LEAST_KEPT: f64 = 1e-15;

/// Gates in double precision, and what gradients of gates give to those of features and parameters.
struct Gates {
    exact: Exact,
    bound: Option<f64>,
    /// Before the bound.
    potential: Vec<f64>,
    features: Vec<f64>,
}

impl Gates {
    fn of(problem: &Problem, bound: Option<f64>) -> Self {
        let mut exact = Exact::from(problem);
        let potential = exact.potential.clone();
        if let Some(bound) = bound {
            for a in &mut exact.potential {
                *a = bound * (*a / bound).tanh();
            }
        }
        let features = exact.left();
        Self {
            exact,
            bound,
            potential,
            features,
        }
    }

    /// Where `Im L` of the position before is: among the features, or of the first position in the state.
    fn before(&self, b: usize, i: usize, h: usize) -> (bool, usize) {
        let Exact { seq, heads, .. } = self.exact;
        match i {
            0 => (true, (2 * b + 1) * heads + h),
            _ => (false, (2 * (b * seq + i - 1) + 1) * heads + h),
        }
    }

    fn each(&self, mut visit: impl FnMut(usize, usize, (bool, usize), f64)) {
        let Exact {
            batch, seq, heads, ..
        } = self.exact;
        for b in 0..batch {
            for i in 0..seq {
                for h in 0..heads {
                    let (entered, at) = self.before(b, i, h);
                    let source = if entered {
                        &self.exact.state
                    } else {
                        &self.features
                    };
                    visit((b * seq + i) * heads + h, h, (entered, at), source[at]);
                }
            }
        }
    }

    fn ratio(&self, h: usize) -> f64 {
        self.exact.hopping[h] / self.exact.energy[self.exact.heads + h]
    }

    fn kept(&self) -> Vec<f64> {
        let mut kept = vec![0.0; self.exact.potential.len()];
        self.each(|at, h, _, im| {
            let x = self.ratio(h) * im + LEAST_KEPT;
            kept[at] = -(1.0 / x).ln_1p();
        });
        kept
    }

    /// Gradients of potential, hopping, energy and state.
    fn gradients(&self, d_kept: &[f64], d_features: Option<&[f64]>) -> [Vec<f64>; 4] {
        let heads = self.exact.heads;
        let mut d_features = d_features.map_or(vec![0.0; self.features.len()], <[f64]>::to_vec);
        let mut d_state = vec![0.0; self.exact.state.len()];
        let mut along = vec![0.0; heads];
        self.each(|at, h, (entered, source), im| {
            let x = self.ratio(h) * im + LEAST_KEPT;
            let slope = d_kept[at] / (x * (1.0 + x));
            let target = if entered {
                &mut d_state
            } else {
                &mut d_features
            };
            target[source] += slope * self.ratio(h);
            along[h] += slope * im;
        });
        let mut found = self.exact.left_gradients(&d_features);
        for h in 0..heads {
            let eta = self.exact.energy[heads + h];
            found.hopping[h] += along[h] / eta;
            found.energy[heads + h] -= along[h] * self.ratio(h) / eta;
        }
        for (of_left, of_gate) in found.state.iter_mut().zip(d_state) {
            *of_left += of_gate;
        }
        if let Some(bound) = self.bound {
            for (d, v) in found.potential.iter_mut().zip(&self.potential) {
                *d *= 1.0 - (v / bound).tanh().powi(2);
            }
        }
        [found.potential, found.hopping, found.energy, found.state]
    }
}

#[test]
fn gates_match_the_oracle_with_every_strategy() {
    if on_flex() {
        return;
    }
    let device = device();
    let bounds = [None, Some(2.0)];
    for ((strategy, problem), bound) in cases()
        .into_iter()
        .flat_map(|case| bounds.map(|bound| (case.clone(), bound)))
    {
        let name = format!("{}, bound {bound:?}", name(strategy, &problem));
        let exact = Gates::of(&problem, bound);
        let inputs = problem.tensors(&device);
        let state = problem.with_state.then(|| inputs.state.clone());
        let (kept, features) = born_gates(
            strategy,
            inputs.potential.clone(),
            bound,
            inputs.hopping.clone(),
            inputs.energy.clone(),
            state.clone(),
        );
        assert_close(&name, &vector(features), &exact.features, VALUE_TOLERANCE);
        assert_close(&name, &vector(kept), &exact.kept(), VALUE_TOLERANCE);

        let weights = &problem.weights[..exact.exact.potential.len()];
        let shape = [problem.batch, problem.seq, problem.heads];
        let wide = crate::common::widen;
        for of_features in [None, Some(problem.weights(&device))] {
            let name = format!("{name}, features read: {}", of_features.is_some());
            let expected = exact.gradients(
                &wide(weights),
                of_features
                    .as_ref()
                    .map(|_| wide(&problem.weights))
                    .as_deref(),
            );
            let (potential, hopping, energy, d_state) = born_gates_adjoint(
                strategy,
                (inputs.potential.clone(), bound),
                inputs.hopping.clone(),
                inputs.energy.clone(),
                state.clone(),
                tensor(weights, shape, &device),
                of_features,
            );
            let mut found = vec![vector(potential), vector(hopping), vector(energy)];
            if problem.with_state {
                found.push(vector(d_state));
            }
            let names = ["potential", "hopping", "energy", "state"];
            for ((found, expected), what) in found.iter().zip(&expected).zip(names) {
                let what = format!("{name}: {what}");
                assert_close(&what, found, expected, GRADIENT_TOLERANCE);
            }
        }
    }
}
