//! The kernels.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{
    super::{
        CUBE_UNITS,
        conv::{load_taps, row_before, shift, stored_before, weigh},
        math::sigmoid,
        team::sum_of_part,
    },
    AHEAD, BACK_RUN, Layout, Part, RUN, Rows,
};

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
