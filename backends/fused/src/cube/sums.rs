//! Sums over rows, and of squares, in stages that follow from the shapes.

use burn::{
    backend::TensorMetadata,
    tensor::{DType, Tensor},
};
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};

use super::{
    address_type, empty,
    gathered::{Squares, is_gathered},
    lift, lower,
    team::{Team, plane, stage, team_lane, team_row, team_sum},
    vector, with_float,
};

/// Rows that a unit of [`sum_rows`] adds up, at most.
const ROWS: usize = 64;
/// Units of a cube of it, and those that share a column where units can: as many as leave a row's neighbours in one piece of 32 bytes, for
/// with fewer a table of a model's width keeps few of a large device's processors busy, each of them waiting for memory.
const UNITS: usize = 256;
const LANES: usize = 32;
/// Vectors that a unit adds up.
const STEPS: usize = 16;

/// `[width]` of `[rows, width]` in single precision.
pub(super) fn sum_rows(partial: CubeTensor) -> CubeTensor {
    let [mut rows, width] = partial.meta.shape().dims();
    let client = partial.client.clone();
    let dim = CubeDim::new_1d(UNITS as u32);
    let lanes = if plane(&client) > 1 { LANES } else { 1 };
    let columns = UNITS / lanes;
    let mut sums = partial;
    while rows > 1 {
        let groups = rows.div_ceil(ROWS * lanes);
        let blocks = width.div_ceil(columns);
        let next = empty(&sums, [groups, width], DType::F32);
        // SAFETY: units stay inside the rows, the columns and the groups.
        unsafe {
            add_rows_of_group::launch_unchecked(
                &client,
                calculate_cube_count_elemwise(&client, groups * blocks * UNITS, dim),
                dim,
                address_type!(sums),
                sums.into_buffer_arg(),
                next.clone().into_buffer_arg(),
                rows,
                width,
                groups,
                lanes,
            );
        }
        (sums, rows) = (next, groups);
    }
    burn_cubecl::ops::reshape(sums, [width].into())
}

/// See [`square_sums`](crate::square_sums): one pass over each tensor, and over what they leave until it is one number.
pub(crate) fn square_sums(tensors: Vec<Tensor<1>>) -> Tensor<1> {
    let tensors: Vec<CubeTensor> = tensors
        .into_iter()
        .map(|tensor| into_contiguous(lower(tensor)))
        .collect();
    let client = tensors[0].client.clone();
    let team = Team::plane(&client, STEPS);
    let len = |tensor: &CubeTensor| tensor.meta.shape().num_elements();
    let runs =
        |tensor: &CubeTensor| (len(tensor) / vector(tensor, len(tensor))).div_ceil(team.vectors);
    let (gathered, alone): (Vec<_>, Vec<_>) =
        tensors.into_iter().partition(|x| is_gathered(len(x)));
    let like = gathered.first().or(alone.first()).cloned();
    let gathered = Squares::of(gathered, &client);
    let of_gathered: usize = gathered.iter().map(|squares| squares.runs(team)).sum();
    let total = of_gathered + alone.iter().map(runs).sum::<usize>();
    let mut sums = empty(&like.expect("a tensor"), [total], DType::F32);
    let mut offset = 0;
    for squares in gathered {
        let runs = squares.runs(team);
        squares.add(&sums, offset, team);
        offset += runs;
    }
    for tensor in &alone {
        add_runs(tensor, &sums, offset, team, true);
        offset += runs(tensor);
    }
    loop {
        let [count] = sums.meta.shape().dims();
        if count == 1 {
            return lift(sums);
        }
        let next = empty(&sums, [runs(&sums)], DType::F32);
        add_runs(&sums, &next, 0, team, false);
        sums = next;
    }
}

/// Adds up the numbers of a tensor, or their squares, in runs of a team's vectors; the sums go to `sums` from `offset` on.
fn add_runs(tensor: &CubeTensor, sums: &CubeTensor, offset: usize, team: Team, squared: bool) {
    let client = &tensor.client;
    let len = tensor.shape().num_elements();
    let wide = vector(tensor, len);
    let runs = (len / wide).div_ceil(team.vectors);
    let (count, dim) = team.launch(client, runs);
    // SAFETY: teams stay inside the tensor and write the sum of their own run.
    unsafe {
        with_float!(tensor, E => add_run::launch_unchecked::<E>(
            client,
            count,
            dim,
            address_type!(tensor, sums),
            wide,
            tensor.clone().into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            len / wide,
            runs,
            offset,
            team,
            squared,
        ));
    }
}

/// A cube `(group, block of columns)`: lane l of a column adds up every `lanes`-th row of its group from l on, then the lanes are added
/// up.
#[cube(launch_unchecked, address_type = "dynamic")]
fn add_rows_of_group(
    partial: &[f32],
    sums: &mut [f32],
    rows: usize,
    width: usize,
    groups: usize,
    #[comptime] lanes: usize,
) {
    let columns = comptime!(UNITS / lanes);
    let blocks = width.div_ceil(columns);
    let unit = UNIT_POS as usize;
    let group = CUBE_POS / blocks;
    let column = CUBE_POS % blocks * columns + unit % columns;
    let lane = unit / columns;
    let mut sum = 0.0f32;
    if group < groups && column < width {
        let first = group * comptime!(ROWS * lanes);
        let end = min(first + comptime!(ROWS * lanes), rows);
        let mut row = first + lane;
        // Eight loads at once: each by itself would wait for the one before.
        while row + comptime!(7 * lanes) < end {
            let at = row * width + column;
            let stride = width * lanes;
            let four = (partial[at] + partial[at + stride])
                + (partial[at + 2 * stride] + partial[at + 3 * stride]);
            sum += four
                + ((partial[at + 4 * stride] + partial[at + 5 * stride])
                    + (partial[at + 6 * stride] + partial[at + 7 * stride]));
            row += comptime!(8 * lanes);
        }
        while row < end {
            sum += partial[row * width + column];
            row += lanes;
        }
    }
    if comptime!(lanes > 1) {
        let mut shelf = Shared::<[f32]>::new_slice(UNITS);
        shelf[unit] = sum;
        sync_cube();
        if lane == 0 {
            #[unroll]
            for other in 1..lanes {
                sum += shelf[unit + other * columns];
            }
        }
    }
    if lane == 0 && group < groups && column < width {
        sums[group * width + column] = sum;
    }
}

/// A team adds up one run.
#[cube(launch_unchecked, address_type = "dynamic")]
fn add_run<E: Float, N: Size>(
    x: &[Vector<E, N>],
    sums: &mut [f32],
    total: usize,
    runs: usize,
    offset: usize,
    #[comptime] team: Team,
    #[comptime] squared: bool,
) {
    let run = team_row(team);
    let part = sum_of_run::<E, N>(x, run, total, team, squared);
    let mut shared = stage(team);
    let sum = team_sum(part, &mut shared, team);
    if run < runs && team_lane(team) == 0 {
        sums[offset + run] = sum;
    }
}

/// What a unit adds up of its team's run of a tensor of `total` vectors: numbers, or their squares.
#[cube]
pub(super) fn sum_of_run<E: Float, N: Size>(
    x: &[Vector<E, N>],
    run: usize,
    total: usize,
    #[comptime] team: Team,
    #[comptime] squared: bool,
) -> f32 {
    let first = run * comptime!(team.vectors) + team_lane(team);
    let mut part = Vector::<f32, N>::new(0.0f32);
    // Asked once, so that all loads are issued before the first of them is waited for.
    if first + comptime!((STEPS - 1) * team.lanes) < total {
        #[unroll]
        for step in 0..STEPS {
            part += counted::<E, N>(x[first + step * comptime!(team.lanes)], squared);
        }
    } else {
        let mut at = first;
        while at < total {
            part += counted::<E, N>(x[at], squared);
            at += comptime!(team.lanes);
        }
    }
    part.vector_sum()
}

#[cube]
fn counted<E: Float, N: Size>(x: Vector<E, N>, #[comptime] squared: bool) -> Vector<f32, N> {
    let x = Vector::<f32, N>::cast_from(x);
    if comptime!(squared) { x * x } else { x }
}
