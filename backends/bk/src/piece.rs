//! The resolvent's diagonal of a piece of a sequence, between what lies left of it and what lies right of it.

use burn::tensor::Tensor;

use crate::{
    BkError,
    complex::Complex,
    ops::{check_argument, check_inputs, left_features, nothing_before},
    rule::GradRule,
};

/// What [`bk_diagonal_piece`] returns.
#[derive(Clone, Debug)]
pub struct BkDiagonalPiece {
    /// `G_ii` for every position of the piece, `[batch, seq, 2 * heads]`: Re in the first `heads` columns, Im in the rest.
    pub features: Tensor<3>,
    /// `L_N` of its last position, `[batch, 2 * heads]`: what the piece right of it is entered with from the left.
    pub left: Tensor<2>,
    /// `R_1` of its first position, `[batch, 2 * heads]`: what the piece left of it is entered with from the right.
    pub right: Tensor<2>,
}

/// [`crate::bk_diagonal`] of a piece of a longer sequence: `G_ii = 1 / (a_i - z - beta L_{i-1} - beta R_{i+1})` from the `L` that
/// the pieces left of it end with and the `R` that those right of it begin with. With exact gradients, of both states too.
///
/// `R` of pieces that come later is [`crate::bk_left`] of their positions in reverse order, so that a sequence that does not fit takes
/// two passes: one from its end for the `R`, one from its beginning for the rest.
///
/// # Shapes
/// - potential `[batch, seq, heads]`, hopping `[heads]`, energy `[2, heads]` as in [`crate::bk_left`]
/// - left `L_0` and right `R_{N+1}`: `[batch, 2 * heads]`, Re then Im, with `Im >= 0`; none is where the sequence ends
///
/// # Cost
/// Two passes of [`crate::bk_left`] and some twelve passes of single operations over the features: without states
/// [`crate::bk_diagonal`] is the faster one.
///
/// # Errors
/// [`BkError::Shape`], [`BkError::Empty`] or [`BkError::DType`].
pub fn bk_diagonal_piece(
    potential: Tensor<3>,
    hopping: Tensor<1>,
    energy: Tensor<2>,
    left: Option<Tensor<2>>,
    right: Option<Tensor<2>>,
) -> Result<BkDiagonalPiece, BkError> {
    const OP: &str = "bk_diagonal_piece";
    let [batch, seq, heads] = check_inputs(OP, &potential, &hopping, &energy)?;
    for (name, state) in [("left", &left), ("right", &right)] {
        if let Some(state) = state {
            let axes = "[batch, 2 * heads]";
            check_argument(OP, name, axes, &[batch, 2 * heads], state)?;
        }
    }
    let nothing = || nothing_before(batch, heads, &potential.device());
    let (left, right) = (left.unwrap_or_else(nothing), right.unwrap_or_else(nothing));
    let features = |potential: Tensor<3>, state: &Tensor<2>| {
        let (hopping, energy) = (hopping.clone(), energy.clone());
        left_features(
            potential,
            hopping,
            energy,
            Some(state.clone()),
            GradRule::Exact,
        )
    };
    let from_left = features(potential.clone(), &left)?;
    let from_right = features(potential.clone().flip([1]), &right)?.flip([1]);
    // L_{i-1} and R_{i+1} of every i.
    let before = Tensor::cat(vec![left.unsqueeze_dim(1), from_left.clone()], 1).narrow(1, 0, seq);
    let after = Tensor::cat(vec![from_right.clone(), right.unsqueeze_dim(1)], 1).narrow(1, 1, seq);
    let row = |row: usize| energy.clone().narrow(0, row, 1).unsqueeze_dim::<3>(0); // [1, 1, heads]
    let z = Complex {
        re: row(0),
        im: row(1),
    };
    let hopping = hopping.reshape([1, 1, heads]);
    let neighbours = Complex::split(before + after).scale(hopping);
    let features = z.add(neighbours).subtract_from(potential).inverse().join();
    Ok(BkDiagonalPiece {
        features,
        left: from_left.narrow(1, seq - 1, 1).squeeze_dim(1),
        right: from_right.narrow(1, 0, 1).squeeze_dim(1),
    })
}
