//! Buffers and launches of the solve.

use burn_cubecl::{
    cubecl::{calculate_cube_count_elemwise, prelude::*},
    kernel::into_contiguous,
    tensor::CubeTensor,
};

use super::{
    super::kernels::{self, ColumnDimsLaunch},
    CUBE_UNITS, GROUP, add_rows, empty, zeros,
};

/// The dimensions of `[batch, seq, heads, columns]`.
#[derive(Clone, Copy)]
pub(in crate::cube) struct Shape {
    pub batch: usize,
    pub seq: usize,
    pub heads: usize,
    pub columns: usize,
}

impl Shape {
    /// One unit for every column of every sequence.
    fn columns(self) -> usize {
        self.batch * self.heads * self.columns
    }

    /// One unit for every position and head.
    fn positions(self) -> usize {
        self.batch * self.seq * self.heads
    }
}

/// Launches a kernel over so many units, with buffers, then the dimensions, then compile-time arguments.
macro_rules! launch_columns {
    ($kernel:ident, $shape:expr, $units:expr, [$($buffer:expr),*], [$($constant:expr),*]) => {{
        let (client, shape, units) = (first!($($buffer),*).client.clone(), $shape, $units);
        let cube_dim = CubeDim::new_1d(CUBE_UNITS);
        let cube_count = calculate_cube_count_elemwise(&client, units, cube_dim);
        // SAFETY: the kernels stay inside the shapes that their documentation names, which every function here gives its
        // buffers, and surplus units leave at once.
        unsafe {
            kernels::$kernel::launch_unchecked(
                &client,
                cube_count,
                cube_dim,
                address_type!($($buffer),*),
                $($buffer.clone().into_buffer_arg(),)*
                ColumnDimsLaunch::new(shape.seq, shape.heads, shape.columns, units),
                $($constant,)*
            );
        }
    }};
}

fn complex(like: &CubeTensor, shape: Shape) -> CubeTensor {
    let Shape {
        batch,
        seq,
        heads,
        columns,
    } = shape;
    empty(like, [batch, seq, heads, 2 * columns])
}

fn nothing(like: &CubeTensor, shape: Shape) -> CubeTensor {
    zeros(like, [shape.batch, shape.heads, 2 * shape.columns])
}

/// `d` `[batch, seq, heads, 2 * columns]` from features, lower, values and state.
pub(in crate::cube) fn eliminate(shape: Shape, inputs: [CubeTensor; 4]) -> CubeTensor {
    let [features, lower, values, state] = inputs.map(into_contiguous);
    let solution = complex(&features, shape);
    launch_columns!(
        eliminate,
        shape,
        shape.columns(),
        [features, lower, values, state, solution],
        [true, false]
    );
    solution
}

/// From features, lower, state, solution and grad: the adjoint solution `s`, its [`kernels::products`], and the gradient of
/// lower, `[1, heads]`.
pub(in crate::cube) fn eliminate_adjoint(shape: Shape, inputs: [CubeTensor; 5]) -> [CubeTensor; 3] {
    let [features, lower, state, solution, grad] = inputs.map(into_contiguous);
    let s = complex(&features, shape);
    let entering = nothing(&features, shape);
    launch_columns!(
        eliminate,
        shape,
        shape.columns(),
        [features, lower, grad, entering, s],
        [false, true]
    );
    let products = products(shape, &features, &s, &solution, &state, true);
    let lower = total(&products, 3 * shape.heads, shape.heads);
    [s, products, lower]
}

/// `x` `[batch, seq, heads, 2 * columns]` from the fresh features, upper, lower and values.
pub(in crate::cube) fn solve(shape: Shape, inputs: [CubeTensor; 4]) -> CubeTensor {
    let [features, upper, lower, values] = inputs.map(into_contiguous);
    both(shape, &features, &upper, &lower, &values, true)
}

/// From the fresh features, upper, lower, solution and grad: the transposed solution `y`, its [`kernels::products`], and the
/// gradients of energy, upper and lower, `[1, 4 * heads]`.
pub(in crate::cube) fn solve_adjoint(shape: Shape, inputs: [CubeTensor; 5]) -> [CubeTensor; 3] {
    let [features, upper, lower, solution, grad] = inputs.map(into_contiguous);
    let y = both(shape, &features, &lower, &upper, &grad, false);
    let entering = nothing(&features, shape);
    let products = products(shape, &features, &y, &solution, &entering, false);
    let parameters = total(&products, 0, 4 * shape.heads);
    [y, products, parameters]
}

/// Forward elimination and back substitution.
fn both(
    shape: Shape,
    features: &CubeTensor,
    upper: &CubeTensor,
    lower: &CubeTensor,
    given: &CubeTensor,
    real: bool,
) -> CubeTensor {
    let solution = complex(features, shape);
    let entering = nothing(features, shape);
    launch_columns!(
        eliminate,
        shape,
        shape.columns(),
        [features, lower, given, entering, solution],
        [real, false]
    );
    launch_columns!(
        substitute,
        shape,
        shape.columns(),
        [features, upper, solution],
        []
    );
    solution
}

/// `[batch * seq, 4 * heads]`
fn products(
    shape: Shape,
    features: &CubeTensor,
    y: &CubeTensor,
    x: &CubeTensor,
    entering: &CubeTensor,
    causal: bool,
) -> CubeTensor {
    let products = empty(features, [shape.batch * shape.seq, 4 * shape.heads]);
    launch_columns!(
        products,
        shape,
        shape.positions(),
        [features, y, x, entering, products],
        [causal]
    );
    products
}

/// Columns `first .. first + count` of `[rows, width]`, added up over the rows in a fixed order: `[1, count]`.
fn total(rows: &CubeTensor, first: usize, count: usize) -> CubeTensor {
    let mut left = rows.meta.shape().dims::<2>()[0];
    let mut sums = add_rows(rows, first, count);
    while left > GROUP {
        left = left.div_ceil(GROUP);
        sums = add_rows(&sums, 0, count);
    }
    sums
}
