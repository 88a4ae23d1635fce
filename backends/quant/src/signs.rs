//! Inputs as their signs and their mean size, and the gradient that passes both.
//!
//! The straight-through estimator of BNN (arXiv 1602.02830) takes the slope of a sign for that of clamp(u, -1, 1). Here u is x / m and
//! not x: inputs have not been normalised to variance 1 as theirs have, and with the clip at m the gradient is the same for every size of
//! x, as y grows with x. A row of zeros has the gradient of m alone.

use burn::{
    backend::{Backend, tensor::FloatTensor},
    tensor::Tensor,
};

/// The sign of every input, 1 of zero, and the mean size m of each row, to multiply the product of weights with the signs by: what
/// [`integer_linear`](crate::integer_linear) takes as [`Activations::Signs`](crate::Activations::Signs), for weights that are trained.
///
/// The product before m is exact where weights are signs times a scale of 16 bits: sums of up to 8192 of them have no more bits than f32,
/// in any order. So a sum that is zero is zero here as well, and the next layer sees the same sign.
///
/// Of the product times m, the gradient of x is
///
/// ```text
/// dL/dx_i = g_i [|x_i| <= m] + sign(x_i) / n sum_j g_j sign(x_j)          g the gradient at m sign(x)
/// ```
/// that of m and, straight through the signs (arXiv 1602.02830), that of clamp(x / m, -1, 1).
///
/// # Shapes
/// - x `[.., n]`; signs the same; m `[.., 1]`
pub fn signs<const D: usize>(x: Tensor<D>) -> (Tensor<D>, Tensor<D>) {
    let plain = x.clone().detach();
    let signs = plain
        .ones_like()
        .mask_fill(plain.clone().lower_elem(0.0), -1.0);
    let means = (x.clone() * signs.clone()).mean_dim(D - 1);
    if !x.is_autodiff() {
        return (signs, means);
    }
    let sizes = means.clone().detach();
    let beyond = plain.abs().greater(sizes.clone().expand(x.shape()));
    let divisors = sizes.clone().mask_fill(sizes.equal_elem(0.0), 1.0);
    // Adds nothing but its gradient.
    let through = x.mask_fill(beyond, 0.0) / divisors;
    (signs + (through.clone() - through.detach()), means)
}

/// The gradient at x from that at `m sign(x)`, both `[rows, n]` (see [`signs`]).
pub(crate) fn gradient<B: Backend>(x: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    // Of zero a half is left, whose sign is 1.
    let signs = B::float_sign(B::float_add_scalar(B::float_sign(x.clone()), 0.5.into()));
    let sizes = B::float_abs(x);
    let means = B::float_mean_dim(sizes.clone(), 1); // [rows, 1]
    let apart = B::float_sign(B::float_sub(sizes, means.clone()));
    let beyond = B::float_clamp_min(apart, 0.0.into());
    let inside = B::float_add_scalar(B::float_neg(beyond), 1.0.into());
    let inside = B::float_mul(inside, B::float_sign(means));
    let share = B::float_mean_dim(B::float_mul(grad.clone(), signs.clone()), 1); // [rows, 1]
    B::float_add(B::float_mul(grad, inside), B::float_mul(signs, share))
}
