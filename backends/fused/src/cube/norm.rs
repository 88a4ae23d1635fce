//! LayerNorm and RMSNorm: `x' = (x - mean) r`, `y = gamma x'`, with `mean = 0` for RMSNorm. A team of units has a row.

use burn::{backend::TensorMetadata, tensor::DType};
use burn_cubecl::{
    cubecl::{self, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};

use super::{
    address_type, empty, empty_like, last_axis, packed, processors,
    sums::sum_rows,
    team::{Team, add_teams, hold, stage, take, team_lane, team_row, team_shelf, team_sum},
    vector, with_float, writable,
};

/// Cubes for every processor of the device in the backward pass: enough to keep its memory busy, and few rows of partial sums.
const CUBES_PER_PROCESSOR: usize = 4;

pub(super) fn forward(x: CubeTensor, gamma: CubeTensor, epsilon: f32, centred: bool) -> CubeTensor {
    let (x, gamma) = (into_contiguous(x), packed(gamma, DType::F32));
    let y = empty_like(&x);
    let width = last_axis(&x);
    let rows = x.shape().num_elements() / width.max(1);
    if rows == 0 {
        return y;
    }
    let wide = vector(&x, width);
    let team = Team::new(&x.client, width / wide);
    let (count, dim) = team.launch(&x.client, rows);
    // SAFETY: rows that are not there repeat the last one and are not written.
    unsafe {
        with_float!(x, E => norm_value::launch_unchecked::<E>(
            &x.client,
            count,
            dim,
            address_type!(x, y),
            wide,
            x.clone().into_buffer_arg(),
            gamma.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            rows,
            width as f32,
            epsilon,
            team,
            centred,
        ));
    }
    y
}

/// Gradients of x, added to what it has so far, and, if it is asked for, gamma.
pub(super) fn adjoint(
    x: CubeTensor,
    gamma: CubeTensor,
    epsilon: f32,
    centred: bool,
    grad: CubeTensor,
    so_far: Option<CubeTensor>,
    gamma_asked: bool,
) -> (CubeTensor, Option<CubeTensor>) {
    let (x, gamma_type) = (into_contiguous(x), gamma.dtype);
    let (gamma, grad) = (packed(gamma, DType::F32), packed(grad, x.dtype));
    let adds = so_far.is_some();
    // Each number of the sum is read by the unit that writes it.
    let d_x = match so_far {
        Some(so_far) => writable(so_far, x.dtype),
        None => empty_like(&x),
    };
    let width = last_axis(&x);
    let rows = x.shape().num_elements() / width.max(1);
    if rows == 0 {
        let nothing = burn_cubecl::ops::numeric::zeros_client(
            x.client.clone(),
            x.device.clone(),
            gamma.shape(),
            gamma_type,
        );
        return (d_x, gamma_asked.then_some(nothing));
    }
    let wide = vector(&x, width);
    let team = Team::new(&x.client, width / wide);
    let most = CUBES_PER_PROCESSOR * processors(&x.client) * team.count;
    let turns = rows.div_ceil(most);
    let teams = rows.div_ceil(turns);
    let format = Format {
        team,
        centred,
        gamma_asked,
        adds,
    };
    let partial = empty(&x, [format.sums(teams), width], DType::F32);
    let (count, dim) = team.launch(&x.client, teams);
    // SAFETY: rows that are not there repeat the last one and are not written, nor are the sums of surplus teams and cubes.
    unsafe {
        with_float!(x, E => norm_gradient::launch_unchecked::<E>(
            &x.client,
            count,
            dim,
            address_type!(x, partial),
            wide,
            x.clone().into_buffer_arg(),
            gamma.into_buffer_arg(),
            grad.into_buffer_arg(),
            d_x.clone().into_buffer_arg(),
            partial.clone().into_buffer_arg(),
            rows,
            turns,
            teams,
            width as f32,
            epsilon,
            format,
        ));
    }
    let d_gamma = gamma_asked.then(|| packed(sum_rows(partial), gamma_type));
    (d_x, d_gamma)
}

/// What is fixed when the gradient's kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Format {
    team: Team,
    centred: bool,
    gamma_asked: bool,
    /// Whether the gradient of x is added to what is there.
    adds: bool,
}

impl Format {
    /// Whether the teams of a cube add up their sums.
    fn meet(self) -> bool {
        self.team.holds() && self.team.meet()
    }

    /// Rows of partial sums of so many teams: one for each cube or each team.
    fn sums(self, teams: usize) -> usize {
        match (self.gamma_asked, self.meet()) {
            (false, _) => 1,
            (true, true) => teams.div_ceil(self.team.count),
            (true, false) => teams,
        }
    }
}

/// Mean and `r` of a row.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Moments {
    mean: f32,
    r: f32,
}

#[cube]
impl Moments {
    /// `r = 1 / sqrt(mean (x - mean)^2 + epsilon)`, and a mean of 0 where rows are not centred.
    fn of<E: Float, N: Size>(
        held: &Array<Vector<f32, N>>,
        x: &[Vector<E, N>],
        row: usize,
        shared: &mut Shared<[f32]>,
        size: RowSize,
        #[comptime] team: Team,
        #[comptime] centred: bool,
    ) -> Moments {
        let mut mean = 0.0f32;
        if comptime!(centred) {
            let mut total = Vector::<f32, N>::new(0.0f32);
            #[unroll(team.holds())]
            for step in 0..comptime!(team.steps()) {
                total += take::<E, N>(held, x, row, step, team);
            }
            mean = team_sum(total.vector_sum(), shared, team) / size.width;
        }
        let mut squares = Vector::<f32, N>::new(0.0f32);
        #[unroll(team.holds())]
        for step in 0..comptime!(team.steps()) {
            let at = team_lane(team) + step * comptime!(team.lanes);
            if comptime!(team.even()) || at < comptime!(team.vectors) {
                let x = take::<E, N>(held, x, row, step, team) - Vector::<f32, N>::new(mean);
                squares += x * x;
            }
        }
        let variance = team_sum(squares.vector_sum(), shared, team) / size.width;
        Moments {
            mean,
            r: 1.0f32 / (variance + size.epsilon).sqrt(),
        }
    }

    /// `x'`
    fn normal<N: Size>(self, x: Vector<f32, N>) -> Vector<f32, N> {
        (x - Vector::<f32, N>::new(self.mean)) * Vector::<f32, N>::new(self.r)
    }
}

/// Width of a row and what is added to its variance.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct RowSize {
    width: f32,
    epsilon: f32,
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn norm_value<E: Float, N: Size>(
    x: &[Vector<E, N>],
    gamma: &[Vector<f32, N>],
    y: &mut [Vector<E, N>],
    rows: usize,
    width: f32,
    epsilon: f32,
    #[comptime] team: Team,
    #[comptime] centred: bool,
) {
    let mut shared = stage(team);
    let row = team_row(team);
    let source = min(row, rows - 1);
    let held = hold::<E, N>(x, source, team);
    let size = RowSize { width, epsilon };
    let moments = Moments::of::<E, N>(&held, x, source, &mut shared, size, team, centred);
    if row < rows {
        #[unroll(team.holds())]
        for step in 0..comptime!(team.steps()) {
            let at = team_lane(team) + step * comptime!(team.lanes);
            if comptime!(team.even()) || at < comptime!(team.vectors) {
                let x = take::<E, N>(&held, x, source, step, team);
                let value = moments.normal::<N>(x) * gamma[at];
                y[row * team.vectors + at] = Vector::<E, N>::cast_from(value);
            }
        }
    }
}

/// `d x = r (g gamma - mean(g gamma) - x' mean(g gamma x'))`, the first mean for LayerNorm only. A team has `turns` rows, one behind
/// the other; rows of `partial` are sums of `g x'` over those of a team or a cube.
#[cube(launch_unchecked, address_type = "dynamic")]
fn norm_gradient<E: Float, N: Size>(
    x: &[Vector<E, N>],
    gamma: &[Vector<f32, N>],
    grad: &[Vector<E, N>],
    d_x: &mut [Vector<E, N>],
    partial: &mut [Vector<f32, N>],
    rows: usize,
    turns: usize,
    teams: usize,
    width: f32,
    epsilon: f32,
    #[comptime] format: Format,
) {
    let team = comptime!(format.team);
    let (centred, gamma_asked) = comptime!((format.centred, format.gamma_asked));
    let mut shared = stage(team);
    let number = team_row(team);
    let size = RowSize { width, epsilon };
    let mut sums = Array::<Vector<f32, N>>::new(comptime!(team.held()));
    #[unroll]
    for step in 0..comptime!(team.held()) {
        sums[step] = Vector::<f32, N>::new(0.0f32);
    }
    for turn in 0..turns {
        let row = number * turns + turn;
        let source = min(row, rows - 1);
        let held = hold::<E, N>(x, source, team);
        let held_grad = hold::<E, N>(grad, source, team);
        let moments = Moments::of::<E, N>(&held, x, source, &mut shared, size, team, centred);
        let mut total = Vector::<f32, N>::new(0.0f32);
        let mut along = Vector::<f32, N>::new(0.0f32);
        #[unroll(team.holds())]
        for step in 0..comptime!(team.steps()) {
            let at = team_lane(team) + step * comptime!(team.lanes);
            if comptime!(team.even()) || at < comptime!(team.vectors) {
                let normal = moments.normal::<N>(take::<E, N>(&held, x, source, step, team));
                let g = take::<E, N>(&held_grad, grad, source, step, team);
                if comptime!(gamma_asked) && row < rows {
                    if comptime!(team.holds()) {
                        sums[step] += g * normal;
                    } else {
                        let place = number * team.vectors + at;
                        let mut sum = g * normal;
                        if turn > 0 {
                            sum += partial[place];
                        }
                        partial[place] = sum;
                    }
                }
                let weighted = g * gamma[at];
                total += weighted;
                along += weighted * normal;
            }
        }
        let mut mean = 0.0f32;
        if comptime!(centred) {
            mean = team_sum(total.vector_sum(), &mut shared, team) / width;
        }
        let slope = team_sum(along.vector_sum(), &mut shared, team) / width;
        if row < rows {
            #[unroll(team.holds())]
            for step in 0..comptime!(team.steps()) {
                let at = team_lane(team) + step * comptime!(team.lanes);
                if comptime!(team.even()) || at < comptime!(team.vectors) {
                    let normal = moments.normal::<N>(take::<E, N>(&held, x, source, step, team));
                    let g = take::<E, N>(&held_grad, grad, source, step, team);
                    let value = g * gamma[at]
                        - Vector::<f32, N>::new(mean)
                        - normal * Vector::<f32, N>::new(slope);
                    let mut value = value * Vector::<f32, N>::new(moments.r);
                    let place = row * team.vectors + at;
                    if comptime!(format.adds) {
                        value += Vector::<f32, N>::cast_from(d_x[place]);
                    }
                    d_x[place] = Vector::<E, N>::cast_from(value);
                }
            }
        }
    }
    if comptime!(gamma_asked && team.holds() && !format.meet()) {
        if number < teams {
            #[unroll]
            for step in 0..comptime!(team.held()) {
                let at = team_lane(team) + step * comptime!(team.lanes);
                if comptime!(team.even()) || at < comptime!(team.vectors) {
                    partial[number * team.vectors + at] = sums[step];
                }
            }
        }
    }
    if comptime!(gamma_asked && format.meet()) {
        let mut shelf = team_shelf::<N>(team);
        #[unroll]
        for step in 0..comptime!(team.held()) {
            let sum = add_teams::<N>(sums[step], &mut shelf, team);
            let at = UNIT_POS as usize + step * comptime!(team.lanes);
            let first = (UNIT_POS as usize) < comptime!(team.lanes);
            let there = CUBE_POS * comptime!(team.count) < teams;
            if first && there && at < comptime!(team.vectors) {
                partial[CUBE_POS * team.vectors + at] = sum;
            }
        }
    }
}
