//! Queries, keys and values of heads: convolution, SiLU and norm in one pass, see [`crate::heads`].
//!
//! A unit walks a run of positions of one vector of channels with the rows that it needs in registers; the units that have a head between
//! them, neighbours within a plane, add up its squares. A cube works on queries, on keys, on values or on the rest alone.

use burn::{
    backend::Cube,
    tensor::{DType, Device},
};
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    ops::numeric::zeros_client,
    tensor::CubeTensor,
};

use super::{
    CUBE_UNITS, Primitive, address_type,
    conv::{Format, load_taps, row_before, shift, stored_before, weigh},
    empty, empty_like,
    math::sigmoid,
    packed,
    readout::part_of,
    sums::sum_rows,
    team::{plane, sum_of_part},
    with_float,
};
use crate::heads::{HeadSettings, HeadSizes, HeadsAdjoint, HeadsBackend};

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

    /// Vectors of the rest.
    fn rest(self) -> usize {
        self.columns() - self.convolved()
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
    ) -> Primitive {
        side_by_side([a, b, c, d], columns)
    }

    fn fused_convolved_heads(
        packed: Primitive,
        q_taps: Primitive,
        k_taps: Primitive,
        v_taps: Primitive,
        settings: HeadSettings,
    ) -> (Primitive, Primitive, Primitive, Primitive, Primitive) {
        let [q, k, v, rest] = forward(packed, [q_taps, k_taps, v_taps], settings);
        (q, k, v.clone(), v, rest)
    }
}

impl HeadsAdjoint for Cube {
    fn side_by_side_adjoint(grad: Primitive, columns: [usize; 4]) -> [Primitive; 4] {
        side_by_side_adjoint(grad, columns)
    }

    fn convolved_heads_adjoint(
        packed: Primitive,
        taps: [Primitive; 3],
        settings: HeadSettings,
        grads: [Option<Primitive>; 5],
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
        && sizes.d_value > 0
        && lanes.is_power_of_two()
        && lanes <= plane(&device.client())
        && (2..=AHEAD).contains(&width)
}

/// q, k, v and the rest.
fn forward(rows: CubeTensor, taps: [CubeTensor; 3], settings: HeadSettings) -> [CubeTensor; 4] {
    let rows = into_contiguous(rows);
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
        with_float!(rows, E => heads_value::launch_unchecked::<E>(
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
    grads: [Option<CubeTensor>; 5],
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
    let [dq, dk, dv, d_own, d_rest] = grads;
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
    let d_rows = empty_like(&rows);
    let runs = seq.div_ceil(BACK_RUN);
    let numbers = sizes.convolved() * width;
    let partial = empty(&rows, [batch * runs, numbers], DType::F32);
    let cubes = Cubes::new(layout, [batch, seq], BACK_RUN);
    let dim = CubeDim::new_1d(CUBE_UNITS);
    let units = cubes.total * CUBE_UNITS as usize;
    // SAFETY: as in `forward`; every run has a row of partial sums.
    unsafe {
        with_float!(rows, E => heads_gradient::launch_unchecked::<E>(
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

/// See [`crate::side_by_side`].
fn side_by_side(matrices: [Primitive; 4], columns: usize) -> Primitive {
    let dtype = matrices[0].dtype;
    let [a, b, c, d] = matrices.map(|matrix| packed(matrix, dtype));
    let [rows, _] = a.meta.shape().dims();
    let ends = ends(&[&a, &b, &c, &d].map(|matrix| matrix.meta.shape()[1]));
    let out = empty(&a, [rows, columns], dtype);
    let total = rows * columns;
    let dim = CubeDim::new_1d(CUBE_UNITS);
    // SAFETY: units stay inside the matrices, and surplus ones leave at once.
    unsafe {
        with_float!(a, E => put_beside::launch_unchecked::<E>(
            &out.client,
            calculate_cube_count_elemwise(&out.client, total, dim),
            dim,
            address_type!(out),
            a.clone().into_buffer_arg(),
            b.into_buffer_arg(),
            c.into_buffer_arg(),
            d.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            total,
            columns,
            ends,
        ));
    }
    out
}

fn side_by_side_adjoint(grad: Primitive, widths: [usize; 4]) -> [Primitive; 4] {
    let grad = into_contiguous(grad);
    let [rows, columns] = grad.meta.shape().dims();
    let parts = widths.map(|width| empty(&grad, [rows, width], grad.dtype));
    let [a, b, c, d] = parts.clone();
    let total = rows * columns;
    let dim = CubeDim::new_1d(CUBE_UNITS);
    // SAFETY: as above.
    unsafe {
        with_float!(grad, E => take_apart::launch_unchecked::<E>(
            &grad.client,
            calculate_cube_count_elemwise(&grad.client, total, dim),
            dim,
            address_type!(grad),
            grad.clone().into_buffer_arg(),
            a.into_buffer_arg(),
            b.into_buffer_arg(),
            c.into_buffer_arg(),
            d.into_buffer_arg(),
            total,
            columns,
            ends(&widths),
        ));
    }
    parts
}

/// Columns up to which each matrix reaches.
fn ends(widths: &[usize; 4]) -> [usize; 4] {
    let mut end = 0;
    widths.map(|width| {
        end += width;
        end
    })
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn put_beside<E: Float>(
    a: &[E],
    b: &[E],
    c: &[E],
    d: &[E],
    out: &mut [E],
    total: usize,
    #[comptime] columns: usize,
    #[comptime] ends: [usize; 4],
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let (to_a, to_b, to_c, to_d) = comptime!((ends[0], ends[1], ends[2], ends[3]));
    let row = ABSOLUTE_POS / columns;
    let at = ABSOLUTE_POS % columns;
    let mut value = E::from_int(0);
    if at < to_a {
        value = a[row * to_a + at];
    } else if at < to_b {
        value = b[row * comptime!(to_b - to_a) + at - to_a];
    } else if at < to_c {
        value = c[row * comptime!(to_c - to_b) + at - to_b];
    } else if at < to_d {
        value = d[row * comptime!(to_d - to_c) + at - to_c];
    }
    out[ABSOLUTE_POS] = value;
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn take_apart<E: Float>(
    grad: &[E],
    a: &mut [E],
    b: &mut [E],
    c: &mut [E],
    d: &mut [E],
    total: usize,
    #[comptime] columns: usize,
    #[comptime] ends: [usize; 4],
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let (to_a, to_b, to_c, to_d) = comptime!((ends[0], ends[1], ends[2], ends[3]));
    let row = ABSOLUTE_POS / columns;
    let at = ABSOLUTE_POS % columns;
    let value = grad[ABSOLUTE_POS];
    if at < to_a {
        a[row * to_a + at] = value;
    } else if at < to_b {
        b[row * comptime!(to_b - to_a) + at - to_a] = value;
    } else if at < to_c {
        c[row * comptime!(to_c - to_b) + at - to_b] = value;
    } else if at < to_d {
        d[row * comptime!(to_d - to_c) + at - to_c] = value;
    }
}

/// Where a unit works.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Place {
    /// Whether the unit has anything to write.
    there: bool,
    batch: usize,
    run: usize,
    /// Its vector of the part.
    channel: usize,
}

#[cube]
impl Place {
    /// Unit `(batch, run, vector)` of a part; surplus units repeat the last one.
    fn of(cube: usize, rows: &Rows, #[comptime] part: Part) -> Place {
        let at = cube * comptime!(CUBE_UNITS as usize) + UNIT_POS as usize;
        let total = rows.batch * rows.runs * part.vectors;
        let place = min(at, total - 1);
        Place {
            there: at < total,
            batch: place / part.vectors / rows.runs,
            run: place / part.vectors % rows.runs,
            channel: place % part.vectors,
        }
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn heads_value<E: Float, N: Size, T: Size>(
    packed: &[Vector<E, N>],
    q_taps: &[Vector<f32, T>],
    k_taps: &[Vector<f32, T>],
    v_taps: &[Vector<f32, T>],
    q: &mut [Vector<E, N>],
    k: &mut [Vector<E, N>],
    v: &mut [Vector<E, N>],
    rest: &mut [f32],
    rows: Rows,
    scale: f32,
    epsilon: f32,
    #[comptime] layout: Layout,
) {
    let keys = rows.key_cubes;
    if CUBE_POS < keys {
        let part = comptime!(layout.queries());
        walk::<E, N, T>(packed, q_taps, q, CUBE_POS, &rows, scale, epsilon, part);
    } else if CUBE_POS < 2 * keys {
        let part = comptime!(layout.key_part());
        let cube = CUBE_POS - keys;
        walk::<E, N, T>(packed, k_taps, k, cube, &rows, 1.0f32, epsilon, part);
    } else if CUBE_POS < 2 * keys + rows.value_cubes {
        let part = comptime!(layout.value_part());
        let cube = CUBE_POS - 2 * keys;
        walk::<E, N, T>(packed, v_taps, v, cube, &rows, 1.0f32, epsilon, part);
    } else {
        let cube = CUBE_POS - 2 * keys - rows.value_cubes;
        let at = cube * comptime!(CUBE_UNITS as usize) + UNIT_POS as usize;
        let row = at / comptime!(layout.rest());
        let line = at % comptime!(layout.rest());
        if row < rows.batch * rows.seq {
            let values = packed[row * comptime!(layout.columns()) + layout.convolved() + line];
            #[unroll]
            for i in 0..N::value() {
                let column = line * N::value() + i;
                if column < comptime!(layout.sizes.rest) {
                    let value = f32::cast_from(values.extract(i));
                    rest[row * comptime!(layout.sizes.rest) + column] = value;
                }
            }
        }
    }
}

/// A run of one part.
#[cube]
fn walk<E: Float, N: Size, T: Size>(
    packed: &[Vector<E, N>],
    taps: &[Vector<f32, T>],
    out: &mut [Vector<E, N>],
    cube: usize,
    rows: &Rows,
    scale: f32,
    epsilon: f32,
    #[comptime] part: Part,
) {
    let place = Place::of(cube, rows, part);
    let (format, columns) = comptime!((part.format, part.columns));
    let first = place.batch * rows.seq * columns + part.first + place.channel;
    let start = place.run * RUN;
    let taps = load_taps::<N, T>(taps, place.channel, format);
    let mut coming = Array::<Vector<E, N>>::new(AHEAD);
    #[unroll]
    for i in 0..AHEAD {
        coming[i] = stored_before::<E, N>(packed, first, start + i, 0usize, rows.seq, columns);
    }
    let mut window = Array::<Vector<f32, N>>::new(comptime!(format.width));
    #[unroll]
    for i in 0..comptime!(format.width) {
        window[i] = row_before::<E, N>(packed, first, start, i + 1, rows.seq, columns);
    }
    for block in 0..comptime!(RUN / AHEAD) {
        #[unroll]
        for i in 0..AHEAD {
            let t = start + block * AHEAD + i;
            shift::<N>(&mut window, format);
            window[0] = Vector::<f32, N>::cast_from(coming[i]);
            coming[i] = stored_before::<E, N>(packed, first, t + AHEAD, 0usize, rows.seq, columns);
            let mut s = weigh::<N>(&window, &taps, format);
            #[unroll]
            for i in 0..N::value() {
                let each = s.extract(i);
                s.insert(i, each * sigmoid(each));
            }
            if comptime!(part.normed()) {
                let squares = sum_of_part((s * s).vector_sum(), comptime!(part.lanes()));
                let mean = squares / comptime!(part.d_head as f32);
                s *= Vector::<f32, N>::new(scale / (mean + epsilon).sqrt());
            }
            if place.there && t < rows.seq {
                let row = place.batch * rows.seq + t;
                out[row * part.vectors + place.channel] = Vector::<E, N>::cast_from(s);
            }
        }
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn heads_gradient<E: Float, N: Size, T: Size>(
    packed: &[Vector<E, N>],
    q_taps: &[Vector<f32, T>],
    k_taps: &[Vector<f32, T>],
    v_taps: &[Vector<f32, T>],
    dq: &[Vector<E, N>],
    dk: &[Vector<E, N>],
    dv: &[Vector<E, N>],
    d_own: &[Vector<E, N>],
    d_rest: &[f32],
    d_packed: &mut [Vector<E, N>],
    partial: &mut [Vector<f32, T>],
    rows: Rows,
    scale: f32,
    epsilon: f32,
    #[comptime] layout: Layout,
) {
    let keys = rows.key_cubes;
    if CUBE_POS < keys {
        let part = comptime!(layout.queries());
        walk_back::<E, N, T>(
            packed, q_taps, dq, dq, d_packed, partial, CUBE_POS, &rows, scale, epsilon, part,
        );
    } else if CUBE_POS < 2 * keys {
        let part = comptime!(layout.key_part());
        let cube = CUBE_POS - keys;
        walk_back::<E, N, T>(
            packed, k_taps, dk, dk, d_packed, partial, cube, &rows, 1.0f32, epsilon, part,
        );
    } else if CUBE_POS < 2 * keys + rows.value_cubes {
        let part = comptime!(layout.value_part());
        let cube = CUBE_POS - 2 * keys;
        walk_back::<E, N, T>(
            packed, v_taps, dv, d_own, d_packed, partial, cube, &rows, 1.0f32, epsilon, part,
        );
    } else {
        let cube = CUBE_POS - 2 * keys - rows.value_cubes;
        let at = cube * comptime!(CUBE_UNITS as usize) + UNIT_POS as usize;
        let row = at / comptime!(layout.rest());
        let line = at % comptime!(layout.rest());
        if row < rows.batch * rows.seq {
            let mut values = Vector::<f32, N>::new(0.0f32);
            #[unroll]
            for i in 0..N::value() {
                let column = line * N::value() + i;
                if column < comptime!(layout.sizes.rest) {
                    values.insert(i, d_rest[row * comptime!(layout.sizes.rest) + column]);
                }
            }
            let place = row * comptime!(layout.columns()) + layout.convolved() + line;
            d_packed[place] = Vector::<E, N>::cast_from(values);
        }
    }
}

/// With `s = silu(u)`, `r = scale / rms(s)` and `n = s / rms(s)`: `d s = r (g - n mean(g n))`, `d u = d s silu'(u)`, and from there as in the
/// gradient of a convolution, from the last row of a run to its first. The rows after the run are walked as well, for what they give to those in it.
#[cube]
fn walk_back<E: Float, N: Size, T: Size>(
    packed: &[Vector<E, N>],
    taps: &[Vector<f32, T>],
    grad: &[Vector<E, N>],
    own: &[Vector<E, N>],
    d_packed: &mut [Vector<E, N>],
    partial: &mut [Vector<f32, T>],
    cube: usize,
    rows: &Rows,
    scale: f32,
    epsilon: f32,
    #[comptime] part: Part,
) {
    let place = Place::of(cube, rows, part);
    let (format, columns) = comptime!((part.format, part.columns));
    let width = comptime!(format.width);
    let (seq, vectors) = (rows.seq, part.vectors);
    let first = place.batch * seq * columns + part.first + place.channel;
    let first_grad = place.batch * seq * vectors + place.channel;
    let start = place.run * BACK_RUN;
    let end = min(start + BACK_RUN, seq);
    // As many rows after the run as are unrolled: at least those that its last row is read from.
    let last = start + comptime!(BACK_RUN + AHEAD);
    let taps = load_taps::<N, T>(taps, place.channel, format);
    let zero = Vector::<f32, N>::new(0.0f32);
    // Place i: row `s - (width - 1) + i`, `d u` of row `s + i`, and the gradient of tap i.
    let mut window = Array::<Vector<f32, N>>::new(width);
    let mut slopes = Array::<Vector<f32, N>>::new(width);
    let mut d_taps = Array::<Vector<f32, N>>::new(width);
    #[unroll]
    for i in 0..width {
        let back = comptime!(width - 1);
        window[i] = row_before::<E, N>(packed, first, last + i, back, seq, columns);
        slopes[i] = zero;
        d_taps[i] = zero;
    }
    let mut coming = Array::<Vector<E, N>>::new(AHEAD);
    let mut coming_grad = Array::<Vector<E, N>>::new(AHEAD);
    let mut coming_own = Array::<Vector<E, N>>::new(AHEAD);
    #[unroll]
    for i in 0..AHEAD {
        coming[i] = stored_before::<E, N>(packed, first, last, width + i, seq, columns);
        coming_grad[i] = stored_before::<E, N>(grad, first_grad, last, i + 1, seq, vectors);
        if comptime!(part.own) {
            coming_own[i] = stored_before::<E, N>(own, first_grad, last, i + 1, seq, vectors);
        }
    }
    for block in 0..comptime!((BACK_RUN + AHEAD) / AHEAD) {
        #[unroll]
        for i in 0..AHEAD {
            let step = block * AHEAD + i;
            let row = last - 1 - step;
            shift::<N>(&mut window, format);
            shift::<N>(&mut slopes, format);
            window[0] = Vector::<f32, N>::cast_from(coming[i]);
            let mut g = Vector::<f32, N>::cast_from(coming_grad[i]);
            let back = step + AHEAD;
            coming[i] = stored_before::<E, N>(packed, first, last, width + back, seq, columns);
            coming_grad[i] = stored_before::<E, N>(grad, first_grad, last, back + 1, seq, vectors);
            if comptime!(part.own) {
                g += Vector::<f32, N>::cast_from(coming_own[i]);
                coming_own[i] =
                    stored_before::<E, N>(own, first_grad, last, back + 1, seq, vectors);
            }
            let mut u = zero;
            #[unroll]
            for tap in 0..width {
                u += window[tap] * taps[tap];
            }
            let mut s = u;
            let mut slope = u;
            #[unroll]
            for i in 0..N::value() {
                let each = u.extract(i);
                let open = sigmoid(each);
                s.insert(i, each * open);
                slope.insert(i, open * (1.0f32 + each * (1.0f32 - open)));
            }
            if comptime!(part.normed()) {
                let lanes = comptime!(part.lanes());
                let share = comptime!(1.0 / part.d_head as f32);
                let squares = sum_of_part((s * s).vector_sum(), lanes) * share;
                let along = sum_of_part((s * g).vector_sum(), lanes) * share;
                let r = 1.0f32 / (squares + epsilon).sqrt();
                g = (g - s * Vector::<f32, N>::new(r * r * along))
                    * Vector::<f32, N>::new(r * scale);
            }
            slopes[0] = g * slope;
            if row < end {
                #[unroll]
                for tap in 0..width {
                    d_taps[tap] += slopes[0] * window[tap];
                }
                if place.there {
                    let value = weigh::<N>(&slopes, &taps, format);
                    d_packed[first + row * columns] = Vector::<E, N>::cast_from(value);
                }
            }
        }
    }
    if place.there {
        // A row of partial sums has the taps of a channel beside each other, as the weight has them.
        let numbers = comptime!(width / format.tap_vector());
        let row = place.batch * rows.runs + place.run;
        let sums = (row * part.convolved + part.first + place.channel) * N::value();
        #[unroll]
        for number in 0..numbers {
            #[unroll]
            for i in 0..N::value() {
                let mut of_channel = Vector::<f32, T>::new(0.0f32);
                #[unroll]
                for tap in 0..comptime!(format.tap_vector()) {
                    let each = d_taps[number * comptime!(format.tap_vector()) + tap];
                    of_channel.insert(tap, each.extract(i));
                }
                partial[(sums + i) * numbers + number] = of_channel;
            }
        }
    }
}
