//! `g_i . y_i`

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::WIDE;

/// The products of the rows of two tensors `[batch, seq, heads, lines * WIDE]`, `[batch, heads, seq]`.
#[cube(launch_unchecked, address_type = "dynamic")]
pub fn row_products<E: Float>(
    left: &[Vector<E, Const<WIDE>>],
    right: &[Vector<E, Const<WIDE>>],
    products: &mut [f32],
    seq: usize,
    heads: usize,
    total: usize,
    #[comptime] lines: usize,
) {
    if ABSOLUTE_POS >= total {
        terminate!();
    }
    let mut sum = Vector::<f32, Const<WIDE>>::new(0.0f32);
    #[unroll]
    for line in 0..lines {
        let at = ABSOLUTE_POS * lines + line;
        sum += Vector::<f32, Const<WIDE>>::cast_from(left[at])
            * Vector::<f32, Const<WIDE>>::cast_from(right[at]);
    }
    let mut product = 0.0f32;
    #[unroll]
    for lane in 0..WIDE {
        product += sum.extract(lane);
    }
    let (head, row) = (ABSOLUTE_POS % heads, ABSOLUTE_POS / heads);
    products[((row / seq) * heads + head) * seq + row % seq] = product;
}
