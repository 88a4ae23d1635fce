//! Buffers and launches.

use burn::tensor::{DType, Shape};
use burn_cubecl::{
    cubecl::{calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    ops::numeric::{empty_device_contiguous_dtype, zeros_client},
    tensor::CubeTensor,
};

use super::{
    kernels::{self, DimsLaunch},
    plan::Plan,
};
use crate::rule::GradRule;

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

/// A new buffer, not initialised.
fn empty(like: &CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    empty_device_contiguous_dtype(
        like.client.clone(),
        like.device.clone(),
        shape.into(),
        DType::F32,
    )
}

fn zeros(like: &CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    zeros_client(
        like.client.clone(),
        like.device.clone(),
        shape.into(),
        DType::F32,
    )
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
    let add = |sums: &CubeTensor, first: usize, count: usize| {
        let [rows, width] = sums.meta.shape().dims();
        let plan = Plan::cut([1, rows, count], GROUP);
        let out = empty(sums, [plan.chunks, count]);
        launch!(sum_rows, plan, [sums, out], [first, width], []);
        out
    };
    while rows > GROUP {
        sums = add(&sums, 0, width);
        rows = rows.div_ceil(GROUP);
    }
    [add(&sums, 0, 2 * heads), add(&sums, 2 * heads, heads)]
}
