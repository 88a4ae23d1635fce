//! Matrices beside each other, and apart again.

use burn::tensor::DType;
use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    ops::reshape,
};

use super::{CUBE_UNITS, Primitive, address_type, empty, packed, with_float};

/// Most matrices.
const MOST: usize = 5;
/// Numbers that a unit takes at once.
const WIDE: usize = 4;

/// Where matrices lie in a row, in vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Widths {
    /// Columns of the row.
    columns: usize,
    /// Columns up to which each matrix reaches.
    ends: [usize; MOST],
    /// From a row of each to its next.
    pitches: [usize; MOST],
}

impl Widths {
    /// In vectors of as many numbers as a unit takes at once, which is four where every matrix lets it.
    fn new(columns: usize, widths: &[usize], pitches: &[usize]) -> (Self, usize) {
        let all = widths.iter().chain(pitches).chain([&columns]);
        let wide = if all.copied().all(|numbers| numbers.is_multiple_of(WIDE)) {
            WIDE
        } else {
            1
        };
        let vectors =
            |numbers: &[usize]| numbers.iter().map(|&each| each / wide).collect::<Vec<_>>();
        (
            Self::of_vectors(columns / wide, &vectors(widths), &vectors(pitches)),
            wide,
        )
    }

    fn of_vectors(columns: usize, widths: &[usize], pitches: &[usize]) -> Self {
        let mut end = 0;
        let ends = std::array::from_fn(|i| {
            end += widths.get(i).copied().unwrap_or(0);
            end
        });
        Self {
            columns,
            ends,
            pitches: std::array::from_fn(|i| pitches.get(i).copied().unwrap_or(0)),
        }
    }

    /// The first column of a matrix.
    fn start(self, matrix: usize) -> usize {
        if matrix == 0 {
            0
        } else {
            self.ends[matrix - 1]
        }
    }
}

/// See [`crate::side_by_side`].
pub(super) fn side_by_side<const N: usize>(
    matrices: [Primitive; N],
    columns: usize,
    dtype: DType,
) -> Primitive {
    // Rows with gaps behind them, as CUDA has them of some widths, are read as they are.
    let by_rows = |matrix: Primitive| {
        let by_rows = matrix.dtype == DType::F32 && matrix.meta.strides()[1] == 1;
        // One that begins within a buffer may begin where four numbers cannot be read at once.
        if by_rows && matrix.handle.offset_start.is_none() {
            matrix
        } else {
            packed(matrix, DType::F32)
        }
    };
    let matrices = matrices.map(by_rows);
    let (widths, wide) = Widths::new(
        columns,
        &matrices.each_ref().map(|matrix| matrix.meta.shape()[1]),
        &matrices.each_ref().map(|matrix| matrix.meta.strides()[0]),
    );
    let [rows, _] = matrices[0].meta.shape().dims();
    let out = empty(&matrices[0], [rows, columns], dtype);
    let total = rows * columns / wide;
    let dim = CubeDim::new_1d(CUBE_UNITS);
    // A matrix that is not there reaches nowhere, and nothing of what stands for it is read.
    let [a, b, c, d, e] = buffers(&matrices);
    // SAFETY: units stay inside the matrices, and surplus ones leave at once.
    unsafe {
        with_float!(out, E => put_beside::launch_unchecked::<E>(
            &out.client,
            calculate_cube_count_elemwise(&out.client, total, dim),
            dim,
            address_type!(out),
            wide,
            a.into_buffer_arg(),
            b.into_buffer_arg(),
            c.into_buffer_arg(),
            d.into_buffer_arg(),
            e.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            total,
            widths,
        ));
    }
    out
}

pub(super) fn side_by_side_adjoint<const N: usize>(
    grad: Primitive,
    parts: [(usize, DType); N],
) -> [Primitive; N] {
    let grad = into_contiguous(grad);
    let [rows, columns] = grad.meta.shape().dims();
    let widths = parts.map(|(width, _)| width);
    let taken = widths.map(|width| {
        let flat = empty(&grad, [rows * width], grad.dtype);
        reshape(flat, [rows, width].into())
    });
    let [a, b, c, d, e] = buffers(&taken);
    let (layout, wide) = Widths::new(columns, &widths, &widths);
    let total = rows * columns / wide;
    let dim = CubeDim::new_1d(CUBE_UNITS);
    // SAFETY: as above.
    unsafe {
        with_float!(grad, E => take_apart::launch_unchecked::<E>(
            &grad.client,
            calculate_cube_count_elemwise(&grad.client, total, dim),
            dim,
            address_type!(grad),
            wide,
            grad.clone().into_buffer_arg(),
            a.into_buffer_arg(),
            b.into_buffer_arg(),
            c.into_buffer_arg(),
            d.into_buffer_arg(),
            e.into_buffer_arg(),
            total,
            layout,
        ));
    }
    let mut types = parts.into_iter().map(|(_, dtype)| dtype);
    taken.map(|part| packed(part, types.next().expect("a type for each part")))
}

/// As many buffers as the kernels take: the first once more for those that are not there.
fn buffers(matrices: &[Primitive]) -> [Primitive; MOST] {
    std::array::from_fn(|i| matrices.get(i).unwrap_or(&matrices[0]).clone())
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn put_beside<E: Float, N: Size>(
    a: &[Vector<f32, N>],
    b: &[Vector<f32, N>],
    c: &[Vector<f32, N>],
    d: &[Vector<f32, N>],
    e: &[Vector<f32, N>],
    out: &mut [Vector<E, N>],
    total: usize,
    #[comptime] widths: Widths,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let row = ABSOLUTE_POS / comptime!(widths.columns);
    let at = ABSOLUTE_POS % comptime!(widths.columns);
    let mut value = Vector::<f32, N>::new(0.0f32);
    if at < comptime!(widths.ends[0]) {
        value = a[row * comptime!(widths.pitches[0]) + at];
    } else if at < comptime!(widths.ends[1]) {
        value = b[row * comptime!(widths.pitches[1]) + at - comptime!(widths.start(1))];
    } else if at < comptime!(widths.ends[2]) {
        value = c[row * comptime!(widths.pitches[2]) + at - comptime!(widths.start(2))];
    } else if at < comptime!(widths.ends[3]) {
        value = d[row * comptime!(widths.pitches[3]) + at - comptime!(widths.start(3))];
    } else if at < comptime!(widths.ends[4]) {
        value = e[row * comptime!(widths.pitches[4]) + at - comptime!(widths.start(4))];
    }
    out[ABSOLUTE_POS] = Vector::<E, N>::cast_from(value);
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn take_apart<E: Float, N: Size>(
    grad: &[Vector<E, N>],
    a: &mut [Vector<E, N>],
    b: &mut [Vector<E, N>],
    c: &mut [Vector<E, N>],
    d: &mut [Vector<E, N>],
    e: &mut [Vector<E, N>],
    total: usize,
    #[comptime] widths: Widths,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let row = ABSOLUTE_POS / comptime!(widths.columns);
    let at = ABSOLUTE_POS % comptime!(widths.columns);
    let value = grad[ABSOLUTE_POS];
    if at < comptime!(widths.ends[0]) {
        a[row * comptime!(widths.pitches[0]) + at] = value;
    } else if at < comptime!(widths.ends[1]) {
        b[row * comptime!(widths.pitches[1]) + at - comptime!(widths.start(1))] = value;
    } else if at < comptime!(widths.ends[2]) {
        c[row * comptime!(widths.pitches[2]) + at - comptime!(widths.start(2))] = value;
    } else if at < comptime!(widths.ends[3]) {
        d[row * comptime!(widths.pitches[3]) + at - comptime!(widths.start(3))] = value;
    } else if at < comptime!(widths.ends[4]) {
        e[row * comptime!(widths.pitches[4]) + at - comptime!(widths.start(4))] = value;
    }
}
