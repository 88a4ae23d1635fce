//! The kernels.

use burn_cubecl::cubecl;
use cubecl::prelude::*;
use kiln_native::{inverse_sqrt, sigmoid};

use super::{
    super::{
        CUBE_UNITS,
        conv::{load_taps, shift, stored_before, weigh},
        team::sum_of_part,
    },
    AHEAD, BACK_RUN, Layout, Part, RUN, Rows,
};

/// Units of a plane where it is widest; cubes have a multiple of as many.
const WIDEST_PLANE: usize = 64;

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

/// Whether the runs, of `length` positions, of the unit and its neighbours have `before` positions before them and `after` behind them.
/// The answer is one for all units of a plane, which add up together.
#[cube]
fn is_inside(
    cube: usize,
    rows: &Rows,
    #[comptime] part: Part,
    #[comptime] length: usize,
    #[comptime] before: usize,
    #[comptime] after: usize,
) -> bool {
    let at = cube * comptime!(CUBE_UNITS as usize) + UNIT_POS as usize;
    let first = at - at % comptime!(WIDEST_PLANE);
    let total = rows.batch * rows.runs * part.vectors;
    let (first, last) = (
        min(first, total - 1) / part.vectors,
        min(first + comptime!(WIDEST_PLANE - 1), total - 1) / part.vectors,
    );
    first / rows.runs == last / rows.runs
        && first % rows.runs * length >= before
        && last % rows.runs * length + comptime!(length + after) <= rows.seq
}

#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn heads_value<E: Float, N: Size, T: Size>(
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
        convolve::<E, N, T>(packed, q_taps, q, CUBE_POS, &rows, scale, epsilon, part);
    } else if CUBE_POS < 2 * keys {
        let part = comptime!(layout.key_part());
        let cube = CUBE_POS - keys;
        convolve::<E, N, T>(packed, k_taps, k, cube, &rows, 1.0f32, epsilon, part);
    } else if CUBE_POS < 2 * keys + rows.value_cubes {
        let part = comptime!(layout.value_part());
        let cube = CUBE_POS - 2 * keys;
        convolve::<E, N, T>(packed, v_taps, v, cube, &rows, 1.0f32, epsilon, part);
    } else {
        let cube = CUBE_POS - 2 * keys - rows.value_cubes;
        let at = cube * comptime!(CUBE_UNITS as usize) + UNIT_POS as usize;
        let row = at / comptime!(layout.rest());
        let line = at % comptime!(layout.rest());
        if row < rows.batch * rows.seq {
            let values = packed[row * comptime!(layout.columns()) + layout.first_rest() + line];
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

/// Row `row - back` of `length`, as it is stored; zeros where there is none, unless all are known to be there.
#[cube]
fn read<E: Float, N: Size>(
    x: &[Vector<E, N>],
    first: usize,
    row: usize,
    back: usize,
    length: usize,
    channels: usize,
    #[comptime] inside: bool,
) -> Vector<E, N> {
    if comptime!(inside) {
        x[first + (row - back) * channels]
    } else {
        stored_before::<E, N>(x, first, row, back, length, channels)
    }
}

/// A run of one part.
#[cube]
fn convolve<E: Float, N: Size, T: Size>(
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
    let before = comptime!(part.format.width);
    if is_inside(cube, rows, part, RUN, before, AHEAD) {
        walk::<E, N, T>(packed, taps, out, &place, rows, scale, epsilon, part, true);
    } else {
        walk::<E, N, T>(packed, taps, out, &place, rows, scale, epsilon, part, false);
    }
}

/// The same. In a run that is `inside` its sequence all rows that are read are there, which is then not asked.
#[cube]
fn walk<E: Float, N: Size, T: Size>(
    packed: &[Vector<E, N>],
    taps: &[Vector<f32, T>],
    out: &mut [Vector<E, N>],
    place: &Place,
    rows: &Rows,
    scale: f32,
    epsilon: f32,
    #[comptime] part: Part,
    #[comptime] inside: bool,
) {
    let (format, columns) = comptime!((part.format, part.columns));
    let first = place.batch * rows.seq * columns + part.first + place.channel;
    let start = place.run * RUN;
    let taps = load_taps::<N, T>(taps, place.channel, format);
    let mut coming = Array::<Vector<E, N>>::new(AHEAD);
    #[unroll]
    for i in 0..AHEAD {
        coming[i] = read::<E, N>(packed, first, start + i, 0usize, rows.seq, columns, inside);
    }
    let mut window = Array::<Vector<f32, N>>::new(comptime!(format.width));
    #[unroll]
    for i in 0..comptime!(format.width) {
        let stored = read::<E, N>(packed, first, start, i + 1, rows.seq, columns, inside);
        window[i] = Vector::<f32, N>::cast_from(stored);
    }
    for block in 0..comptime!(RUN / AHEAD) {
        #[unroll]
        for i in 0..AHEAD {
            let t = start + block * AHEAD + i;
            shift::<N>(&mut window, format);
            window[0] = Vector::<f32, N>::cast_from(coming[i]);
            coming[i] = read::<E, N>(packed, first, t + AHEAD, 0usize, rows.seq, columns, inside);
            let mut s = weigh::<N>(&window, &taps, format);
            #[unroll]
            for i in 0..N::value() {
                let each = s.extract(i);
                s.insert(i, each * sigmoid(each));
            }
            if comptime!(part.normed()) {
                let squares = sum_of_part((s * s).vector_sum(), comptime!(part.lanes()));
                let mean = squares / comptime!(part.d_head as f32);
                s *= Vector::<f32, N>::new(scale * inverse_sqrt(mean + epsilon));
            }
            if place.there && (inside || t < rows.seq) {
                let row = place.batch * rows.seq + t;
                out[row * part.vectors + place.channel] = Vector::<E, N>::cast_from(s);
            }
        }
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn heads_gradient<E: Float, N: Size, T: Size>(
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
        convolve_back::<E, N, T>(
            packed, q_taps, dq, dq, d_packed, partial, CUBE_POS, &rows, scale, epsilon, part,
        );
    } else if CUBE_POS < 2 * keys {
        let part = comptime!(layout.key_part());
        let cube = CUBE_POS - keys;
        convolve_back::<E, N, T>(
            packed, k_taps, dk, dk, d_packed, partial, cube, &rows, 1.0f32, epsilon, part,
        );
    } else if CUBE_POS < 2 * keys + rows.value_cubes {
        let part = comptime!(layout.value_part());
        let cube = CUBE_POS - 2 * keys;
        convolve_back::<E, N, T>(
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
            let place = row * comptime!(layout.columns()) + layout.first_rest() + line;
            d_packed[place] = Vector::<E, N>::cast_from(values);
        }
    }
}

/// With `s = silu(u)`, `r = scale / rms(s)` and `n = s / rms(s)`: `d s = r (g - n mean(g n))`, `d u = d s silu'(u)`, and from there as in the
/// gradient of a convolution, from the last row of a run to its first. The rows after the run are walked as well, for what they give to those in it.
#[cube]
fn convolve_back<E: Float, N: Size, T: Size>(
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
    // Rows on their way when the last one is walked are never read, but have to be somewhere.
    let before = comptime!(part.format.width + AHEAD);
    if is_inside(cube, rows, part, BACK_RUN, before, comptime!(AHEAD + 1)) {
        walk_back::<E, N, T>(
            packed, taps, grad, own, d_packed, partial, &place, rows, scale, epsilon, part, true,
        );
    } else {
        walk_back::<E, N, T>(
            packed, taps, grad, own, d_packed, partial, &place, rows, scale, epsilon, part, false,
        );
    }
}

/// The same. In a run that is `inside` its sequence all rows that are read are there, which is then not asked.
#[cube]
fn walk_back<E: Float, N: Size, T: Size>(
    packed: &[Vector<E, N>],
    taps: &[Vector<f32, T>],
    grad: &[Vector<E, N>],
    own: &[Vector<E, N>],
    d_packed: &mut [Vector<E, N>],
    partial: &mut [Vector<f32, T>],
    place: &Place,
    rows: &Rows,
    scale: f32,
    epsilon: f32,
    #[comptime] part: Part,
    #[comptime] inside: bool,
) {
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
        let stored = read::<E, N>(packed, first, last + i, back, seq, columns, inside);
        window[i] = Vector::<f32, N>::cast_from(stored);
        slopes[i] = zero;
        d_taps[i] = zero;
    }
    let mut coming = Array::<Vector<E, N>>::new(AHEAD);
    let mut coming_grad = Array::<Vector<E, N>>::new(AHEAD);
    let mut coming_own = Array::<Vector<E, N>>::new(AHEAD);
    #[unroll]
    for i in 0..AHEAD {
        coming[i] = read::<E, N>(packed, first, last, width + i, seq, columns, inside);
        coming_grad[i] = read::<E, N>(grad, first_grad, last, i + 1, seq, vectors, inside);
        if comptime!(part.own) {
            coming_own[i] = read::<E, N>(own, first_grad, last, i + 1, seq, vectors, inside);
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
            coming[i] = read::<E, N>(packed, first, last, width + back, seq, columns, inside);
            coming_grad[i] = read::<E, N>(grad, first_grad, last, back + 1, seq, vectors, inside);
            if comptime!(part.own) {
                g += Vector::<f32, N>::cast_from(coming_own[i]);
                coming_own[i] = read::<E, N>(own, first_grad, last, back + 1, seq, vectors, inside);
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
                let r = inverse_sqrt(squares + epsilon);
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
