//! Matrices beside each other, and apart again.

use burn_cubecl::{
    cubecl::{self, calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
};

use super::{CUBE_UNITS, Primitive, address_type, empty, packed, with_float};

/// See [`crate::side_by_side`].
pub(super) fn side_by_side(matrices: [Primitive; 4], columns: usize) -> Primitive {
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

pub(super) fn side_by_side_adjoint(grad: Primitive, widths: [usize; 4]) -> [Primitive; 4] {
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
