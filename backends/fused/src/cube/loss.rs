//! Cross-entropy: `log sum_j exp(l_j) - l_target`, and its gradient `g (softmax(l) - onehot(target))`. A team of units has a row.

use burn::{
    backend::{Cube, TensorMetadata, tensor::IntTensor},
    tensor::DType,
};
use burn_cubecl::{
    cubecl::{self, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};

use super::{
    address_type, empty, empty_like,
    math::nan,
    packed,
    team::{Team, stage, team_lane, team_max, team_row, team_sum},
    vector, with_float,
};

/// Below every logit, and finite: a difference of two of them is a number.
pub(super) const LEAST: f32 = -3.0e38;

/// What a launch needs to know.
pub(super) struct Rows {
    pub wide: usize,
    pub team: Team,
    pub dim: CubeDim,
    pub count: CubeCount,
    pub rows: usize,
    pub vocab: usize,
}

impl Rows {
    pub fn new(logits: &CubeTensor) -> Self {
        let [rows, vocab] = logits.meta.shape().dims();
        let wide = vector(logits, vocab);
        let team = Team::new(&logits.client, vocab / wide);
        let (count, dim) = team.launch(&logits.client, rows);
        Self {
            wide,
            team,
            dim,
            count,
            rows,
            vocab,
        }
    }
}

/// Nats `[tokens]` in single precision.
pub(super) fn forward(logits: CubeTensor, targets: IntTensor<Cube>) -> CubeTensor {
    let logits = into_contiguous(logits);
    let targets = packed(targets, DType::I32);
    let nats = empty(&logits, targets.shape(), DType::F32);
    let rows = Rows::new(&logits);
    if rows.rows > 0 {
        // SAFETY: rows that are not there repeat the last one and are not written, and targets are compared with the vocabulary
        // before they are followed.
        unsafe {
            with_float!(logits, E => nats_of_rows::launch_unchecked::<E>(
                &logits.client,
                rows.count,
                rows.dim,
                address_type!(logits),
                rows.wide,
                logits.clone().into_buffer_arg(),
                targets.into_buffer_arg(),
                nats.clone().into_buffer_arg(),
                rows.rows,
                rows.vocab,
                rows.team,
            ));
        }
    }
    nats
}

/// Gradient of the logits.
pub(super) fn adjoint(
    logits: CubeTensor,
    targets: IntTensor<Cube>,
    nats: CubeTensor,
    grad: CubeTensor,
) -> CubeTensor {
    let logits = into_contiguous(logits);
    let targets = packed(targets, DType::I32);
    let [nats, grad] = [nats, grad].map(|x| packed(x, DType::F32));
    let d_logits = empty_like(&logits);
    let rows = Rows::new(&logits);
    if rows.rows > 0 {
        // SAFETY: as in `forward`.
        unsafe {
            with_float!(logits, E => gradient_of_rows::launch_unchecked::<E>(
                &logits.client,
                rows.count,
                rows.dim,
                address_type!(logits),
                rows.wide,
                logits.clone().into_buffer_arg(),
                targets.into_buffer_arg(),
                nats.into_buffer_arg(),
                grad.into_buffer_arg(),
                d_logits.clone().into_buffer_arg(),
                rows.rows,
                rows.vocab,
                rows.team,
            ));
        }
    }
    d_logits
}

/// The logit of a target that exists.
#[cube]
pub(super) fn logit<E: Float, N: Size>(
    logits: &[Vector<E, N>],
    row: usize,
    target: usize,
    #[comptime] team: Team,
) -> f32 {
    let first = logits[row * team.vectors];
    let wide = first.vector_size();
    let held = Vector::<f32, N>::cast_from(logits[row * team.vectors + target / wide]);
    let mut value = held.extract(0usize);
    #[unroll]
    for i in 1..wide {
        value = select(target % wide == i, held.extract(i), value);
    }
    value
}

/// Each unit keeps the largest logit it has met and the sum of exponentials relative to it. NaN where there is no such target.
#[cube(launch_unchecked, address_type = "dynamic")]
fn nats_of_rows<E: Float, N: Size>(
    logits: &[Vector<E, N>],
    targets: &[i32],
    nats: &mut [f32],
    rows: usize,
    vocab: usize,
    #[comptime] team: Team,
) {
    let row = min(team_row(team), rows - 1);
    let mut top = LEAST.runtime();
    let mut total = 0.0f32;
    let mut at = team_lane(team);
    while at < comptime!(team.vectors) {
        let held = Vector::<f32, N>::cast_from(logits[row * team.vectors + at]);
        let mut most = held.extract(0usize);
        #[unroll]
        for i in 1..held.vector_size() {
            most = max(most, held.extract(i));
        }
        let most = max(most, top);
        total *= (top - most).exp();
        #[unroll]
        for i in 0..held.vector_size() {
            total += (held.extract(i) - most).exp();
        }
        top = most;
        at += comptime!(team.lanes);
    }
    let mut shared = stage(team);
    let most = team_max(top, &mut shared, team);
    let total = team_sum(total * (top - most).exp(), &mut shared, team);
    if team_row(team) < rows && team_lane(team) == 0 {
        let target = targets[row];
        let mut value = nan();
        if target >= 0 && (target as usize) < vocab {
            value = total.ln() + (most - logit::<E, N>(logits, row, target as usize, team));
        }
        nats[row] = value;
    }
}

/// `g (softmax(l) - onehot(target))`, where the softmax is `exp((l - l_target) - nats)`: no sum is taken again.
#[cube(launch_unchecked, address_type = "dynamic")]
fn gradient_of_rows<E: Float, N: Size>(
    logits: &[Vector<E, N>],
    targets: &[i32],
    nats: &[f32],
    grad: &[f32],
    d_logits: &mut [Vector<E, N>],
    rows: usize,
    vocab: usize,
    #[comptime] team: Team,
) {
    let row = team_row(team);
    if row >= rows {
        terminate!();
    }
    let target = min(max(targets[row], 0) as usize, vocab - 1);
    let reference = logit::<E, N>(logits, row, target, team);
    let nats = nats[row];
    let grad = grad[row];
    let mut at = team_lane(team);
    while at < comptime!(team.vectors) {
        let held = Vector::<f32, N>::cast_from(logits[row * team.vectors + at]);
        let mut value = held;
        #[unroll]
        for i in 0..held.vector_size() {
            let share = ((held.extract(i) - reference) - nats).exp();
            let hit = at * held.vector_size() + i == target;
            value.insert(i, grad * (share - select(hit, 1.0f32, 0.0f32)));
        }
        d_logits[row * team.vectors + at] = Vector::<E, N>::cast_from(value);
        at += comptime!(team.lanes);
    }
}
