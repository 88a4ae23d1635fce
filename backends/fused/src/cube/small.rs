//! The optimizer's work on small tensors, many of them in one launch: a model has hundreds of gains, biases and energies, and a launch of
//! its own costs each of them more than its numbers do.

use burn_cubecl::{
    cubecl::{self, prelude::*},
    tensor::CubeTensor,
};

use super::{
    CUBE_UNITS, address_type,
    math::is_finite,
    sums::STEPS,
    team::{Team, stage, team_lane, team_sum},
    update::{FactorsOnDevice, next_moment_1, next_moment_2, next_parameter, operation},
    with_float,
};
use crate::optimizer::Factors;

/// Numbers up to which a tensor is small: a launch of its own could not fill a device.
const MOST: usize = 1 << 16;
/// Most tensors of a launch, each of which is compiled into the kernel.
const MOST_TENSORS: usize = 16;

/// Whether a tensor of so many numbers is worth gathering.
pub(super) fn is_small(len: usize) -> bool {
    (1..=MOST).contains(&len)
}

/// Tensors of a launch if each brings `buffers` and all share one.
fn tensors_of_launch(client: &Client, buffers: usize) -> usize {
    let bindings = client.properties().hardware.max_bindings as usize;
    ((bindings - 1) / buffers).clamp(1, MOST_TENSORS)
}

/// A cube's place is `(piece of the tensor, number of the tensor)`.
fn cubes(longest: usize, numbers_of_cube: usize, tensors: usize) -> CubeCount {
    CubeCount::Static(longest.div_ceil(numbers_of_cube) as u32, tensors as u32, 1)
}

/// A parameter that waits for its step. Parameter and moments are written where they lie.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub factors: Factors,
    /// Parameter and moments, packed, in `f32`.
    pub values: [CubeTensor; 3],
    /// Packed, of one type for all.
    pub grad: CubeTensor,
}

impl Waiting {
    fn len(&self) -> usize {
        self.grad.meta.shape().num_elements()
    }
}

/// The steps of all of them, whose gradients count `scale [1]` times.
pub(crate) fn step_waiting(mut waiting: Vec<Waiting>, scale: &CubeTensor) {
    let most = tensors_of_launch(&scale.client, 4);
    while let Some(first) = waiting.first().cloned() {
        let alike = |x: &Waiting| x.factors == first.factors && x.grad.dtype == first.grad.dtype;
        let (group, rest): (Vec<_>, _) = waiting.into_iter().partition(alike);
        waiting = rest;
        for group in group.chunks(most) {
            let numbers = group.iter().map(Waiting::len).sum();
            let of = || operation(numbers, first.grad.dtype);
            kiln_profile::operation(of, || step_each(group, scale));
        }
    }
}

fn step_each(group: &[Waiting], scale: &CubeTensor) {
    let longest = group.iter().map(Waiting::len).max().unwrap_or_default();
    let values = |number: usize| group.iter().map(move |x| x.values[number].clone());
    let grads = group.iter().map(|x| x.grad.clone());
    let lengths = group.iter().map(Waiting::len);
    // SAFETY: parameter, moments and gradient of each are packed and of one length, which units stay below.
    unsafe {
        with_float!(group[0].grad, E => step_small::launch_unchecked::<E>(
            &scale.client,
            cubes(longest, CUBE_UNITS as usize, group.len()),
            CubeDim::new_1d(CUBE_UNITS),
            address_type!(scale),
            1,
            values(0).map(CubeTensor::into_buffer_arg).collect(),
            values(1).map(CubeTensor::into_buffer_arg).collect(),
            values(2).map(CubeTensor::into_buffer_arg).collect(),
            grads.map(CubeTensor::into_buffer_arg).collect(),
            lengths.collect(),
            scale.clone().into_buffer_arg(),
            group[0].factors.on_device(),
        ));
    }
}

/// Lengths are given, for a buffer may be longer than what is packed in it: a row by itself is padded on CUDA devices.
#[cube(launch_unchecked, address_type = "dynamic")]
fn step_small<E: Float, N: Size>(
    parameters: &mut Sequence<Box<[Vector<f32, N>]>>,
    moments_1: &mut Sequence<Box<[Vector<f32, N>]>>,
    moments_2: &mut Sequence<Box<[Vector<f32, N>]>>,
    grads: &Sequence<Box<[Vector<E, N>]>>,
    lengths: &Sequence<usize>,
    scale: &[f32],
    factors: FactorsOnDevice,
) {
    let at = CUBE_POS_X as usize * CUBE_DIM as usize + UNIT_POS as usize;
    #[unroll]
    for number in 0..grads.len() {
        if CUBE_POS_Y as usize == number && at < lengths[number] {
            let g = Vector::<f32, N>::cast_from(grads[number][at]);
            let p = parameters[number][at];
            let m = moments_1[number][at];
            let v = moments_2[number][at];
            if is_finite(scale[0]) {
                let g = g * Vector::<f32, N>::new(scale[0]);
                let m = next_moment_1::<N>(m, g, &factors);
                let v = next_moment_2::<N>(v, g, &factors);
                let parameter = parameters.index_mut(number);
                parameter[at] = next_parameter::<N>(p, m, v, &factors);
                let moment_1 = moments_1.index_mut(number);
                moment_1[at] = m;
                let moment_2 = moments_2.index_mut(number);
                moment_2[at] = v;
            }
        }
    }
}

/// Adds up the squares of small tensors of one type, in runs of `STEPS` numbers a unit, from `offset` on in `sums`; returns the place
/// behind the last sum.
pub(super) fn add_squares(tensors: &[CubeTensor], sums: &CubeTensor, mut offset: usize) -> usize {
    let client = &sums.client;
    let team = Team::plane(client, STEPS);
    let len = |tensor: &CubeTensor| tensor.meta.shape().num_elements();
    for group in tensors.chunks(tensors_of_launch(client, 1)) {
        let longest = group.iter().map(len).max().unwrap_or_default();
        let offsets = group.iter().map(|tensor| {
            let first = offset;
            offset += runs(len(tensor), team);
            first
        });
        let lengths = group.iter().map(len);
        // SAFETY: teams stay inside their tensor and write the sum of their own run.
        unsafe {
            with_float!(group[0], E => add_runs_of_each::launch_unchecked::<E>(
                client,
                cubes(longest, team.vectors * team.count, group.len()),
                CubeDim::new_1d(team.units() as u32),
                address_type!(sums),
                group.iter().cloned().map(CubeTensor::into_buffer_arg).collect(),
                lengths.collect(),
                offsets.collect(),
                sums.clone().into_buffer_arg(),
                team,
            ));
        }
    }
    offset
}

/// Sums that [`add_squares`] leaves of a tensor of so many numbers.
pub(super) fn runs(len: usize, team: Team) -> usize {
    len.div_ceil(team.vectors)
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn add_runs_of_each<E: Float>(
    tensors: &Sequence<Box<[E]>>,
    lengths: &Sequence<usize>,
    offsets: &Sequence<usize>,
    sums: &mut [f32],
    #[comptime] team: Team,
) {
    let run =
        CUBE_POS_X as usize * comptime!(team.count) + UNIT_POS as usize / comptime!(team.lanes);
    let first = run * comptime!(team.vectors) + team_lane(team);
    let mut part = 0.0f32;
    let mut total = 0usize;
    let mut offset = 0usize;
    #[unroll]
    for number in 0..tensors.len() {
        if CUBE_POS_Y as usize == number {
            total = lengths[number];
            offset = offsets[number];
            #[unroll]
            for step in 0..STEPS {
                let at = first + step * comptime!(team.lanes);
                if at < total {
                    let x = f32::cast_from(tensors[number][at]);
                    part += x * x;
                }
            }
        }
    }
    let mut shared = stage(team);
    let sum = team_sum(part, &mut shared, team);
    if run * comptime!(team.vectors) < total && team_lane(team) == 0 {
        sums[offset + run] = sum;
    }
}
