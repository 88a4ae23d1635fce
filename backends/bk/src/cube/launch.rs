//! Buffers and launches.

use burn::{
    backend::Cube,
    tensor::{DType, Shape},
};
use burn_cubecl::{
    cubecl::{calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    ops::numeric::{empty_device_contiguous_dtype, zeros_client},
    tensor::CubeTensor,
};

use super::{
    kernels::{self, Born, DimsLaunch, GridLaunch},
    plan::{Plan, Tiles},
};
use crate::{born::BornSaved, rule::GradRule};

/// Units of a cube. Small, because a few thousand sequences should still spread over all processors.
const CUBE_UNITS: u32 = 64;
/// Chunks whose maps one unit composes, or rows that it adds up.
const GROUP: usize = 32;

/// The address type that reaches every element of these tensors.
macro_rules! address_type {
    ($($tensor:expr),*) => {
        [$($tensor.required_address_type()),*].into_iter().max().unwrap_or_default()
    };
}

/// Launches a kernel over the units of a plan, with buffers, then scalars, then the plan, then compile-time arguments.
macro_rules! launch {
    ($kernel:ident, $plan:expr, [$($buffer:expr),*], [$($scalar:expr),*], [$($constant:expr),*]) => {{
        let (client, plan) = (first!($($buffer),*).client.clone(), $plan);
        let cube_dim = CubeDim::new_1d(CUBE_UNITS);
        let cube_count = calculate_cube_count_elemwise(&client, plan.units(), cube_dim);
        // SAFETY: the kernels stay inside `[batch, seq, heads]` and `[batch, chunks, heads]`, the shapes that every
        // function here gives its buffers, and surplus units leave at once.
        unsafe {
            kernels::$kernel::launch_unchecked(
                &client,
                cube_count,
                cube_dim,
                address_type!($($buffer),*),
                $($buffer.clone().into_buffer_arg(),)*
                $($scalar,)*
                DimsLaunch::new(plan.seq, plan.heads, plan.chunks, plan.chunk, plan.units()),
                $($constant,)*
            );
        }
    }};
}

macro_rules! first {
    ($first:expr $(, $rest:expr)*) => {
        $first
    };
}

// After the macros, which it uses.
pub(super) mod solve;

/// A new buffer, not initialised.
fn empty(like: &CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    empty_device_contiguous_dtype(
        like.client.clone(),
        like.device.clone(),
        shape.into(),
        DType::F32,
    )
}

/// Zeros, packed: asked for by rows, CUDA would pad them, and kernels would read the padding.
pub(super) fn zeros(like: &CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    let shape: Shape = shape.into();
    let packed = zeros_client(client, device, [shape.num_elements()].into(), DType::F32);
    burn_cubecl::ops::reshape(packed, shape)
}

/// `[batch, seq, 2 * heads]`
pub(super) fn left(plan: Plan, inputs: [CubeTensor; 4]) -> CubeTensor {
    let [potential, hopping, energy, state] = inputs.map(into_contiguous);
    sweep(plan, &potential, &hopping, &energy, state, false)
}

/// Gradients of potential `[batch, seq, heads]`, parameters `[3 * heads]` (energy, then hopping) and the conjugate of the
/// state's in row 0 of every batch row of `[batch, chunks, 2 * heads]`.
pub(super) fn left_adjoint(plan: Plan, inputs: [CubeTensor; 4], rule: GradRule) -> [CubeTensor; 4] {
    let [features, hopping, state, grad] = inputs.map(into_contiguous);
    let maps = |maps: &CubeTensor| {
        launch!(
            left_adjoint_maps,
            plan,
            [features, hopping, grad, maps],
            [],
            []
        );
    };
    let nothing = zeros(&features, [plan.batch, 2 * plan.heads]);
    let carry = entering(plan, nothing, maps, true);
    let d_potential = empty(&features, [plan.batch, plan.seq, plan.heads]);
    let sums = empty(&features, [plan.rows(), 3 * plan.heads]);
    let (exact, blend) = blend(rule);
    launch!(
        left_adjoint,
        plan,
        [features, hopping, state, grad, carry, d_potential, sums],
        [blend],
        [exact]
    );
    let [energy, hopping] = parameters(sums);
    [d_potential, hopping, energy, carry]
}

/// A board on which no tile has published anything.
fn board(like: &CubeTensor, tiles: Tiles, words: usize) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    zeros_client(client, device, [tiles.board(words)].into(), DType::U32)
}

/// Cubes and units of a cube, and the grid that tells them their places.
fn grid(client: &Client, tiles: Tiles) -> (CubeCount, CubeDim, GridLaunch) {
    let dim = CubeDim::new_1d(tiles.tiling.units() as u32);
    let count = calculate_cube_count_elemwise(client, tiles.total() * tiles.tiling.units(), dim);
    let grid = GridLaunch::new(
        tiles.seq,
        tiles.heads,
        tiles.blocks,
        tiles.tiles,
        tiles.total(),
    );
    (count, dim, grid)
}

/// `[batch, seq, 2 * heads]`, and with gates `ln(1 - p_i)`, `[batch, seq, heads]`.
pub(super) fn left_look_back(
    tiles: Tiles,
    inputs: [CubeTensor; 4],
    born: Born,
    bound: f32,
) -> [CubeTensor; 2] {
    let [potential, hopping, energy, state] = inputs.map(into_contiguous);
    let features = empty(&potential, [tiles.batch, tiles.seq, 2 * tiles.heads]);
    let kept = match born.gates {
        true => empty(&potential, [tiles.batch, tiles.seq, tiles.heads]),
        false => features.clone(),
    };
    // Whole sequences look at no board, but the argument has to be bound to something of its type.
    let board = match tiles.tiling.whole {
        true => empty_device_contiguous_dtype(
            potential.client.clone(),
            potential.device.clone(),
            [1].into(),
            DType::U32,
        ),
        false => board(&potential, tiles, kernels::LEFT_WORDS),
    };
    let client = potential.client.clone();
    let (count, dim, grid) = grid(&client, tiles);
    let address = address_type!(potential, features, board);
    // SAFETY: units stay inside the tensors' shapes, which are the plan's, and surplus cubes leave at once.
    unsafe {
        kernels::left_look_back::launch_unchecked(
            &client,
            count,
            dim,
            address,
            potential.into_buffer_arg(),
            hopping.into_buffer_arg(),
            energy.into_buffer_arg(),
            state.into_buffer_arg(),
            board.into_buffer_arg(),
            features.clone().into_buffer_arg(),
            kept.clone().into_buffer_arg(),
            bound,
            grid,
            tiles.tiling,
            born,
        );
    }
    [features, kept]
}

/// Gradients of potential `[batch, seq, heads]`, hopping, energy `[2, heads]` and state `[batch, 2 * heads]`.
pub(super) fn left_adjoint_look_back(
    tiles: Tiles,
    inputs: [CubeTensor; 4],
    rule: GradRule,
) -> [CubeTensor; 4] {
    let [features, hopping, state, grad] = inputs.map(into_contiguous);
    // What the kernel does not read is bound to something of its type.
    let [potential, energy] = [&features, &hopping].map(Clone::clone);
    let inputs = [features, hopping, state, grad, potential, energy];
    adjoint_look_back(tiles, inputs, rule, Born::default(), 0.0)
}

/// The same from the gradient of the gates; potential before its bound.
pub(super) fn born_adjoint(
    tiles: Tiles,
    saved: BornSaved<Cube>,
    grad: CubeTensor,
    born: Born,
) -> [CubeTensor; 4] {
    let bound = saved.settings.bound;
    let inputs = [
        saved.features,
        saved.hopping,
        saved.state,
        grad,
        saved.potential,
        saved.energy,
    ];
    let inputs = inputs.map(into_contiguous);
    adjoint_look_back(tiles, inputs, GradRule::Exact, born, bound)
}

fn adjoint_look_back(
    tiles: Tiles,
    [features, hopping, state, grad, potential, energy]: [CubeTensor; 6],
    rule: GradRule,
    born: Born,
    bound: f32,
) -> [CubeTensor; 4] {
    let Tiles {
        batch, seq, heads, ..
    } = tiles;
    let d_potential = empty(&features, [batch, seq, heads]);
    let d_state = empty(&features, [batch, 2 * heads]);
    let d_energy = empty(&features, [2, heads]);
    let d_hopping = empty(&features, [heads]);
    let sums = empty(&features, [batch * tiles.tiles, 3 * heads]);
    let board = board(&features, tiles, kernels::ADJOINT_WORDS);
    let (exact, blend) = blend(rule);
    let client = features.client.clone();
    let (count, dim, grid) = grid(&client, tiles);
    let address = address_type!(features, board, sums);
    // SAFETY: as above; `sums` has a row for every tile of every batch row, and the board a counter for every block.
    unsafe {
        kernels::left_adjoint_look_back::launch_unchecked(
            &client,
            count,
            dim,
            address,
            features.into_buffer_arg(),
            hopping.into_buffer_arg(),
            state.into_buffer_arg(),
            grad.into_buffer_arg(),
            board.into_buffer_arg(),
            d_potential.clone().into_buffer_arg(),
            d_state.clone().into_buffer_arg(),
            sums.into_buffer_arg(),
            d_energy.clone().into_buffer_arg(),
            d_hopping.clone().into_buffer_arg(),
            potential.into_buffer_arg(),
            energy.into_buffer_arg(),
            bound,
            blend,
            grid,
            tiles.tiling,
            born,
            exact,
        );
    }
    [d_potential, d_hopping, d_energy, d_state]
}

/// `[batch, seq, 2 * heads]`
pub(super) fn diagonal(plan: Plan, inputs: [CubeTensor; 3]) -> CubeTensor {
    let [potential, hopping, energy] = inputs.map(into_contiguous);
    let nothing = zeros(&potential, [plan.batch, 2 * plan.heads]);
    let right = sweep(plan, &potential, &hopping, &energy, nothing.clone(), true);
    let values = empty(&potential, [plan.batch, plan.seq, 2 * plan.heads]);
    let entering = sweep_entering(plan, &potential, &hopping, &energy, nothing, false);
    launch!(
        diagonal,
        plan,
        [potential, hopping, energy, entering, right, values],
        [],
        []
    );
    values
}

/// Gradients of potential, hopping and energy.
pub(super) fn diagonal_adjoint(
    plan: Plan,
    inputs: [CubeTensor; 4],
    rule: GradRule,
) -> [CubeTensor; 3] {
    let [potential, hopping, energy, grad] = inputs.map(into_contiguous);
    let nothing = zeros(&potential, [plan.batch, 2 * plan.heads]);
    let side = |reverse| {
        sweep(
            plan,
            &potential,
            &hopping,
            &energy,
            nothing.clone(),
            reverse,
        )
    };
    let (left, right) = (side(false), side(true));
    let d_potential = empty(&potential, [plan.batch, plan.seq, plan.heads]);
    let sums = empty(&potential, [2 * plan.rows(), 3 * plan.heads]);
    let (exact, blend) = blend(rule);
    for reverse in [true, false] {
        let maps = |maps: &CubeTensor| {
            launch!(
                diagonal_adjoint_maps,
                plan,
                [hopping, grad, left, right, maps],
                [],
                [reverse]
            );
        };
        let carry = entering(plan, nothing.clone(), maps, reverse);
        launch!(
            diagonal_adjoint,
            plan,
            [hopping, grad, left, right, carry, d_potential, sums],
            [blend],
            [exact, reverse]
        );
    }
    let [energy, hopping] = parameters(sums);
    [d_potential, hopping, energy]
}

/// Positions of a unit of the gates, forward and backward, where it leaves a row of sums.
const GATES: [usize; 2] = [4, 16];

/// `ln(1 - p_i)`, `[batch, seq, heads]`, from features, left, hopping and energy.
pub(super) fn log_kept(inputs: [CubeTensor; 4]) -> CubeTensor {
    let [features, left, hopping, energy] = inputs.map(into_contiguous);
    let plan = gates(&features, GATES[0]);
    let kept = empty(&features, [plan.batch, plan.seq, plan.heads]);
    launch!(
        log_kept,
        plan,
        [features, left, hopping, energy, kept],
        [],
        []
    );
    kept
}

/// Gradients of features, hopping and energy, from features, left, hopping, energy and the gradient of the gates.
pub(super) fn log_kept_adjoint(inputs: [CubeTensor; 5]) -> [CubeTensor; 3] {
    let [features, left, hopping, energy, grad] = inputs.map(into_contiguous);
    let plan = gates(&features, GATES[1]);
    let d_features = empty(&features, [plan.batch, plan.seq, 2 * plan.heads]);
    let sums = empty(&features, [plan.rows(), 3 * plan.heads]);
    launch!(
        log_kept_adjoint,
        plan,
        [features, left, hopping, energy, grad, d_features, sums],
        [],
        []
    );
    let heads = plan.heads;
    let [d_energy, d_hopping] = parameters(sums);
    [
        d_features,
        burn_cubecl::ops::reshape(d_hopping, [heads].into()),
        burn_cubecl::ops::reshape(d_energy, [2, heads].into()),
    ]
}

fn gates(features: &CubeTensor, positions: usize) -> Plan {
    let [batch, seq, width] = features.meta.shape().dims();
    Plan::cut([batch, seq, width / 2], positions)
}

/// Whether the rule is exact, and if not its weight.
fn blend(rule: GradRule) -> (bool, f32) {
    let blend = rule.blend();
    (blend.is_none(), blend.unwrap_or(0.0))
}

/// `L` from the left or, in reverse, `R` from the right: `[batch, seq, 2 * heads]`.
fn sweep(
    plan: Plan,
    potential: &CubeTensor,
    hopping: &CubeTensor,
    energy: &CubeTensor,
    first: CubeTensor,
    reverse: bool,
) -> CubeTensor {
    let entering = sweep_entering(plan, potential, hopping, energy, first, reverse);
    let values = empty(potential, [plan.batch, plan.seq, 2 * plan.heads]);
    launch!(
        sweep,
        plan,
        [potential, hopping, energy, entering, values],
        [],
        [reverse]
    );
    values
}

fn sweep_entering(
    plan: Plan,
    potential: &CubeTensor,
    hopping: &CubeTensor,
    energy: &CubeTensor,
    first: CubeTensor,
    reverse: bool,
) -> CubeTensor {
    let maps = |maps: &CubeTensor| {
        launch!(
            sweep_maps,
            plan,
            [potential, hopping, energy, maps],
            [],
            [reverse]
        );
    };
    entering(plan, first, maps, reverse)
}

/// What enters every chunk of a walk, `[batch, chunks, 2 * heads]`, from what enters the first, `[batch, 2 * heads]`.
fn entering(
    plan: Plan,
    first: CubeTensor,
    fill_maps: impl FnOnce(&CubeTensor),
    reverse: bool,
) -> CubeTensor {
    if plan.chunks == 1 {
        return first;
    }
    let maps = empty(&first, [plan.batch, plan.chunks, 8 * plan.heads]);
    fill_maps(&maps);
    scan([plan.batch, plan.chunks, plan.heads], maps, first, reverse)
}

/// What enters every member of `[batch, members, heads]`, given their maps.
fn scan(members: [usize; 3], maps: CubeTensor, first: CubeTensor, reverse: bool) -> CubeTensor {
    let plan = Plan::cut(members, GROUP);
    let groups = if plan.chunks == 1 {
        first
    } else {
        let groups = empty(&maps, [plan.batch, plan.chunks, 8 * plan.heads]);
        launch!(compose, plan, [maps, groups], [], [reverse]);
        scan(
            [plan.batch, plan.chunks, plan.heads],
            groups,
            first,
            reverse,
        )
    };
    let values = empty(&maps, [plan.batch, plan.seq, 2 * plan.heads]);
    launch!(descend, plan, [maps, groups, values], [], [reverse]);
    values
}

/// Gradients of energy `[2, heads]` and hopping `[heads]` from their sums `[rows, 3 * heads]`, added up in a fixed order.
fn parameters(sums: CubeTensor) -> [CubeTensor; 2] {
    let mut sums = sums;
    let [mut rows, width] = sums.meta.shape().dims();
    let heads = width / 3;
    while rows > GROUP {
        sums = add_rows(&sums, 0, width);
        rows = rows.div_ceil(GROUP);
    }
    let sums = add_rows(&sums, 0, width);
    [
        columns(&sums, 0, 2 * heads),
        columns(&sums, 2 * heads, heads),
    ]
}

/// Columns `first .. first + count` of one row, where they lie.
fn columns(row: &CubeTensor, first: usize, count: usize) -> CubeTensor {
    let bytes = |numbers: usize| (numbers * size_of::<f32>()) as u64;
    let after = row.meta.num_elements() - first - count;
    let handle = row.handle.clone().offset_start(bytes(first));
    CubeTensor::new_contiguous(
        row.client.clone(),
        row.device.clone(),
        [1, count].into(),
        handle.offset_end(bytes(after)),
        DType::F32,
    )
}

/// Columns `first .. first + count` of `[rows, width]`, added up in groups of rows: `[rows / GROUP, count]`, rounded up.
fn add_rows(sums: &CubeTensor, first: usize, count: usize) -> CubeTensor {
    let [rows, width] = sums.meta.shape().dims();
    let plan = Plan::cut([1, rows, count], GROUP);
    let out = empty(sums, [plan.chunks, count]);
    launch!(sum_rows, plan, [sums, out], [first, width], []);
    out
}
