//! Resolvent attention: causal attention whose weights are the last rows of growing resolvents.
//!
//! For symmetric hopping `b = c = sqrt(beta)`, row i of the resolvent of the leading i x i block is
//! ```text
//! G_ij = gamma_i gamma_{i-1} .. gamma_{j+1} L_j,   gamma_i = -sqrt(beta) L_i,   j <= i
//! ```
//! and the Ward identity `sum_j |G_ij|^2 = Im L_i / eta` makes `P_ij = eta |G_ij|^2 / Im L_i` the weights of an attention:
//! not negative, and of sum one. With `Im L_i = |L_i|^2 (eta + beta Im L_{i-1})` the normalised state obeys exactly
//! ```text
//! T_i = (1 - p_i) T_{i-1} + p_i k_i v_i^T,   y_i = T_i^T q_i,   p_i = P_ii = eta / (eta + beta Im L_{i-1})
//! ```
//! which is gated linear attention ([`kiln_gla`]): rows sum to one by construction, and nothing overflows.
//!
//! The complex form keeps the phase of `G_ij sqrt(eta / Im L_i)`, and the real part of the output. Its moduli decay by
//! `sqrt(1 - p_i)` and are written with `sqrt(p_i)`. With `phi_j = arg L_j` and `Theta_i` the sum of `arg gamma_l` over
//! `l <= i`, the weight of j in i has the phase `Theta_i - Theta_j + phi_j`, so its real part is an inner product of rotated
//! and doubled keys, `[q cos Theta_i, q sin Theta_i]` and `[k cos(Theta_j - phi_j), k sin(Theta_j - phi_j)]`. The state is
//! handed out in the frame of the last position, where the next piece starts with `Theta = 0`.

use std::f32::consts::{PI, TAU};

use burn::tensor::{DType, Tensor};
use kiln_gla::{
    GatedAttention, GlaError, Strategy, gated_linear_attention_by,
    gated_linear_attention_forgotten, writes_forgotten,
};
use serde::{Deserialize, Serialize};

use crate::{
    born::{BornGates, bounded},
    error::BkError,
    gates::{Resolvent, scaled},
    ops::{last_position, left_features, nothing_before},
    rule::GradRule,
};

const OP: &str = "resolvent_attention";
/// Phases of a block are added up at once; sums of blocks are blocks of the next level.
const BLOCK: usize = 64;
/// `64 * 2^17` steps are below `2^24`, so that single precision adds multiples of this up without rounding.
const STEPS_PER_TURN: f32 = 131_072.0;

/// What of `G_ij` becomes the weight of position j in position i.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResolventForm {
    /// `eta |G_ij|^2 / Im L_i`: a probability.
    #[default]
    Born,
    /// `Re G_ij sqrt(eta / Im L_i)`: an amplitude, the squared moduli of which sum to one.
    Complex,
}

/// What [`resolvent_attention`] passes from one piece of a sequence to the next.
#[derive(Clone, Debug)]
pub struct ResolventState {
    /// `L_N`, `[batch, 2 * heads]`: Re in the first `heads` columns, Im in the rest.
    pub left: Tensor<2>,
    /// `T_N`, `[batch, heads, d_key, d_value]`, or of the complex form `[batch, heads, 2 * d_key, d_value]`.
    pub memory: Tensor<4>,
}

/// What [`resolvent_attention`] returns.
#[derive(Clone, Debug)]
pub struct ResolventAttention {
    /// `[batch, seq, heads, d_value]`
    pub output: Tensor<4>,
    /// Pass it in to continue the sequence as if it had not been cut.
    pub state: ResolventState,
}

/// What [`resolvent_attention`] takes; q, k and v all `f32`, or all `bf16` (see [`kiln_gla`]).
#[derive(Clone, Debug)]
pub struct ResolventInputs {
    /// Queries, `[batch, seq, heads, d_key]`.
    pub q: Tensor<4>,
    /// Keys, `[batch, seq, heads, d_key]`.
    pub k: Tensor<4>,
    /// Values, `[batch, seq, heads, d_value]`.
    pub v: Tensor<4>,
    /// `a`, or with a bound `v`, `[batch, seq, heads]`.
    pub potential: Tensor<3>,
    /// Of `a = bound tanh(v / bound)`, positive and finite; none takes the potential as it is.
    pub bound: Option<f64>,
    /// `beta`, `[heads]`, not negative.
    pub hopping: Tensor<1>,
    /// `z`, `[2, heads]`: row 0 `Re z`, row 1 `Im z > 0`.
    pub energy: Tensor<2>,
    /// None starts afresh.
    pub state: Option<ResolventState>,
}

/// Causal attention with the weights of the resolvent, in time linear in the sequence, with exact gradients.
///
/// # Shapes
/// - those of [`ResolventInputs`]; the state as it was returned for the same form
///
/// # Errors
/// [`BkError::Shape`], [`BkError::Empty`], [`BkError::DType`], [`BkError::Bound`] or [`BkError::Attention`].
pub fn resolvent_attention(
    inputs: ResolventInputs,
    form: ResolventForm,
) -> Result<ResolventAttention, BkError> {
    resolvent_attention_by(Strategy::Auto, inputs, form)
}

/// What [`resolvent_attention`] returns without its state, for those who go on from nowhere: on devices the state costs copies.
///
/// # Errors
/// As [`resolvent_attention`].
pub fn resolvent_attention_output(
    inputs: ResolventInputs,
    form: ResolventForm,
) -> Result<Tensor<4>, BkError> {
    Ok(Attended::new(Strategy::Auto, inputs, form)?.output)
}

/// [`resolvent_attention`] with the strategy of its linear attention chosen by hand, for tests and benchmarks.
///
/// # Errors
/// As [`resolvent_attention`].
pub fn resolvent_attention_by(
    strategy: Strategy,
    inputs: ResolventInputs,
    form: ResolventForm,
) -> Result<ResolventAttention, BkError> {
    Ok(Attended::new(strategy, inputs, form)?.with_state())
}

/// The output, and what the state is made of.
struct Attended {
    output: Tensor<4>,
    /// `[batch, seq, 2 * heads]`
    features: Tensor<3>,
    /// In the frame of the first position, if the form has phases.
    memory: Tensor<4>,
    phase: Option<Phase>,
}

impl Attended {
    fn new(
        strategy: Strategy,
        inputs: ResolventInputs,
        form: ResolventForm,
    ) -> Result<Self, BkError> {
        check_shapes(&inputs, form)?;
        if let Some(value) = inputs.bound.filter(|&b| !(b > 0.0 && b.is_finite())) {
            return Err(BkError::Bound { op: OP, value });
        }
        let ResolventInputs {
            q,
            k,
            v,
            potential,
            bound,
            hopping,
            energy,
            state,
        } = inputs;
        let [batch, _, heads] = potential.dims();
        let (left, memory) = match state {
            Some(ResolventState { left, memory }) => (Some(left), Some(memory)),
            None => (None, None),
        };
        let attended = |attended: Result<GatedAttention, GlaError>| {
            attended.map(|GatedAttention { output, state }| (output, state))
        };
        match form {
            ResolventForm::Born => {
                let gates = BornGates::new(potential, bound, hopping, energy, left)?;
                let log_kept = gates.log_kept;
                let (output, memory) = if strategy == Strategy::Auto && writes_forgotten(&q, &v) {
                    attended(gated_linear_attention_forgotten(q, k, v, log_kept, memory))?
                } else {
                    let k = match gates.written {
                        Some(written) => scaled(k, written),
                        None => kiln_fused::scale_written(k, log_kept.clone()),
                    };
                    let all = gated_linear_attention_by(strategy, q, k, v, log_kept, memory);
                    attended(all)?
                };
                Ok(Self {
                    output,
                    features: gates.features,
                    memory,
                    phase: None,
                })
            }
            ResolventForm::Complex => {
                let left =
                    left.unwrap_or_else(|| nothing_before(batch, heads, &potential.device()));
                let (before, rule) = (Some(left.clone()), GradRule::Exact);
                let potential = bounded(potential, bound);
                let features =
                    left_features(potential, hopping.clone(), energy.clone(), before, rule)?;
                let gates = Resolvent {
                    features: features.clone(),
                    left,
                    hopping,
                    energy,
                };
                let phase = Phase::new(&features);
                let (log_kept, written) = gates.gates();
                let written = written.sqrt();
                let k = Tensor::cat(
                    vec![
                        scaled(k.clone(), written.clone() * phase.to_key.clone().cos()),
                        scaled(k, written * phase.to_key.clone().sin()),
                    ],
                    3,
                );
                let (cos, sin) = (phase.total.clone().cos(), phase.total.clone().sin());
                let q = Tensor::cat(vec![scaled(q.clone(), cos), scaled(q, sin)], 3);
                let log_kept = log_kept * 0.5;
                let all = gated_linear_attention_by(strategy, q, k, v, log_kept, memory);
                let (output, memory) = attended(all)?;
                Ok(Self {
                    output,
                    features,
                    memory,
                    phase: Some(phase),
                })
            }
        }
    }

    fn with_state(self) -> ResolventAttention {
        let memory = match self.phase {
            Some(phase) => phase.into_last_frame(self.memory),
            None => self.memory,
        };
        ResolventAttention {
            output: self.output,
            state: ResolventState {
                left: last_position(&self.features),
                memory,
            },
        }
    }
}

/// The phases of the complex form, each `[batch, seq, heads]`.
struct Phase {
    /// `Theta_i`
    total: Tensor<3>,
    /// `Theta_j - phi_j`
    to_key: Tensor<3>,
}

impl Phase {
    fn new(features: &Tensor<3>) -> Self {
        let heads = features.dims()[2] / 2;
        let [re, im] = [0, heads].map(|first| features.clone().narrow(2, first, heads));
        let own = im.atan2(re); // phi, in (0, pi)
        let turns = (own.clone() - PI) / TAU; // of gamma = -sqrt(beta) L
        let total = total_turns(turns) * TAU;
        Self {
            to_key: total.clone() - own,
            total,
        }
    }

    /// `[batch, heads, 2 * d_key, d_value]` as it is after a rotation by `-Theta_N`.
    fn into_last_frame(self, memory: Tensor<4>) -> Tensor<4> {
        let [batch, seq, heads] = self.total.dims();
        let d_key = memory.dims()[2] / 2;
        let last = self.total.narrow(1, seq - 1, 1);
        let last = last.reshape([batch, heads, 1, 1]);
        let (cos, sin) = (last.clone().cos(), last.sin());
        let [c, s] = [0, d_key].map(|first| memory.clone().narrow(2, first, d_key));
        let turned_c = c.clone() * cos.clone() + s.clone() * sin.clone();
        let turned_s = s * cos - c * sin;
        Tensor::cat(vec![turned_c, turned_s], 2)
    }
}

/// Sums of turns along the sequence, up to whole turns: `[batch, seq, heads]`.
///
/// Each is split into a multiple of `1 / STEPS_PER_TURN`, whose sums are taken without their whole turns and without
/// rounding, and a rest so small that its sums stay far below a turn: over a million positions the rounding of the
/// summands themselves is all there is.
fn total_turns(turns: Tensor<3>) -> Tensor<3> {
    let coarse = (turns.clone() * STEPS_PER_TURN).round() / STEPS_PER_TURN;
    let coarse = coarse.detach();
    let fine = turns - coarse.clone();
    wrapped(cumulative(coarse, wrapped) + cumulative(fine, |sum| sum))
}

/// Without its whole turns, in `[-0.5, 0.5]`.
fn wrapped(turns: Tensor<3>) -> Tensor<3> {
    turns.clone() - turns.round().detach()
}

/// Sums up to and including each position, block by block; `reduce` is applied to every sum that is made.
fn cumulative(x: Tensor<3>, reduce: fn(Tensor<3>) -> Tensor<3>) -> Tensor<3> {
    let [batch, seq, heads] = x.dims();
    if seq <= BLOCK {
        return reduce(x.cumsum(1));
    }
    let blocks = seq.div_ceil(BLOCK);
    let missing = blocks * BLOCK - seq;
    let options = (&x.device(), DType::F32);
    let x = match missing {
        0 => x,
        missing => Tensor::cat(vec![x, Tensor::zeros([batch, missing, heads], options)], 1),
    };
    let inside = reduce(x.reshape([batch * blocks, BLOCK, heads]).cumsum(1));
    let totals = inside.clone().narrow(1, BLOCK - 1, 1);
    let totals = cumulative(totals.reshape([batch, blocks, heads]), reduce);
    let zero = Tensor::zeros([batch, 1, heads], options);
    let before = Tensor::cat(vec![zero, totals.narrow(1, 0, blocks - 1)], 1);
    let sum = reduce(inside + before.reshape([batch * blocks, 1, heads]));
    let sum = sum.reshape([batch, blocks * BLOCK, heads]);
    sum.narrow(1, 0, seq)
}

fn check_shapes(inputs: &ResolventInputs, form: ResolventForm) -> Result<(), BkError> {
    let [batch, seq, heads, d_key] = inputs.q.dims();
    let d_value = inputs.v.dims()[3];
    let shape = |name, axes, expected: &[usize], found: &[usize]| {
        if expected == found {
            return Ok(());
        }
        Err(BkError::Shape {
            op: OP,
            name,
            axes,
            expected: expected.to_vec(),
            found: found.to_vec(),
        })
    };
    shape(
        "potential",
        "[batch, seq, heads] of q",
        &[batch, seq, heads],
        &inputs.potential.dims(),
    )?;
    shape(
        "k",
        "[batch, seq, heads, d_key]",
        &[batch, seq, heads, d_key],
        &inputs.k.dims(),
    )?;
    shape(
        "v",
        "[batch, seq, heads, d_value]",
        &[batch, seq, heads, d_value],
        &inputs.v.dims(),
    )?;
    shape("hopping", "[heads]", &[heads], &inputs.hopping.dims())?;
    shape("energy", "[2, heads]", &[2, heads], &inputs.energy.dims())?;
    let Some(state) = &inputs.state else {
        return Ok(());
    };
    let (axes, rows) = match form {
        ResolventForm::Born => ("[batch, heads, d_key, d_value]", d_key),
        ResolventForm::Complex => ("[batch, heads, 2 * d_key, d_value]", 2 * d_key),
    };
    shape(
        "state.left",
        "[batch, 2 * heads]",
        &[batch, 2 * heads],
        &state.left.dims(),
    )?;
    shape(
        "state.memory",
        axes,
        &[batch, heads, rows, d_value],
        &state.memory.dims(),
    )
}
