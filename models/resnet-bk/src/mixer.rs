//! The BK mixer. L_i = 1 / (h0 + v_i - z - beta L_{i-1}), features (Re L, Im L), y = W_o (silu(W_g x) * features)
//!
//! v = bound * tanh(W_v x / bound) is the potential of each head; z = e + i eta and beta are learned per head, with
//! eta > `ETA_FLOOR` and beta > 0 by construction. Causal heads use the left recurrence L, bidirectional heads the
//! diagonal G_ii of the whole resolvent. Axes: batch, seq, heads. State: one complex number a head.

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use kiln_backbone::{
    BackboneConfig, Direction, InitRng, Linear, Mixer, ModelError, NamedLinears, fields,
    inverse_softplus, project, single, spread_energies, tensor_bytes,
};
use kiln_bk::{GradRule, RowMeasure, bk_diagonal_with_rule, bk_left_with_rule, row_weights};
use kiln_fused::{cayley, soft_bound, softplus, swiglu};
use serde::{Deserialize, Serialize};

/// Learned widths stay above this: |L| <= 1/eta then bounds every feature by 1000.
const ETA_FLOOR: f64 = 1e-3;

/// Coordinates in which the features leave the upper half plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Chart {
    /// Re and Im as they are: unbounded near resonances, |L| <= 1/eta.
    Raw,
    /// The Cayley transform w = (L - i)/(L + i), which maps the half plane to the unit disc. There a potential moves its
    /// own feature by |dw/da| = 2 |L|^2 / |L + i|^2 <= 2, where raw features move by up to 1/eta^2.
    Cayley,
}

/// Experiments that ask what the resolvent is worth: everything but the features stays as it is, parameters included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// No experiment: each lane reads its own resolvent.
    #[default]
    None,
    /// The chart is fed zeros in place of the resolvent, so that nothing crosses positions: Cayley features are then -1
    /// (real) and 0 (imaginary), which leaves y = -W_o silu(W_g x) of the real half; raw features are 0, and so is y.
    /// Potentials, energies and hoppings are there and have no gradient.
    Off,
    /// Lane b reads the resolvent of lane b + 1, the last lane that of the first: features keep their distribution and tell
    /// of another text. (Positions in another order would tell a lane of its own future.) A batch of one lane has no other,
    /// and is fed zeros as with [`Control::Off`]. Lanes of a batch then see each other, by design.
    Shuffled,
}

/// Settings of the BK mixer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BkConfig {
    /// Number of heads, each with its own potential, energy and hopping.
    pub heads: usize,
    /// Causal heads read L_i, the last diagonal entry of the leading block's resolvent; bidirectional ones G_ii of the whole.
    pub direction: Direction,
    /// Constant part of the diagonal (-2 is the discrete Laplacian).
    pub h0: f64,
    /// Bound on |v|; 0 leaves the potential unbounded.
    pub potential_bound: f64,
    /// Initial Re z of the first and the last head; the others are spaced evenly between.
    pub energy: [f64; 2],
    /// Initial Im z of the first and the last head, spaced evenly in the logarithm and dealt out in an order
    /// that does not follow the energies.
    pub eta: [f64; 2],
    /// Whether z is trained.
    pub learn_energy: bool,
    /// Initial beta = b c of every head.
    pub hopping: f64,
    /// Whether beta is trained.
    pub learn_hopping: bool,
    /// Coordinates of the features.
    pub chart: Chart,
    /// Whether features are gated by silu(W_g x).
    pub gate: bool,
    /// What stands in for the resolvent, to measure what it is worth; for study.
    #[serde(default)]
    pub control: Control,
    /// What stands in for the potential's gradient; for study. Scores do not depend on it, training does.
    #[serde(default)]
    pub grad_rule: GradRule,
}

impl Default for BkConfig {
    fn default() -> Self {
        Self {
            heads: 128,
            direction: Direction::Causal,
            h0: 0.0,
            potential_bound: 4.0,
            energy: [-1.8, 1.8],
            eta: [0.1, 2.0],
            learn_energy: true,
            hopping: 2.0,
            learn_hopping: true,
            chart: Chart::Cayley,
            gate: true,
            control: Control::None,
            grad_rule: GradRule::Exact,
        }
    }
}

/// The BK mixer.
#[derive(Module, Debug)]
pub struct BkMixer {
    potential: Linear,
    gate: Option<Linear>,
    output: Linear,
    /// Re z, `[heads]`.
    energy: Param<Tensor<1>>,
    /// softplus^-1(Im z - floor), `[heads]`.
    eta_raw: Param<Tensor<1>>,
    /// softplus^-1(beta), `[heads]`.
    hopping_raw: Param<Tensor<1>>,
    heads: usize,
    h0: f64,
    potential_bound: f64,
    #[module(skip)]
    direction: Direction,
    #[module(skip)]
    chart: Chart,
    #[module(skip)]
    control: Control,
    #[module(skip)]
    grad_rule: GradRule,
}

impl BkConfig {
    /// Checks every size and range.
    ///
    /// # Errors
    /// Names the first setting out of its range.
    pub fn validate(&self) -> Result<(), ModelError> {
        if self.heads == 0 {
            return Err(ModelError::TooSmall {
                name: "bk.heads",
                value: 0,
                least: 1,
            });
        }
        let range = |name, value: f64, ok: bool, range| match ok && value.is_finite() {
            true => Ok(()),
            false => Err(ModelError::OutOfRange { name, value, range }),
        };
        for eta in self.eta {
            range("bk.eta", eta, eta > ETA_FLOOR, "(0.001, inf)")?;
        }
        for energy in self.energy {
            range("bk.energy", energy, true, "the finite numbers")?;
        }
        range("bk.hopping", self.hopping, self.hopping > 0.0, "(0, inf)")?;
        range("bk.h0", self.h0, true, "the finite numbers")?;
        let bound = self.potential_bound;
        range("bk.potential_bound", bound, bound >= 0.0, "[0, inf)")?;
        match self.grad_rule {
            GradRule::Blend(t) => {
                let inside = (0.0..=1.0).contains(&t);
                range("bk.grad_rule.blend", f64::from(t), inside, "[0, 1]")
            }
            GradRule::Exact | GradRule::Local | GradRule::Hyp7 => Ok(()),
        }
    }

    /// Builds the mixer for a block of `backbone`.
    ///
    /// # Errors
    /// Names the first setting out of its range.
    pub fn init(
        &self,
        backbone: &BackboneConfig,
        rng: &mut InitRng,
        device: &Device,
    ) -> Result<BkMixer, ModelError> {
        self.validate()?;
        let (d_model, heads, bias) = (backbone.d_model, self.heads, backbone.bias);
        let std = backbone.init_std;
        let vector = |values: Vec<f64>, learn: bool| {
            let values: Vec<f32> = values.into_iter().map(|x| x as f32).collect();
            Param::<Tensor<1>>::from_data(TensorData::new(values, [heads]), device)
                .set_require_grad(learn)
        };
        let energies = spread_energies(heads, self.energy, self.eta);
        // Potentials start with unit spread, so that every head sees its tokens from the first step on.
        let std_potential = (d_model as f64).powf(-0.5);
        Ok(BkMixer {
            potential: rng.linear(d_model, heads, bias, std_potential, device),
            gate: self
                .gate
                .then(|| rng.linear(d_model, 2 * heads, bias, std_potential, device)),
            output: rng.linear(2 * heads, d_model, bias, std, device),
            energy: vector(energies.iter().map(|z| z.0).collect(), self.learn_energy),
            eta_raw: vector(
                energies
                    .iter()
                    .map(|z| inverse_softplus(z.1 - ETA_FLOOR))
                    .collect(),
                self.learn_energy,
            ),
            hopping_raw: vector(
                vec![inverse_softplus(self.hopping); heads],
                self.learn_hopping,
            ),
            heads,
            h0: self.h0,
            potential_bound: self.potential_bound,
            direction: self.direction,
            chart: self.chart,
            control: self.control,
            grad_rule: self.grad_rule,
        })
    }
}

impl BkMixer {
    /// Changes what stands in for the potential's gradient; scores stay as they are.
    pub fn set_grad_rule(&mut self, rule: GradRule) {
        self.grad_rule = rule;
    }

    /// The weights `[d_model, heads]` of the projection that makes the potential, if they are trained.
    pub fn potential_weight(&self) -> Option<ParamId> {
        self.potential.weight_id()
    }

    /// The diagonal of H in f32: `[batch, seq, d_model]` to `[batch, seq, heads]`.
    fn diagonal(&self, x: Tensor<3>) -> Tensor<3> {
        let v = single(project(&self.potential, x));
        let v = match self.potential_bound {
            0.0 => v,
            bound => soft_bound(v, bound),
        };
        match self.h0 {
            0.0 => v,
            h0 => v.add_scalar(h0),
        }
    }

    /// z as `[2, heads]`: Re z, then Im z.
    fn z(&self) -> Tensor<2> {
        let eta = softplus(self.eta_raw.val(), ETA_FLOOR);
        Tensor::stack(vec![self.energy.val(), eta], 0)
    }

    /// beta, `[heads]`.
    fn hopping(&self) -> Tensor<1> {
        softplus(self.hopping_raw.val(), 0.0)
    }

    /// The resolvent entries that each lane reads, `[batch, seq, 2 * heads]` as given.
    fn controlled(&self, resolvent: Tensor<3>) -> Tensor<3> {
        let [batch, _, _] = resolvent.dims();
        match self.control {
            Control::None => resolvent,
            Control::Shuffled if batch > 1 => Tensor::cat(
                vec![
                    resolvent.clone().narrow(0, 1, batch - 1),
                    resolvent.narrow(0, 0, 1),
                ],
                0,
            ),
            Control::Off | Control::Shuffled => resolvent.zeros_like(),
        }
    }

    /// From resolvent entries `[batch, seq, 2 * heads]` in f32 to `[batch, seq, d_model]`.
    fn read(&self, resolvent: Tensor<3>, x: Tensor<3>) -> Tensor<3> {
        let resolvent = self.controlled(resolvent);
        let features = match self.chart {
            Chart::Raw => resolvent,
            Chart::Cayley => cayley(resolvent),
        };
        let features = features.cast(x.dtype());
        let features = match &self.gate {
            Some(gate) => swiglu(project(gate, x), features),
            None => features,
        };
        project(&self.output, features)
    }
}

impl Mixer for BkMixer {
    /// Re L and Im L of the last position: `[batch, 2 * heads]`.
    type State = Tensor<2>;

    fn initial_state(&self, batch: usize, device: &Device) -> Tensor<2> {
        Tensor::zeros([batch, 2 * self.heads], device)
    }

    fn forward(&self, x: Tensor<3>, state: Option<Tensor<2>>) -> (Tensor<3>, Option<Tensor<2>>) {
        let diagonal = self.diagonal(x.clone());
        let rule = self.grad_rule;
        // Shapes agree by construction, so the operations' shape errors cannot occur here.
        match self.direction {
            Direction::Causal => {
                let left = bk_left_with_rule(diagonal, self.hopping(), self.z(), state, rule)
                    .expect("mixer shapes agree by construction");
                (self.read(left.features, x), Some(left.state))
            }
            Direction::Bidirectional => {
                let diagonal = bk_diagonal_with_rule(diagonal, self.hopping(), self.z(), rule)
                    .expect("mixer shapes agree by construction");
                (self.read(diagonal, x), None)
            }
        }
    }

    fn step(&self, x: Tensor<2>, state: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let (y, next) = self.forward(x.unsqueeze_dim(1), Some(state.clone()));
        (y.squeeze_dim(1), next.unwrap_or(state))
    }

    fn linears_mut(&mut self) -> NamedLinears<'_> {
        fields([
            ("potential", Some(&mut self.potential)),
            ("gate", self.gate.as_mut()),
            ("output", Some(&mut self.output)),
        ])
    }

    fn is_causal(&self) -> bool {
        self.direction == Direction::Causal
    }

    /// |G_ij| over its row, of causal heads that read their own resolvent: how far L_i feels a_j is |G_ij|^2.
    fn weights(&self, x: Tensor<3>) -> Option<Tensor<3>> {
        if self.weighing_heads() == 0 {
            return None;
        }
        // Shapes agree by construction, so the operations' shape errors cannot occur here.
        const AGREE: &str = "mixer shapes agree by construction";
        let (hopping, rule) = (self.hopping(), self.grad_rule);
        let left = bk_left_with_rule(self.diagonal(x), hopping.clone(), self.z(), None, rule);
        let left = left.expect(AGREE).features;
        let rows = row_weights(left, hopping, RowMeasure::Modulus).expect(AGREE);
        Some(rows.mean_dim(1).squeeze_dim(1))
    }

    fn weighing_heads(&self) -> usize {
        match (self.direction, self.control) {
            (Direction::Causal, Control::None) => self.heads,
            _ => 0,
        }
    }

    /// Two for each weight of the projections; about 12 a head for a complex multiply, subtract and reciprocal,
    /// three times that for both sweeps and their join.
    fn flops_per_token(&self, _seq: usize) -> u64 {
        let gate = self.gate.as_ref().map_or(0, Linear::flops_per_row);
        let projections = self.potential.flops_per_row() + gate + self.output.flops_per_row();
        let recurrence = match self.direction {
            Direction::Causal => 12,
            Direction::Bidirectional => 36,
        };
        projections + (recurrence * self.heads) as u64
    }

    /// One complex f32 a head, whatever the length.
    fn state_bytes(&self, _seq: usize) -> u64 {
        (2 * self.heads * size_of::<f32>()) as u64
    }

    fn counted_state_bytes(&self, state: &Tensor<2>) -> u64 {
        tensor_bytes(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_named() {
        let bad = BkConfig {
            eta: [0.0, 1.0],
            ..Default::default()
        };
        assert_eq!(
            bad.validate().unwrap_err().to_string(),
            "`bk.eta` is 0, but must lie in (0.001, inf)"
        );
    }
}
