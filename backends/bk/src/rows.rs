//! Rows of resolvents as weights: how strongly each position is felt at each later one.
//!
//! With the row `G_ij = gamma_i .. gamma_{j+1} L_j`, `gamma_l = -sqrt(beta) L_l`, of the leading i x i block and
//! `c_j = sum_{l<=j} ln |gamma_l|`,
//! ```text
//! ln |G_ij| = c_i - c_j + ln |L_j|,    w_ij = |G_ij|^p / sum_{k<=i} |G_ik|^p = softmax_{j<=i} p (ln |L_j| - c_j)
//! ```
//! At p = 2 these are the weights of resolvent attention by the Ward identity, `eta |G_ij|^2 / Im L_i`. The square is made, so this is
//! for comparing mixers with each other and not for running them.

use burn::tensor::{Bool, Tensor, activation::softmax};

use crate::error::BkError;

const OP: &str = "row_weights";
/// Keeps the logarithm finite where nothing hops: a neighbour's weight is then 1e-15 of the own one, which is none.
const LEAST_HOPPING: f64 = 1e-30;

/// What of `G_ij` a row is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowMeasure {
    /// `|G_ij|`
    Modulus,
    /// `|G_ij|^2`: what resolvent attention reads with in its Born form, and the squared moduli of its complex form.
    Born,
}

/// The last rows of the leading blocks' resolvents, each divided by its sum; differentiable.
///
/// Logarithms are summed along the sequence, so that weights are good to some `1e-7 |c|`: to 1e-5 for hundred positions.
///
/// # Shapes
/// - features `L`: `[batch, seq, 2 * heads]`, as [`bk_left`](crate::bk_left) returns them
/// - hopping `beta`: `[heads]`, the one they were made with
/// - returns `[batch, heads, seq, seq]`: position i, positions j; zero for j > i
///
/// # Errors
/// [`BkError::Shape`]
pub fn row_weights(
    features: Tensor<3>,
    hopping: Tensor<1>,
    measure: RowMeasure,
) -> Result<Tensor<4>, BkError> {
    let ([batch, seq, width], [heads]) = (features.dims(), hopping.dims());
    if width != 2 * heads {
        return Err(BkError::Shape {
            op: OP,
            name: "features",
            axes: "[batch, seq, 2 * heads]",
            expected: vec![batch, seq, 2 * heads],
            found: vec![batch, seq, width],
        });
    }
    let [re, im] = [0, heads].map(|first| features.clone().narrow(2, first, heads));
    let modulus = (re.square() + im.square()).log() * 0.5; // ln |L|, [batch, seq, heads]
    let hop = (hopping + LEAST_HOPPING).log() * 0.5;
    let travelled = (modulus.clone() + hop.unsqueeze()).cumsum(1); // c
    let power = match measure {
        RowMeasure::Modulus => 1.0,
        RowMeasure::Born => 2.0,
    };
    let scores = ((modulus - travelled) * power).swap_dims(1, 2);
    let scores = scores
        .unsqueeze_dim::<4>(2)
        .expand([batch, heads, seq, seq]);
    let future = Tensor::<2, Bool>::tril_mask([seq, seq], 0, &scores.device());
    let future = future.unsqueeze::<4>();
    Ok(softmax(scores.mask_fill(future, f32::NEG_INFINITY), 3))
}
