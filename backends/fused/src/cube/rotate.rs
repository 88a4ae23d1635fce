//! Rotary positions: pairs `(x_i, x_{i + d_head/2})` of queries and keys turned by the angle of their position.

use burn::tensor::DType;
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};

use super::{CUBE_UNITS, address_type, empty_like, packed, vector, with_float};

/// Turns forward, or backward with `direction` -1.
pub(super) fn turn(
    x: CubeTensor,
    cos: CubeTensor,
    sin: CubeTensor,
    heads: usize,
    direction: f32,
) -> CubeTensor {
    let x = into_contiguous(x);
    let [cos, sin] = [cos, sin].map(|x| packed(x, DType::F32));
    let y = empty_like(&x);
    let [batch, seq, width] = x.meta.shape().dims();
    let half = width / (6 * heads);
    let wide = vector(&x, half);
    let total = batch * seq * 3 * heads * half / wide;
    if total == 0 {
        return y;
    }
    let dim = CubeDim::new_1d(CUBE_UNITS);
    // SAFETY: every unit has a pair of vectors of its own in x and y, and surplus units leave at once.
    unsafe {
        with_float!(x, E => turn_pairs::launch_unchecked::<E>(
            &x.client,
            calculate_cube_count_elemwise(&x.client, total, dim),
            dim,
            address_type!(x, y),
            wide,
            x.clone().into_buffer_arg(),
            cos.into_buffer_arg(),
            sin.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            PairsLaunch::new(seq, heads, half / wide, total),
            direction,
        ));
    }
    y
}

/// The dimensions of a launch.
#[derive(CubeLaunch, CubeType)]
struct Pairs {
    seq: usize,
    heads: usize,
    /// Vectors of half a head.
    half: usize,
    /// Units.
    total: usize,
}

/// Unit `((batch, position), head of queries, keys and values, vector of its first half)`.
#[cube(launch_unchecked, address_type = "dynamic")]
fn turn_pairs<E: Float, N: Size>(
    x: &[Vector<E, N>],
    cos: &[Vector<f32, N>],
    sin: &[Vector<f32, N>],
    y: &mut [Vector<E, N>],
    pairs: Pairs,
    direction: f32,
) {
    if ABSOLUTE_POS >= pairs.total {
        terminate!();
    }
    let column = ABSOLUTE_POS % pairs.half;
    let part = ABSOLUTE_POS / pairs.half;
    let head = part % (3 * pairs.heads);
    let position = part / (3 * pairs.heads) % pairs.seq;
    let at = part * 2 * pairs.half + column;
    let first = x[at];
    let second = x[at + pairs.half];
    if head < 2 * pairs.heads {
        let cos = cos[position * pairs.half + column];
        let sin = sin[position * pairs.half + column] * Vector::<f32, N>::new(direction);
        let first = Vector::<f32, N>::cast_from(first);
        let second = Vector::<f32, N>::cast_from(second);
        y[at] = Vector::<E, N>::cast_from(first * cos - second * sin);
        y[at + pairs.half] = Vector::<E, N>::cast_from(second * cos + first * sin);
    } else {
        y[at] = first;
        y[at + pairs.half] = second;
    }
}
