//! Causal depthwise convolution. A unit walks a run of positions of one vector of channels with the rows that it needs in registers.

use burn::tensor::DType;
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};
use kiln_native::sigmoid;

use super::{
    CUBE_UNITS, address_type, empty, empty_like, packed, sums::sum_rows, vector, with_float,
};

/// Positions of a run: enough to make up for the rows around it that are read twice.
const RUN: usize = 16;
/// Bytes that a unit of the gradient has of a row: of more it would keep so much in registers that few units run at once.
const BACK_BYTES: usize = 8;
/// Taps up to which loops over them are unrolled.
const UNROLLED: usize = 16;
/// Taps up to which rows on their way fit into registers beside them.
const AHEAD_UNTIL: usize = 4;
/// Rows on their way at a time, to hide how long each takes.
const AHEAD: usize = 8;
/// Taps that are loaded at once, if channels have a multiple of them.
const TAP_VECTOR: usize = 4;

/// What is fixed when a kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Format {
    /// Taps of a channel.
    pub(super) width: usize,
    silu: bool,
}

impl Format {
    pub(super) fn new(width: usize, silu: bool) -> Self {
        Self { width, silu }
    }

    fn unrolled(self) -> bool {
        self.width <= UNROLLED
    }

    /// Whether steps are unrolled, with [`AHEAD`] rows on their way; else it is one.
    fn looks_ahead(self) -> bool {
        self.width <= AHEAD_UNTIL
    }

    fn ahead(self) -> usize {
        match self.looks_ahead() {
            true => AHEAD,
            false => 1,
        }
    }

    /// Taps of a channel that are loaded or stored at once.
    pub(super) fn tap_vector(self) -> usize {
        match self.width.is_multiple_of(TAP_VECTOR) {
            true => TAP_VECTOR,
            false => 1,
        }
    }
}

/// The dimensions of a launch: `length = past + seq` rows a lane, of `channels` vectors.
#[derive(CubeLaunch, CubeType)]
struct Lanes {
    past: usize,
    length: usize,
    channels: usize,
    /// Runs of a lane.
    runs: usize,
    /// Units.
    total: usize,
}

pub(super) fn forward(x: CubeTensor, weight: CubeTensor, past: usize, silu: bool) -> CubeTensor {
    let x = into_contiguous(x);
    let [batch, length, channels] = x.meta.shape().dims();
    let [_, width] = weight.meta.shape().dims();
    let taps = packed(weight, DType::F32);
    let seq = length - past;
    let y = empty(&x, [batch, seq, channels], x.dtype);
    let wide = vector(&x, channels);
    let runs = seq.div_ceil(RUN);
    let total = batch * runs * channels / wide;
    let format = Format::new(width, silu);
    let dim = CubeDim::new_1d(CUBE_UNITS);
    // SAFETY: rows that are not there are neither read nor written, and surplus units leave at once.
    unsafe {
        with_float!(x, E => convolve::launch_unchecked::<E>(
            &x.client,
            calculate_cube_count_elemwise(&x.client, total, dim),
            dim,
            address_type!(x, y),
            wide,
            format.tap_vector(),
            x.clone().into_buffer_arg(),
            taps.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            LanesLaunch::new(past, length, channels / wide, runs, total),
            format,
        ));
    }
    y
}

/// Gradients of x and the weight.
pub(super) fn adjoint(
    x: CubeTensor,
    weight: CubeTensor,
    past: usize,
    silu: bool,
    grad: CubeTensor,
) -> [CubeTensor; 2] {
    let x = into_contiguous(x);
    let grad = packed(grad, x.dtype);
    let [batch, length, channels] = x.meta.shape().dims();
    let [_, width] = weight.meta.shape().dims();
    let weight_type = weight.dtype;
    let taps = packed(weight, DType::F32);
    let d_x = empty_like(&x);
    let wide = vector(&x, channels).min(BACK_BYTES / x.dtype.size());
    let runs = length.div_ceil(RUN);
    let partial = empty(&x, [batch * runs, channels * width], DType::F32);
    let total = batch * runs * channels / wide;
    let format = Format::new(width, silu);
    let dim = CubeDim::new_1d(CUBE_UNITS);
    // SAFETY: as in `forward`; every run has a row of partial sums.
    unsafe {
        with_float!(x, E => convolve_back::launch_unchecked::<E>(
            &x.client,
            calculate_cube_count_elemwise(&x.client, total, dim),
            dim,
            address_type!(x, partial),
            wide,
            format.tap_vector(),
            x.clone().into_buffer_arg(),
            taps.into_buffer_arg(),
            grad.into_buffer_arg(),
            d_x.clone().into_buffer_arg(),
            partial.clone().into_buffer_arg(),
            LanesLaunch::new(past, length, channels / wide, runs, total),
            format,
        ));
    }
    let d_weight = burn_cubecl::ops::reshape(sum_rows(partial), [channels, width].into());
    [d_x, packed(d_weight, weight_type)]
}

/// Row `row - back` of a lane, zeros where there is none.
#[cube]
pub(super) fn row_before<E: Float, N: Size>(
    x: &[Vector<E, N>],
    first: usize,
    row: usize,
    back: usize,
    length: usize,
    channels: usize,
) -> Vector<f32, N> {
    let stored = stored_before::<E, N>(x, first, row, back, length, channels);
    Vector::<f32, N>::cast_from(stored)
}

/// Row `row - back` of `length`, as it is stored: what is not looked at yet can still be on its way.
#[cube]
pub(super) fn stored_before<E: Float, N: Size>(
    x: &[Vector<E, N>],
    first: usize,
    row: usize,
    back: usize,
    length: usize,
    channels: usize,
) -> Vector<E, N> {
    let mut value = Vector::<E, N>::cast_from(Vector::<f32, N>::new(0.0f32));
    if row >= back && row - back < length {
        value = x[first + (row - back) * channels];
    }
    value
}

/// A unit's taps, of `[channels, width]`.
#[cube]
pub(super) fn load_taps<N: Size, T: Size>(
    taps: &[Vector<f32, T>],
    channel: usize,
    #[comptime] format: Format,
) -> Array<Vector<f32, N>> {
    let mut held = Array::<Vector<f32, N>>::new(comptime!(format.width));
    let vectors = comptime!(format.width / format.tap_vector());
    #[unroll(format.unrolled())]
    for number in 0..vectors {
        #[unroll]
        for tap in 0..comptime!(format.tap_vector()) {
            held[number * comptime!(format.tap_vector()) + tap] = Vector::<f32, N>::new(0.0f32);
        }
        #[unroll]
        for i in 0..N::value() {
            let of_channel = taps[(channel * N::value() + i) * vectors + number];
            #[unroll]
            for tap in 0..comptime!(format.tap_vector()) {
                let at = number * comptime!(format.tap_vector()) + tap;
                let mut each = held[at];
                each.insert(i, of_channel.extract(tap));
                held[at] = each;
            }
        }
    }
    held
}

/// Moves a window of rows on by one, to make place for a new one at its start.
#[cube]
pub(super) fn shift<N: Size>(window: &mut Array<Vector<f32, N>>, #[comptime] format: Format) {
    #[unroll(format.unrolled())]
    for i in 1..comptime!(format.width) {
        let to = comptime!(format.width) - i;
        window[to] = window[to - 1];
    }
}

/// `sum_j w_j x_{t - (width - 1) + j}`, where place i of the window has `x_{t - i}`.
#[cube]
pub(super) fn weigh<N: Size>(
    window: &Array<Vector<f32, N>>,
    taps: &Array<Vector<f32, N>>,
    #[comptime] format: Format,
) -> Vector<f32, N> {
    let mut u = Vector::<f32, N>::new(0.0f32);
    #[unroll(format.unrolled())]
    for i in 0..comptime!(format.width) {
        u += window[i] * taps[comptime!(format.width - 1) - i];
    }
    u
}

/// Unit `(batch, run, vector of channels)`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn convolve<E: Float, N: Size, T: Size>(
    x: &[Vector<E, N>],
    taps: &[Vector<f32, T>],
    y: &mut [Vector<E, N>],
    lanes: Lanes,
    #[comptime] format: Format,
) {
    if ABSOLUTE_POS >= lanes.total {
        terminate!();
    }
    let channel = ABSOLUTE_POS % lanes.channels;
    let run = ABSOLUTE_POS / lanes.channels % lanes.runs;
    let batch = ABSOLUTE_POS / lanes.channels / lanes.runs;
    let seq = lanes.length - lanes.past;
    let first = batch * lanes.length * lanes.channels + channel;
    let taps = load_taps::<N, T>(taps, channel, format);
    let start = run * RUN;
    let begin = lanes.past + start;
    let (length, channels) = (lanes.length, lanes.channels);
    let ahead = comptime!(format.ahead());
    let mut coming = Array::<Vector<E, N>>::new(ahead);
    #[unroll]
    for i in 0..ahead {
        coming[i] = stored_before::<E, N>(x, first, begin + i, 0usize, length, channels);
    }
    let mut window = Array::<Vector<f32, N>>::new(comptime!(format.width));
    #[unroll(format.unrolled())]
    for i in 0..comptime!(format.width) {
        window[i] = row_before::<E, N>(x, first, begin, i + 1, length, channels);
    }
    #[unroll(format.looks_ahead())]
    for step in 0..RUN {
        let t = start + step;
        shift::<N>(&mut window, format);
        window[0] = Vector::<f32, N>::cast_from(coming[step % ahead]);
        // What is loaded for steps that there are none of is never read.
        let row = begin + step + ahead;
        coming[step % ahead] = stored_before::<E, N>(x, first, row, 0usize, length, channels);
        let mut u = weigh::<N>(&window, &taps, format);
        if comptime!(format.silu) {
            #[unroll]
            for i in 0..u.vector_size() {
                let each = u.extract(i);
                u.insert(i, each * sigmoid(each));
            }
        }
        if t < seq {
            y[(batch * seq + t) * lanes.channels + channel] = Vector::<E, N>::cast_from(u);
        }
    }
}

/// `d u = g s (1 + u (1 - s))`, `d x_s = sum_j w_j d u_{s + (width - 1) - j}` and `d w_j = sum_t d u_t x_{t - (width - 1) + j}`, from the
/// last row of a run to its first. The rows after the run are walked as well, for what they give to those in it.
#[cube(launch_unchecked, address_type = "dynamic")]
fn convolve_back<E: Float, N: Size, T: Size>(
    x: &[Vector<E, N>],
    taps: &[Vector<f32, T>],
    grad: &[Vector<E, N>],
    d_x: &mut [Vector<E, N>],
    partial: &mut [Vector<f32, T>],
    lanes: Lanes,
    #[comptime] format: Format,
) {
    if ABSOLUTE_POS >= lanes.total {
        terminate!();
    }
    let width = comptime!(format.width);
    let channel = ABSOLUTE_POS % lanes.channels;
    let run = ABSOLUTE_POS / lanes.channels % lanes.runs;
    let batch = ABSOLUTE_POS / lanes.channels / lanes.runs;
    let seq = lanes.length - lanes.past;
    let first = batch * lanes.length * lanes.channels + channel;
    let taps = load_taps::<N, T>(taps, channel, format);
    let start = run * RUN;
    let end = start + RUN;
    let zero = Vector::<f32, N>::new(0.0f32);
    // Place i: row `s - (width - 1) + i`, `d u` of row `s + i`, and the gradient of tap i.
    let mut rows = Array::<Vector<f32, N>>::new(width);
    let mut slopes = Array::<Vector<f32, N>>::new(width);
    let mut d_taps = Array::<Vector<f32, N>>::new(width);
    let last = end + comptime!(width - 1);
    let (length, channels) = (lanes.length, lanes.channels);
    #[unroll(format.unrolled())]
    for i in 0..width {
        rows[i] = row_before::<E, N>(x, first, last + i, comptime!(width - 1), length, channels);
        slopes[i] = zero;
        d_taps[i] = zero;
    }
    // The rows of the next steps are loaded while this one is worked on. The gradient has no rows for those of the past.
    let after = lanes.past + 1;
    let first_grad = batch * seq * lanes.channels + channel;
    let ahead = comptime!(format.ahead());
    let mut coming = Array::<Vector<E, N>>::new(ahead);
    let mut coming_grad = Array::<Vector<E, N>>::new(ahead);
    #[unroll]
    for i in 0..ahead {
        // Rows below the first are none.
        coming[i] = stored_before::<E, N>(x, first, last, width + i, length, channels);
        let back = after + i;
        coming_grad[i] = stored_before::<E, N>(grad, first_grad, last, back, seq, channels);
    }
    #[unroll(format.looks_ahead())]
    for step in 0..comptime!(RUN + width - 1) {
        let row = last - 1 - step;
        shift::<N>(&mut rows, format);
        shift::<N>(&mut slopes, format);
        rows[0] = Vector::<f32, N>::cast_from(coming[step % ahead]);
        let mut slope = Vector::<f32, N>::cast_from(coming_grad[step % ahead]);
        let back = step + ahead;
        coming[step % ahead] =
            stored_before::<E, N>(x, first, last, width + back, length, channels);
        coming_grad[step % ahead] =
            stored_before::<E, N>(grad, first_grad, last, after + back, seq, channels);
        if comptime!(format.silu) {
            let mut u = zero;
            #[unroll(format.unrolled())]
            for i in 0..width {
                u += rows[i] * taps[i];
            }
            #[unroll]
            for i in 0..u.vector_size() {
                let each = u.extract(i);
                let s = sigmoid(each);
                slope.insert(i, slope.extract(i) * (s * (1.0f32 + each * (1.0f32 - s))));
            }
        }
        slopes[0] = slope;
        if row < min(end, lanes.length) {
            #[unroll(format.unrolled())]
            for i in 0..width {
                d_taps[i] += slopes[0] * rows[i];
            }
            let value = weigh::<N>(&slopes, &taps, format);
            d_x[first + row * lanes.channels] = Vector::<E, N>::cast_from(value);
        }
    }
    // A row of partial sums has the taps of a channel beside each other, as the weight has them.
    let vectors = comptime!(format.width / format.tap_vector());
    let sums = ((batch * lanes.runs + run) * lanes.channels + channel) * N::value();
    #[unroll(format.unrolled())]
    for number in 0..vectors {
        #[unroll]
        for i in 0..N::value() {
            let mut of_channel = Vector::<f32, T>::new(0.0f32);
            #[unroll]
            for tap in 0..comptime!(format.tap_vector()) {
                let each = d_taps[number * comptime!(format.tap_vector()) + tap];
                of_channel.insert(tap, each.extract(i));
            }
            partial[(sums + i) * vectors + number] = of_channel;
        }
    }
}
