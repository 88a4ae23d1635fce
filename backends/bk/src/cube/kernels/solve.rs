//! The solve: forward elimination, back substitution, and the products at neighbouring positions that are its gradients.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::{Complex, WIDE_TILE};

/// The dimensions of a launch over tensors `[batch, seq, heads, columns]`.
#[derive(CubeLaunch, CubeType)]
pub struct ColumnDims {
    seq: usize,
    heads: usize,
    columns: usize,
    units: usize,
}

/// What a unit works on: one column of one (batch row, head).
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
struct Column {
    column: usize,
    columns: usize,
    /// Row of buffers `[batch, heads, ..]`.
    sequence: usize,
    head: usize,
    heads: usize,
    /// Position 0 of the batch row, counted over all of them.
    first: usize,
    seq: usize,
}

#[cube]
impl Column {
    fn of(dims: &ColumnDims) -> Column {
        let sequence = ABSOLUTE_POS / dims.columns;
        Column {
            column: ABSOLUTE_POS % dims.columns,
            columns: dims.columns,
            sequence,
            head: sequence % dims.heads,
            heads: dims.heads,
            first: sequence / dims.heads * dims.seq,
            seq: dims.seq,
        }
    }

    /// The position of step `i` of the walk; past the end, that of the last step.
    fn step(self, i: usize, #[comptime] reverse: bool) -> usize {
        let i = min(i, self.seq - 1);
        if comptime!(reverse) {
            self.first + self.seq - 1 - i
        } else {
            self.first + i
        }
    }

    /// `L` at a position, from `[batch, seq, 2 * heads]`.
    fn resolvent(self, features: &[f32], position: usize) -> Complex {
        let at = 2 * position * self.heads + self.head;
        Complex::new(features[at], features[at + self.heads])
    }

    /// The row of a position in `[batch, seq, heads, ..]`.
    fn row(self, position: usize) -> usize {
        position * self.heads + self.head
    }

    /// Where the real part of row `row` of `[rows, 2 * columns]` stands, `columns` before the imaginary part.
    fn place(self, row: usize) -> usize {
        2 * row * self.columns + self.column
    }

    fn load(self, source: &[f32], row: usize) -> Complex {
        let at = self.place(row);
        Complex::new(source[at], source[at + self.columns])
    }

    fn store(self, x: Complex, target: &mut [f32], row: usize) {
        let at = self.place(row);
        target[at] = x.re;
        target[at + self.columns] = x.im;
    }
}

/// `x <- L (g - coupling x)` along the sequence: forward elimination, or in reverse its adjoint. `given` is real, or complex
/// and then taken conjugated, as the cotangents of outputs are. `entering` `[batch, heads, 2 * columns]`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn eliminate(
    features: &[f32],
    coupling: &[f32],
    given: &[f32],
    entering: &[f32],
    solution: &mut [f32],
    dims: ColumnDims,
    #[comptime] real: bool,
    #[comptime] reverse: bool,
) {
    if ABSOLUTE_POS >= dims.units {
        terminate!();
    }
    let unit = Column::of(&dims);
    let coupling = coupling[unit.head];
    let x = unit.load(entering, unit.sequence);
    let mut re = x.re;
    let mut im = x.im;
    for tile in 0..unit.seq.div_ceil(WIDE_TILE) {
        let mut left_re = Array::<f32>::new(WIDE_TILE);
        let mut left_im = Array::<f32>::new(WIDE_TILE);
        let mut g_re = Array::<f32>::new(WIDE_TILE);
        let mut g_im = Array::<f32>::new(WIDE_TILE);
        #[unroll]
        for j in 0..WIDE_TILE {
            let position = unit.step(tile * WIDE_TILE + j, reverse);
            let left = unit.resolvent(features, position);
            left_re[j] = left.re;
            left_im[j] = left.im;
            let row = unit.row(position);
            if comptime!(real) {
                g_re[j] = given[row * unit.columns + unit.column];
                g_im[j] = 0.0f32;
            } else {
                let g = unit.load(given, row);
                g_re[j] = g.re;
                g_im[j] = -g.im;
            }
        }
        #[unroll]
        for j in 0..WIDE_TILE {
            let i = tile * WIDE_TILE + j;
            if i < unit.seq {
                let rest = Complex::new(g_re[j] - coupling * re, g_im[j] - coupling * im);
                let x = rest.mul(Complex::new(left_re[j], left_im[j]));
                unit.store(x, solution, unit.row(unit.step(i, reverse)));
                re = x.re;
                im = x.im;
            }
        }
    }
}

/// `x_i = d_i - L_i coupling x_{i+1}` from the end of the sequence, in the place of `d`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn substitute(features: &[f32], coupling: &[f32], solution: &mut [f32], dims: ColumnDims) {
    if ABSOLUTE_POS >= dims.units {
        terminate!();
    }
    let unit = Column::of(&dims);
    let coupling = coupling[unit.head];
    let mut re = 0.0f32;
    let mut im = 0.0f32;
    for tile in 0..unit.seq.div_ceil(WIDE_TILE) {
        let mut left_re = Array::<f32>::new(WIDE_TILE);
        let mut left_im = Array::<f32>::new(WIDE_TILE);
        let mut d_re = Array::<f32>::new(WIDE_TILE);
        let mut d_im = Array::<f32>::new(WIDE_TILE);
        #[unroll]
        for j in 0..WIDE_TILE {
            let position = unit.step(tile * WIDE_TILE + j, true);
            let left = unit.resolvent(features, position);
            left_re[j] = left.re;
            left_im[j] = left.im;
            let at = unit.place(unit.row(position));
            d_re[j] = solution[at];
            d_im[j] = solution[at + unit.columns];
        }
        #[unroll]
        for j in 0..WIDE_TILE {
            let i = tile * WIDE_TILE + j;
            if i < unit.seq {
                let gate = Complex::new(left_re[j] * coupling, left_im[j] * coupling);
                let known = gate.mul(Complex::new(re, im));
                let x = Complex::new(d_re[j] - known.re, d_im[j] - known.im);
                unit.store(x, solution, unit.row(unit.step(i, true)));
                re = x.re;
                im = x.im;
            }
        }
    }
}

/// The products of an adjoint solution `y` with the solution `x`, summed over columns: one unit a position and head. Rows of
/// `products` `[batch * seq, 4 * heads]` hold, as gradients of real numbers,
/// - causal: `y_i . x_i / L_i^2` (Re, Im), nothing, `- Re y_i . x_{i-1}`;
/// - else: `y_i . x_i` (Re, Im), `- Re y_i . x_{i+1}`, `- Re y_i . x_{i-1}`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn products(
    features: &[f32],
    y: &[f32],
    x: &[f32],
    entering: &[f32],
    products: &mut [f32],
    dims: ColumnDims,
    #[comptime] causal: bool,
) {
    if ABSOLUTE_POS >= dims.units {
        terminate!();
    }
    let row = ABSOLUTE_POS;
    let head = row % dims.heads;
    let position = row / dims.heads;
    let i = position % dims.seq;
    let entering_row = position / dims.seq * dims.heads + head;
    let below = select(i > 0, row, dims.heads) - dims.heads;
    let above = select(i + 1 < dims.seq, row + dims.heads, row);
    let mut own_re = 0.0f32;
    let mut own_im = 0.0f32;
    let mut before = 0.0f32;
    let mut after = 0.0f32;
    for column in 0..dims.columns {
        let unit = Column {
            column,
            columns: dims.columns,
            sequence: entering_row,
            head,
            heads: dims.heads,
            first: 0usize,
            seq: dims.seq,
        };
        let s = unit.load(y, row);
        let own = s.mul(unit.load(x, row));
        own_re += own.re;
        own_im += own.im;
        let first = unit.load(entering, entering_row);
        let lower = first.or(unit.load(x, below), i > 0);
        before += s.re * lower.re - s.im * lower.im;
        if comptime!(!causal) {
            let upper = Complex::zero().or(unit.load(x, above), i + 1 < dims.seq);
            after += s.re * upper.re - s.im * upper.im;
        }
    }
    let mut own = Complex::new(own_re, own_im);
    if comptime!(causal) {
        let at = 2 * position * dims.heads + head;
        let left = Complex::new(features[at], features[at + dims.heads]);
        let inverse = Complex::new(1.0f32, 0.0f32).over(left);
        own.set(own.mul(inverse.square()));
    }
    let at = 4 * position * dims.heads + head;
    products[at] = own.re;
    products[at + dims.heads] = -own.im;
    products[at + 2 * dims.heads] = -after;
    products[at + 3 * dims.heads] = -before;
}
