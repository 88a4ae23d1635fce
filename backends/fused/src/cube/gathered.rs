//! The optimizer's work on many tensors in one launch: a model has hundreds of gains, biases and energies, and a launch of its own costs
//! each of them more than its numbers do. A matrix of half a million numbers by itself does not fill a device either.

use std::cmp::Reverse;

use burn_cubecl::{
    cubecl::{self, prelude::*},
    tensor::CubeTensor,
};

use super::{
    CUBE_UNITS, address_type,
    math::is_finite,
    sums::sum_of_run,
    team::{Team, stage, team_lane, team_sum},
    update::{FactorsOnDevice, next_moment_1, next_moment_2, next_parameter, operation},
    vector, with_float,
};
use crate::optimizer::Factors;

/// Numbers up to which a tensor is gathered: a launch of its own for one of four million spends a tenth of its time on filling and
/// emptying a large device.
const MOST: usize = 1 << 22;
/// Most tensors of a launch, each of which is compiled into the kernel.
const MOST_TENSORS: usize = 16;
/// How many times as long as its shortest tensor the longest of a launch may be, for each is given cubes for the longest. Tensors below
/// `SHORT` are alike.
const SPREAD: usize = 4;
const SHORT: usize = 1 << 16;

/// Whether a tensor of so many numbers is gathered with others.
pub(super) fn is_gathered(len: usize) -> bool {
    (1..=MOST).contains(&len)
}

/// What a launch each works on, the longest first, if each brings `buffers` and all share one.
fn launches<T>(
    mut all: Vec<T>,
    client: &Client,
    buffers: usize,
    len: impl Fn(&T) -> usize,
) -> Vec<Vec<T>> {
    let bindings = client.properties().hardware.max_bindings as usize;
    let most = ((bindings - 1) / buffers).clamp(1, MOST_TENSORS);
    all.sort_by_key(|x| Reverse(len(x)));
    let mut launches: Vec<Vec<T>> = Vec::new();
    for tensor in all {
        let shortest = len(&tensor).max(SHORT);
        match launches.last_mut() {
            Some(launch) if launch.len() < most && len(&launch[0]) <= SPREAD * shortest => {
                launch.push(tensor);
            }
            _ => launches.push(vec![tensor]),
        }
    }
    launches
}

/// Numbers that a unit reads at once of each of them.
fn common_vector<'a>(tensors: impl Iterator<Item = &'a CubeTensor>) -> usize {
    let wide = |tensor: &CubeTensor| vector(tensor, length(tensor));
    tensors.map(wide).min().unwrap_or(1)
}

fn length(tensor: &CubeTensor) -> usize {
    tensor.meta.shape().num_elements()
}

/// A cube's place is `(piece of the tensor, number of the tensor)`.
fn cubes(pieces: usize, tensors: usize) -> CubeCount {
    CubeCount::Static(pieces as u32, tensors as u32, 1)
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
        length(&self.grad)
    }
}

/// The steps of all of them, whose gradients count `scale [1]` times.
pub(crate) fn step_waiting(mut waiting: Vec<Waiting>, scale: &CubeTensor) {
    while let Some(first) = waiting.first().cloned() {
        let alike = |x: &Waiting| x.factors == first.factors && x.grad.dtype == first.grad.dtype;
        let (alike, rest): (Vec<_>, _) = waiting.into_iter().partition(alike);
        waiting = rest;
        for group in launches(alike, &scale.client, 4, Waiting::len) {
            let numbers = group.iter().map(Waiting::len).sum();
            let of = || operation(numbers, first.grad.dtype);
            kiln_profile::operation(of, || step_each(&group, scale));
        }
    }
}

fn step_each(group: &[Waiting], scale: &CubeTensor) {
    let buffers = |x: &'_ Waiting| [x.values[0].clone(), x.grad.clone()];
    let wide = common_vector(group.iter().flat_map(buffers).collect::<Vec<_>>().iter());
    let longest = group.iter().map(Waiting::len).max().unwrap_or_default() / wide;
    let values = |number: usize| group.iter().map(move |x| x.values[number].clone());
    let grads = group.iter().map(|x| x.grad.clone());
    let lengths = group.iter().map(|x| x.len() / wide);
    // SAFETY: parameter, moments and gradient of each are packed and of one length, which units stay below.
    unsafe {
        with_float!(group[0].grad, E => step_gathered::launch_unchecked::<E>(
            &scale.client,
            cubes(longest.div_ceil(CUBE_UNITS as usize), group.len()),
            CubeDim::new_1d(CUBE_UNITS),
            address_type!(scale),
            wide,
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
fn step_gathered<E: Float, N: Size>(
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

/// Tensors of one type whose squares one launch adds up.
pub(super) struct Squares {
    tensors: Vec<CubeTensor>,
    /// Numbers of a vector.
    wide: usize,
}

impl Squares {
    /// Launches for all of the tensors.
    pub fn of(mut tensors: Vec<CubeTensor>, client: &Client) -> Vec<Self> {
        tensors.sort_by_key(|x| x.dtype.size());
        let types = tensors.chunk_by(|x, y| x.dtype == y.dtype);
        let launches = types.flat_map(|alike| launches(alike.to_vec(), client, 1, length));
        launches
            .map(|tensors| Self {
                wide: common_vector(tensors.iter()),
                tensors,
            })
            .collect()
    }

    fn runs_of(&self, tensor: &CubeTensor, team: Team) -> usize {
        (length(tensor) / self.wide).div_ceil(team.vectors)
    }

    /// Sums that it leaves.
    pub fn runs(&self, team: Team) -> usize {
        let tensors = self.tensors.iter();
        tensors.map(|tensor| self.runs_of(tensor, team)).sum()
    }

    /// Adds up the squares in runs of a team's vectors, from `offset` on in `sums`.
    pub fn add(self, sums: &CubeTensor, mut offset: usize, team: Team) {
        let client = &sums.client;
        let (tensors, wide) = (&self.tensors, self.wide);
        let runs = tensors.iter().map(|tensor| self.runs_of(tensor, team));
        let most = runs.clone().max().unwrap_or_default();
        let offsets = runs.map(|runs| {
            offset += runs;
            offset - runs
        });
        let lengths = tensors.iter().map(|tensor| length(tensor) / wide);
        // SAFETY: teams stay inside their tensor and write the sum of their own run.
        unsafe {
            with_float!(tensors[0], E => add_runs_of_each::launch_unchecked::<E>(
                client,
                cubes(most.div_ceil(team.count), tensors.len()),
                CubeDim::new_1d(team.units() as u32),
                address_type!(sums),
                wide,
                tensors.iter().cloned().map(CubeTensor::into_buffer_arg).collect(),
                lengths.collect(),
                offsets.collect(),
                sums.clone().into_buffer_arg(),
                team,
            ));
        }
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn add_runs_of_each<E: Float, N: Size>(
    tensors: &Sequence<Box<[Vector<E, N>]>>,
    lengths: &Sequence<usize>,
    offsets: &Sequence<usize>,
    sums: &mut [f32],
    #[comptime] team: Team,
) {
    let run =
        CUBE_POS_X as usize * comptime!(team.count) + UNIT_POS as usize / comptime!(team.lanes);
    let mut part = 0.0f32;
    let mut total = 0usize;
    let mut offset = 0usize;
    #[unroll]
    for number in 0..tensors.len() {
        if CUBE_POS_Y as usize == number {
            total = lengths[number];
            offset = offsets[number];
            part = sum_of_run::<E, N>(&tensors[number], run, total, team, true);
        }
    }
    let mut shared = stage(team);
    let sum = team_sum(part, &mut shared, team);
    if run * comptime!(team.vectors) < total && team_lane(team) == 0 {
        sums[offset + run] = sum;
    }
}
