//! What heads read, their own values, norm and gate in one pass: see [`crate::readout`]. Units that have a head between them are neighbours
//! within a plane, and add up its squares.

use burn::{
    backend::Cube,
    tensor::{DType, Device},
};
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};
use kiln_native::{inverse_sqrt, sigmoid};

use super::{
    CUBE_UNITS, Primitive, address_type, empty, empty_like, packed,
    sums::sum_rows,
    team::{plane, sum_of_part},
    with_float,
};
use crate::readout::{ReadoutAdjoint, ReadoutBackend};

/// Numbers that a unit has of a row.
const WIDE: usize = 4;
/// Rows that a unit walks forward, and backward, where every run leaves a row of partial sums; and those that it loads together.
const RUN: usize = 4;
const BACK_RUN: usize = 32;
const TOGETHER: usize = 2;

impl ReadoutBackend for Cube {
    fn fused_gated_readout(
        read: Primitive,
        own: Primitive,
        skip: Primitive,
        gamma: Primitive,
        gate: Primitive,
        first: usize,
        epsilon: f32,
    ) -> Primitive {
        forward([read, own, gate], skip, gamma, first, epsilon)
    }
}

impl ReadoutAdjoint for Cube {
    fn gated_readout_adjoint(
        rows: [Primitive; 3],
        skip: Primitive,
        gamma: Primitive,
        first: usize,
        epsilon: f32,
        grad: Primitive,
    ) -> [Primitive; 5] {
        adjoint(rows, skip, gamma, first, epsilon, grad)
    }
}

/// What is fixed when a kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Heads {
    /// Vectors of a row.
    vectors: usize,
    /// Vectors of a head, and the units that have it between them.
    lanes: usize,
    /// Vectors of a row that has the gate, and its first one.
    columns: usize,
    first: usize,
}

impl Heads {
    fn new([channels, width]: [usize; 2], gate: &CubeTensor, first: usize) -> Self {
        Self {
            vectors: channels / WIDE,
            lanes: width / WIDE,
            columns: gate.meta.shape()[1] / WIDE,
            first: first / WIDE,
        }
    }
}

/// Whether the device adds up over heads of this width.
pub(crate) fn takes_readout(device: &Device, width: usize) -> bool {
    use burn::backend::DispatchDevice;
    let DispatchDevice::Cube(device) = device.clone().inner().as_dispatch().clone() else {
        return false;
    };
    let lanes = width / WIDE;
    width.is_multiple_of(WIDE) && lanes.is_power_of_two() && lanes <= plane(&device.client())
}

fn forward(
    [read, own, gate]: [Primitive; 3],
    skip: Primitive,
    gamma: Primitive,
    first: usize,
    epsilon: f32,
) -> Primitive {
    let gate = into_contiguous(gate);
    let [read, own] = [read, own].map(|x| packed(x, gate.dtype));
    let [skip, gamma] = [skip, gamma].map(|x| packed(x, DType::F32));
    let [rows, channels] = read.meta.shape().dims();
    let out = empty_like(&read);
    let heads = Heads::new([channels, gamma.meta.num_elements()], &gate, first);
    let total = rows.div_ceil(RUN) * heads.vectors;
    let dim = CubeDim::new_1d(CUBE_UNITS);
    // SAFETY: rows that are not there are neither read nor written, and surplus units write nothing.
    unsafe {
        with_float!(gate, E => readout_value::launch_unchecked::<E>(
            &gate.client,
            calculate_cube_count_elemwise(&gate.client, total, dim),
            dim,
            address_type!(gate, out),
            WIDE,
            read.into_buffer_arg(),
            own.into_buffer_arg(),
            gate.clone().into_buffer_arg(),
            skip.into_buffer_arg(),
            gamma.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            rows,
            epsilon,
            heads,
        ));
    }
    out
}

/// Gradients of read, own, skip, gamma and the rows of the gate.
fn adjoint(
    [read, own, gate]: [Primitive; 3],
    skip: Primitive,
    gamma: Primitive,
    first: usize,
    epsilon: f32,
    grad: Primitive,
) -> [Primitive; 5] {
    let gate = into_contiguous(gate);
    let types = [&read, &own, &skip, &gamma].map(|x| x.dtype);
    let [read, own, grad] = [read, own, grad].map(|x| packed(x, gate.dtype));
    let [skip, gamma] = [skip, gamma].map(|x| packed(x, DType::F32));
    let [rows, channels] = read.meta.shape().dims();
    let width = gamma.meta.num_elements();
    let [d_read, d_own, d_gate] = [&read, &read, &gate].map(empty_like);
    let heads = Heads::new([channels, width], &gate, first);
    let runs = rows.div_ceil(BACK_RUN);
    let partial = empty(&gate, [runs, 2 * channels], DType::F32);
    let total = runs * heads.vectors;
    let dim = CubeDim::new_1d(CUBE_UNITS);
    // SAFETY: as above; every run has a row of partial sums.
    unsafe {
        with_float!(gate, E => readout_gradient::launch_unchecked::<E>(
            &gate.client,
            calculate_cube_count_elemwise(&gate.client, total, dim),
            dim,
            address_type!(gate, partial),
            WIDE,
            read.into_buffer_arg(),
            own.into_buffer_arg(),
            gate.clone().into_buffer_arg(),
            skip.into_buffer_arg(),
            gamma.into_buffer_arg(),
            grad.into_buffer_arg(),
            d_read.clone().into_buffer_arg(),
            d_own.clone().into_buffer_arg(),
            d_gate.clone().into_buffer_arg(),
            partial.clone().into_buffer_arg(),
            rows,
            epsilon,
            heads,
        ));
    }
    // Of a channel the sum for skip, then that for gamma, which all heads share.
    let sums = sum_rows(partial);
    let d_skip = part_of(&sums, 0, [1, channels]);
    let of_heads = part_of(&sums, channels, [channels / width, width]);
    let d_skip = burn_cubecl::ops::reshape(d_skip, [channels].into());
    [
        packed(d_read, types[0]),
        packed(d_own, types[1]),
        packed(d_skip, types[2]),
        packed(sum_rows(of_heads), types[3]),
        d_gate,
    ]
}

/// A matrix that lies in a tensor of single precision, from number `first` on.
pub(super) fn part_of(numbers: &CubeTensor, first: usize, shape: [usize; 2]) -> CubeTensor {
    let start = (first * size_of::<f32>()) as u64;
    let after = (numbers.meta.num_elements() - first - shape[0] * shape[1]) * size_of::<f32>();
    let handle = numbers.handle.clone().offset_start(start);
    CubeTensor::new_contiguous(
        numbers.client.clone(),
        numbers.device.clone(),
        shape.into(),
        handle.offset_end(after as u64),
        DType::F32,
    )
}

/// Vector `at` of a row, zeros where there is none.
#[cube]
fn load<E: Float, N: Size>(x: &[Vector<E, N>], at: usize, there: bool) -> Vector<f32, N> {
    let mut value = Vector::<f32, N>::new(0.0f32);
    if there {
        value = Vector::<f32, N>::cast_from(x[at]);
    }
    value
}

/// Where the gate of a vector is.
#[cube]
fn place_of_gate(row: usize, column: usize, #[comptime] heads: Heads) -> usize {
    row * heads.columns + heads.first + column
}

/// Unit `(run, vector)`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn readout_value<E: Float, N: Size>(
    read: &[Vector<E, N>],
    own: &[Vector<E, N>],
    gate: &[Vector<E, N>],
    skip: &[Vector<f32, N>],
    gamma: &[Vector<f32, N>],
    out: &mut [Vector<E, N>],
    rows: usize,
    epsilon: f32,
    #[comptime] heads: Heads,
) {
    let column = ABSOLUTE_POS % heads.vectors;
    let first = ABSOLUTE_POS / heads.vectors * RUN;
    let (skip, gamma) = (skip[column], gamma[column % heads.lanes]);
    #[unroll]
    for step in 0..RUN {
        let row = first + step;
        let at = row * heads.vectors + column;
        let there = row < rows;
        let y = load::<E, N>(read, at, there) + skip * load::<E, N>(own, at, there);
        let gate = load::<E, N>(gate, place_of_gate(row, column, heads), there);
        let mut open = gate;
        #[unroll]
        for i in 0..N::value() {
            let each = gate.extract(i);
            open.insert(i, each * sigmoid(each));
        }
        let squares = sum_of_part((y * y).vector_sum(), comptime!(heads.lanes));
        let mean = squares * comptime!(1.0 / (heads.lanes * WIDE) as f32);
        let r = inverse_sqrt(mean + epsilon);
        if there {
            let value = open * gamma * y * Vector::<f32, N>::new(r);
            out[at] = Vector::<E, N>::cast_from(value);
        }
    }
}

/// With `n = r y` and `h = g silu(gate) gamma`: `d gate = g gamma n silu'(gate)`, `d gamma = sum g silu(gate) n`,
/// `d y = r (h - n mean(h n))`, `d own = D d y`, `d D = sum d y own`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn readout_gradient<E: Float, N: Size>(
    read: &[Vector<E, N>],
    own: &[Vector<E, N>],
    gate: &[Vector<E, N>],
    skip: &[Vector<f32, N>],
    gamma: &[Vector<f32, N>],
    grad: &[Vector<E, N>],
    d_read: &mut [Vector<E, N>],
    d_own: &mut [Vector<E, N>],
    d_gate: &mut [Vector<E, N>],
    partial: &mut [Vector<f32, N>],
    rows: usize,
    epsilon: f32,
    #[comptime] heads: Heads,
) {
    let column = ABSOLUTE_POS % heads.vectors;
    let run = ABSOLUTE_POS / heads.vectors;
    let first = run * BACK_RUN;
    let (skip, gamma) = (skip[column], gamma[column % heads.lanes]);
    let mut d_skip = Vector::<f32, N>::new(0.0f32);
    let mut d_gamma = Vector::<f32, N>::new(0.0f32);
    let share = comptime!(1.0 / (heads.lanes * WIDE) as f32);
    for block in 0..comptime!(BACK_RUN / TOGETHER) {
        #[unroll]
        for step in 0..TOGETHER {
            let row = first + block * TOGETHER + step;
            let at = row * heads.vectors + column;
            let there = row < rows;
            let own = load::<E, N>(own, at, there);
            let y = load::<E, N>(read, at, there) + skip * own;
            let at_gate = place_of_gate(row, column, heads);
            let gate = load::<E, N>(gate, at_gate, there);
            let g = load::<E, N>(grad, at, there);
            let mut open = gate;
            let mut slope = gate;
            #[unroll]
            for i in 0..N::value() {
                let each = gate.extract(i);
                let s = sigmoid(each);
                open.insert(i, each * s);
                slope.insert(i, s * (1.0f32 + each * (1.0f32 - s)));
            }
            let opened = g * open;
            let h = opened * gamma;
            let squares = sum_of_part((y * y).vector_sum(), comptime!(heads.lanes)) * share;
            let along = sum_of_part((h * y).vector_sum(), comptime!(heads.lanes)) * share;
            let r = inverse_sqrt(squares + epsilon);
            let normal = y * Vector::<f32, N>::new(r);
            let d_y = (h - normal * Vector::<f32, N>::new(r * along)) * Vector::<f32, N>::new(r);
            d_gamma += opened * normal;
            d_skip += d_y * own;
            if there {
                d_gate[at_gate] = Vector::<E, N>::cast_from(g * gamma * normal * slope);
                d_read[at] = Vector::<E, N>::cast_from(d_y);
                d_own[at] = Vector::<E, N>::cast_from(d_y * skip);
            }
        }
    }
    if first < rows {
        let at = run * comptime!(2 * heads.vectors) + column;
        partial[at] = d_skip;
        partial[at + heads.vectors] = d_gamma;
    }
}
