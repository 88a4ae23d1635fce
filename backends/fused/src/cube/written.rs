//! What is written to a memory and read from it: rows with a factor each, columns with a weight each.

use burn::tensor::DType;
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};
use kiln_native::one_minus_exp;

use super::{
    CUBE_UNITS, address_type, empty, empty_like, packed,
    sums::sum_rows,
    team::{Team, stage, team_lane, team_row, team_sum},
    vector, with_float,
};

/// Rows that a unit of [`weigh_back`] walks.
const RUN: usize = 32;

/// `x + weight y` of `[rows, width]`.
pub(super) fn add_weighted(x: CubeTensor, y: CubeTensor, weight: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    let (y, weight) = (packed(y, x.dtype), packed(weight, DType::F32));
    let sum = empty_like(&x);
    let [rows, width] = x.meta.shape().dims();
    let wide = vector(&x, width);
    let total = rows * (width / wide);
    if total == 0 {
        return sum;
    }
    let dim = CubeDim::new_1d(CUBE_UNITS);
    // SAFETY: the buffers are packed and of one length, and surplus units leave at once.
    unsafe {
        with_float!(x, E => weigh::launch_unchecked::<E>(
            &x.client,
            calculate_cube_count_elemwise(&x.client, total, dim),
            dim,
            address_type!(x, sum),
            wide,
            x.clone().into_buffer_arg(),
            y.into_buffer_arg(),
            weight.into_buffer_arg(),
            sum.clone().into_buffer_arg(),
            width / wide,
            total,
        ));
    }
    sum
}

/// Gradients of y and weight.
pub(super) fn add_weighted_adjoint(
    y: CubeTensor,
    weight: CubeTensor,
    grad: CubeTensor,
) -> [CubeTensor; 2] {
    let (y, weight_type) = (into_contiguous(y), weight.dtype);
    let (weight, grad) = (packed(weight, DType::F32), packed(grad, y.dtype));
    let d_y = empty_like(&y);
    let [rows, width] = y.meta.shape().dims();
    let wide = vector(&y, width);
    let runs = rows.div_ceil(RUN).max(1);
    let partial = empty(&y, [runs, width], DType::F32);
    let total = runs * (width / wide);
    let dim = CubeDim::new_1d(CUBE_UNITS);
    // SAFETY: as above; every run has a row of partial sums.
    unsafe {
        with_float!(y, E => weigh_back::launch_unchecked::<E>(
            &y.client,
            calculate_cube_count_elemwise(&y.client, total, dim),
            dim,
            address_type!(y, partial),
            wide,
            y.clone().into_buffer_arg(),
            weight.into_buffer_arg(),
            grad.into_buffer_arg(),
            d_y.clone().into_buffer_arg(),
            partial.clone().into_buffer_arg(),
            width / wide,
            rows,
            total,
        ));
    }
    [d_y, packed(sum_rows(partial), weight_type)]
}

/// `(1 - e^log_kept) x` of `[rows, width]`.
pub(super) fn scale(x: CubeTensor, log_kept: CubeTensor) -> CubeTensor {
    let (x, log_kept) = (into_contiguous(x), packed(log_kept, DType::F32));
    let y = empty_like(&x);
    let [rows, width] = x.meta.shape().dims();
    let wide = vector(&x, width);
    let total = rows * (width / wide);
    if total == 0 {
        return y;
    }
    let dim = CubeDim::new_1d(CUBE_UNITS);
    // SAFETY: the buffers are packed and of one length, and surplus units leave at once.
    unsafe {
        with_float!(x, E => scale_row::launch_unchecked::<E>(
            &x.client,
            calculate_cube_count_elemwise(&x.client, total, dim),
            dim,
            address_type!(x, y),
            wide,
            x.clone().into_buffer_arg(),
            log_kept.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            width / wide,
            total,
        ));
    }
    y
}

/// Gradients of x and log_kept.
pub(super) fn scale_adjoint(
    x: CubeTensor,
    log_kept: CubeTensor,
    grad: CubeTensor,
) -> [CubeTensor; 2] {
    let (x, kept_type) = (into_contiguous(x), log_kept.dtype);
    let (log_kept, grad) = (packed(log_kept, DType::F32), packed(grad, x.dtype));
    let (d_x, d_kept) = (empty_like(&x), empty_like(&log_kept));
    let [rows, width] = x.meta.shape().dims();
    if rows * width > 0 {
        let wide = vector(&x, width);
        let team = Team::new(&x.client, width / wide);
        let (count, dim) = team.launch(&x.client, rows);
        // SAFETY: rows that are not there repeat the last one and are not written.
        unsafe {
            with_float!(x, E => scale_row_back::launch_unchecked::<E>(
                &x.client,
                count,
                dim,
                address_type!(x, d_x),
                wide,
                x.clone().into_buffer_arg(),
                log_kept.into_buffer_arg(),
                grad.into_buffer_arg(),
                d_x.clone().into_buffer_arg(),
                d_kept.clone().into_buffer_arg(),
                rows,
                team,
            ));
        }
    }
    [d_x, packed(d_kept, kept_type)]
}

/// Unit `(row, vector)`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn weigh<E: Float, N: Size>(
    x: &[Vector<E, N>],
    y: &[Vector<E, N>],
    weight: &[Vector<f32, N>],
    sum: &mut [Vector<E, N>],
    vectors: usize,
    total: usize,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]);
    let y = Vector::<f32, N>::cast_from(y[ABSOLUTE_POS]);
    sum[ABSOLUTE_POS] = Vector::<E, N>::cast_from(x + y * weight[ABSOLUTE_POS % vectors]);
}

/// `d y = w g` and `d w = sum g y`; unit `(run, vector)` walks the rows of a run.
#[cube(launch_unchecked, address_type = "dynamic")]
fn weigh_back<E: Float, N: Size>(
    y: &[Vector<E, N>],
    weight: &[Vector<f32, N>],
    grad: &[Vector<E, N>],
    d_y: &mut [Vector<E, N>],
    partial: &mut [Vector<f32, N>],
    vectors: usize,
    rows: usize,
    total: usize,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let column = ABSOLUTE_POS % vectors;
    let first = ABSOLUTE_POS / vectors * RUN;
    let weight = weight[column];
    let mut sum = Vector::<f32, N>::new(0.0f32);
    for row in first..min(first + RUN, rows) {
        let at = row * vectors + column;
        let g = Vector::<f32, N>::cast_from(grad[at]);
        sum += g * Vector::<f32, N>::cast_from(y[at]);
        d_y[at] = Vector::<E, N>::cast_from(g * weight);
    }
    partial[ABSOLUTE_POS] = sum;
}

/// Unit `(row, vector)`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn scale_row<E: Float, N: Size>(
    x: &[Vector<E, N>],
    log_kept: &[f32],
    y: &mut [Vector<E, N>],
    vectors: usize,
    total: usize,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let written = one_minus_exp(log_kept[ABSOLUTE_POS / vectors]);
    let x = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]);
    y[ABSOLUTE_POS] = Vector::<E, N>::cast_from(x * Vector::<f32, N>::new(written));
}

/// `d x = (1 - e^l) g`, `d l = -e^l sum g x`; a team has a row.
#[cube(launch_unchecked, address_type = "dynamic")]
fn scale_row_back<E: Float, N: Size>(
    x: &[Vector<E, N>],
    log_kept: &[f32],
    grad: &[Vector<E, N>],
    d_x: &mut [Vector<E, N>],
    d_kept: &mut [f32],
    rows: usize,
    #[comptime] team: Team,
) {
    let mut shared = stage(team);
    let row = team_row(team);
    let source = min(row, rows - 1);
    let log_kept = log_kept[source];
    let written = Vector::<f32, N>::new(one_minus_exp(log_kept));
    let mut along = Vector::<f32, N>::new(0.0f32);
    #[unroll(team.holds())]
    for step in 0..comptime!(team.steps()) {
        let lane = team_lane(team) + step * comptime!(team.lanes);
        if comptime!(team.even()) || lane < comptime!(team.vectors) {
            let at = source * team.vectors + lane;
            let g = Vector::<f32, N>::cast_from(grad[at]);
            along += g * Vector::<f32, N>::cast_from(x[at]);
            if row < rows {
                d_x[at] = Vector::<E, N>::cast_from(g * written);
            }
        }
    }
    let along = team_sum(along.vector_sum(), &mut shared, team);
    if row < rows && team_lane(team) == 0 {
        d_kept[row] = -log_kept.exp() * along;
    }
}
