//! Queries, keys and values of heads: convolution, SiLU and norm in one pass, see [`crate::heads`].
//!
//! A unit walks a run of positions of one vector of channels with the rows that it needs in registers; the units that have a head between
//! them, neighbours within a plane, add up its squares. A cube works on queries, on keys, on values or on the rest alone.

mod kernels;

use burn::{
    backend::{Cube, TensorMetadata},
    tensor::{DType, Device},
};
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    ops::{numeric::zeros_client, reshape},
    tensor::CubeTensor,
};

use super::{
    CUBE_UNITS, Primitive, address_type, beside, conv::Format, empty, empty_like, packed,
    readout::part_of, sums::sum_rows, team::plane, with_float, writable,
};
use crate::heads::{HeadSettings, HeadSizes, HeadsAdjoint, HeadsBackend, OUTPUTS};

/// Numbers that a unit has of a row.
const WIDE: usize = 4;
/// Positions of a run forward, and backward, where every run leaves a row of partial sums.
const RUN: usize = 16;
const BACK_RUN: usize = 32;
/// Rows on their way at a time, to hide how long each takes; as many positions are unrolled, after which a window of as many taps lies as before.
const AHEAD: usize = 4;

/// What is fixed when a kernel is compiled; vectors are of [`WIDE`] numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Layout {
    format: Format,
    sizes: HeadSizes,
    /// Whether values have a second gradient.
    own: bool,
}

impl Layout {
    fn new(sizes: HeadSizes, width: usize, own: bool) -> Self {
        let format = Format::new(width, true);
        Self { format, sizes, own }
    }

    fn keys(self) -> usize {
        self.sizes.keys() / WIDE
    }

    fn values(self) -> usize {
        self.sizes.values() / WIDE
    }

    /// Vectors of a packed row.
    fn columns(self) -> usize {
        self.sizes.columns() / WIDE
    }

    fn convolved(self) -> usize {
        self.sizes.convolved() / WIDE
    }

    /// The first vector of the rest, behind the gate.
    fn first_rest(self) -> usize {
        self.convolved() + self.sizes.gate / WIDE
    }

    /// Vectors of the rest.
    fn rest(self) -> usize {
        self.columns() - self.first_rest()
    }

    fn part(self, first: usize, vectors: usize, d_head: usize) -> Part {
        Part {
            format: self.format,
            first,
            vectors,
            columns: self.columns(),
            convolved: self.convolved(),
            d_head,
            own: self.own && d_head == 0,
        }
    }

    fn queries(self) -> Part {
        self.part(0, self.keys(), self.sizes.d_key)
    }

    fn key_part(self) -> Part {
        self.part(self.keys(), self.keys(), self.sizes.d_key)
    }

    fn value_part(self) -> Part {
        self.part(2 * self.keys(), self.values(), 0)
    }
}

/// A part of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Part {
    format: Format,
    /// Its first vector in a packed row.
    first: usize,
    vectors: usize,
    columns: usize,
    convolved: usize,
    /// Width of a head that is normalised, or 0.
    d_head: usize,
    own: bool,
}

impl Part {
    fn normed(self) -> bool {
        self.d_head > 0
    }

    /// Units that have a head between them.
    fn lanes(self) -> usize {
        (self.d_head / WIDE).max(1)
    }
}

/// The dimensions of a launch.
#[derive(CubeLaunch, CubeType)]
struct Rows {
    batch: usize,
    seq: usize,
    /// Runs of a lane.
    runs: usize,
    /// Cubes of queries, of keys, and of values.
    key_cubes: usize,
    value_cubes: usize,
}

/// Cubes of a launch: of queries or keys, of values, in all.
struct Cubes {
    keys: usize,
    values: usize,
    total: usize,
}

impl Cubes {
    fn new(layout: Layout, [batch, seq]: [usize; 2], run: usize) -> Self {
        let runs = batch * seq.div_ceil(run);
        let cubes = |units: usize| units.div_ceil(CUBE_UNITS as usize);
        let keys = cubes(runs * layout.keys());
        let values = cubes(runs * layout.values());
        let rest = cubes(batch * seq * layout.rest());
        Self {
            keys,
            values,
            total: 2 * keys + values + rest,
        }
    }
}

impl HeadsBackend for Cube {
    fn fused_side_by_side(
        a: Primitive,
        b: Primitive,
        c: Primitive,
        d: Primitive,
        columns: usize,
        dtype: DType,
    ) -> Primitive {
        beside::side_by_side([a, b, c, d], columns, dtype)
    }

    fn fused_five_side_by_side(
        a: Primitive,
        b: Primitive,
        c: Primitive,
        d: Primitive,
        e: Primitive,
        columns: usize,
        dtype: DType,
    ) -> Primitive {
        beside::side_by_side([a, b, c, d, e], columns, dtype)
    }

    fn fused_convolved_heads(
        packed: Primitive,
        q_taps: Primitive,
        k_taps: Primitive,
        v_taps: Primitive,
        settings: HeadSettings,
    ) -> (
        Primitive,
        Primitive,
        Primitive,
        Primitive,
        Primitive,
        Primitive,
    ) {
        let rows = into_contiguous(packed);
        let [batch, seq, columns] = rows.meta.shape().dims();
        let flat = reshape(rows.clone(), [batch * seq, columns].into());
        let [q, k, v, rest] = forward(rows, [q_taps, k_taps, v_taps], settings);
        (q, k, v.clone(), v, flat, rest)
    }
}

impl HeadsAdjoint for Cube {
    fn side_by_side_adjoint<const N: usize>(
        grad: Primitive,
        parts: [(usize, DType); N],
    ) -> [Primitive; N] {
        beside::side_by_side_adjoint(grad, parts)
    }

    fn convolved_heads_adjoint(
        packed: Primitive,
        taps: [Primitive; 3],
        settings: HeadSettings,
        grads: [Option<Primitive>; OUTPUTS],
    ) -> [Primitive; 4] {
        adjoint(packed, taps, settings, grads)
    }
}

/// Whether the device adds up over a head, and the kernels are written for the sizes.
pub(crate) fn takes_heads(device: &Device, sizes: HeadSizes, width: usize) -> bool {
    use burn::backend::DispatchDevice;
    let DispatchDevice::Cube(device) = device.clone().inner().as_dispatch().clone() else {
        return false;
    };
    let lanes = sizes.d_key / WIDE;
    sizes.heads > 0
        && sizes.rest > 0
        && sizes.d_key.is_multiple_of(WIDE)
        && sizes.values().is_multiple_of(WIDE)
        && sizes.gate.is_multiple_of(WIDE)
        && sizes.d_value > 0
        && lanes.is_power_of_two()
        && lanes <= plane(&device.client())
        && (2..=AHEAD).contains(&width)
}

/// q, k, v and the rest, of rows without gaps.
fn forward(rows: CubeTensor, taps: [CubeTensor; 3], settings: HeadSettings) -> [CubeTensor; 4] {
    let [batch, seq, _] = rows.meta.shape().dims();
    let [_, width] = taps[0].meta.shape().dims();
    let HeadSettings {
        sizes,
        scale,
        epsilon,
    } = settings;
    let layout = Layout::new(sizes, width, false);
    let count = batch * seq;
    let [q, k, v] = [sizes.keys(), sizes.keys(), sizes.values()]
        .map(|width| empty(&rows, [count, width], rows.dtype));
    let rest = empty(&rows, [count, sizes.rest], DType::F32);
    let [q_taps, k_taps, v_taps] = taps.map(|taps| packed(taps, DType::F32));
    let cubes = Cubes::new(layout, [batch, seq], RUN);
    let dim = CubeDim::new_1d(CUBE_UNITS);
    let units = cubes.total * CUBE_UNITS as usize;
    // SAFETY: rows that are not there are neither read nor written, and surplus units write nothing.
    unsafe {
        with_float!(rows, E => kernels::heads_value::launch_unchecked::<E>(
            &rows.client,
            calculate_cube_count_elemwise(&rows.client, units, dim),
            dim,
            address_type!(rows, rest),
            WIDE,
            layout.format.tap_vector(),
            rows.clone().into_buffer_arg(),
            q_taps.into_buffer_arg(),
            k_taps.into_buffer_arg(),
            v_taps.into_buffer_arg(),
            q.clone().into_buffer_arg(),
            k.clone().into_buffer_arg(),
            v.clone().into_buffer_arg(),
            rest.clone().into_buffer_arg(),
            RowsLaunch::new(batch, seq, seq.div_ceil(RUN), cubes.keys, cubes.values),
            scale,
            epsilon,
            layout,
        ));
    }
    [q, k, v, rest]
}

/// Gradients of the packed rows and of the taps of queries, keys and values.
fn adjoint(
    rows: CubeTensor,
    taps: [CubeTensor; 3],
    settings: HeadSettings,
    grads: [Option<CubeTensor>; OUTPUTS],
) -> [CubeTensor; 4] {
    let rows = into_contiguous(rows);
    let [batch, seq, _] = rows.meta.shape().dims();
    let [_, width] = taps[0].meta.shape().dims();
    let HeadSettings {
        sizes,
        scale,
        epsilon,
    } = settings;
    let count = batch * seq;
    let [dq, dk, dv, d_own, d_gate, d_rest] = grads;
    // The values' gradients change places freely.
    let (dv, d_own) = match dv {
        Some(dv) => (Some(dv), d_own),
        None => (d_own, None),
    };
    let given = |grad: Option<CubeTensor>, width, dtype| match grad {
        Some(grad) => packed(grad, dtype),
        None => {
            let (client, device) = (rows.client.clone(), rows.device.clone());
            // Packed: asked for by rows, CUDA would pad them.
            zeros_client(client, device, [count * width].into(), dtype)
        }
    };
    let [dq, dk] = [dq, dk].map(|grad| given(grad, sizes.keys(), rows.dtype));
    let dv = given(dv, sizes.values(), rows.dtype);
    let d_rest = given(d_rest, sizes.rest, DType::F32);
    let layout = Layout::new(sizes, width, d_own.is_some());
    let d_own = d_own.map_or_else(|| dv.clone(), |grad| packed(grad, rows.dtype));
    let types = taps.each_ref().map(|taps| taps.dtype);
    let [q_taps, k_taps, v_taps] = taps.map(|taps| packed(taps, DType::F32));
    // The gate's columns are in their place already, or nobody has read it.
    let d_rows = match d_gate {
        Some(d_gate) => reshape(writable(d_gate, rows.dtype), rows.shape()),
        None if sizes.gate == 0 => empty_like(&rows),
        None => {
            let columns = count * sizes.columns();
            let (client, device) = (rows.client.clone(), rows.device.clone());
            let zeros = zeros_client(client, device, [columns].into(), rows.dtype);
            reshape(zeros, rows.shape())
        }
    };
    let runs = seq.div_ceil(BACK_RUN);
    let numbers = sizes.convolved() * width;
    let partial = empty(&rows, [batch * runs, numbers], DType::F32);
    let cubes = Cubes::new(layout, [batch, seq], BACK_RUN);
    let dim = CubeDim::new_1d(CUBE_UNITS);
    let units = cubes.total * CUBE_UNITS as usize;
    // SAFETY: as in `forward`; every run has a row of partial sums.
    unsafe {
        with_float!(rows, E => kernels::heads_gradient::launch_unchecked::<E>(
            &rows.client,
            calculate_cube_count_elemwise(&rows.client, units, dim),
            dim,
            address_type!(rows, partial),
            WIDE,
            layout.format.tap_vector(),
            rows.clone().into_buffer_arg(),
            q_taps.into_buffer_arg(),
            k_taps.into_buffer_arg(),
            v_taps.into_buffer_arg(),
            dq.into_buffer_arg(),
            dk.into_buffer_arg(),
            dv.into_buffer_arg(),
            d_own.into_buffer_arg(),
            d_rest.into_buffer_arg(),
            d_rows.clone().into_buffer_arg(),
            partial.clone().into_buffer_arg(),
            RowsLaunch::new(batch, seq, runs, cubes.keys, cubes.values),
            scale,
            epsilon,
            layout,
        ));
    }
    let sums = sum_rows(partial);
    let mut first = 0;
    let channels = [sizes.keys(), sizes.keys(), sizes.values()];
    let mut of_taps = channels.into_iter().zip(types).map(|(channels, dtype)| {
        let part = part_of(&sums, first, [channels, width]);
        first += channels * width;
        packed(part, dtype)
    });
    let mut next = || of_taps.next().expect("three weights");
    [d_rows, next(), next(), next()]
}
