//! The definition of the operations: one loop over positions in plain tensor operations. Everything else must equal it.
//!
//! It is differentiable as it stands, but records about fifteen nodes a position; the operations use it for values only
//! and take their gradients from [`adjoint`](crate::adjoint). Arguments are those of the public operations, unchecked.

use burn::tensor::Tensor;

use crate::complex::{Complex, position};

/// `L_i = 1 / (a_i - z - beta L_{i-1})` with `L_0 = state`.
///
/// # Shapes
/// - potential `[batch, seq, heads]`, hopping `[heads]`, energy `[2, heads]`, state `[batch, 2 * heads]`
/// - output `[batch, seq, 2 * heads]`
pub fn left(
    potential: Tensor<3>,
    hopping: Tensor<1>,
    energy: Tensor<2>,
    state: Tensor<2>,
) -> Tensor<3> {
    let beta = hopping.unsqueeze::<2>(); // [1, heads]
    let z = Complex::energy(energy); // [1, heads]
    let mut previous = Complex::split(state); // [batch, heads]
    let mut features = Vec::new();
    for i in 0..potential.dims()[1] {
        let self_energy = previous.scale(beta.clone()).add(z.clone());
        previous = self_energy.subtract_from(position(&potential, i)).inverse();
        features.push(previous.clone().join());
    }
    Tensor::stack(features, 1)
}

/// `G_ii = 1 / (a_i - z - beta (L_{i-1} + R_{i+1}))`, fresh from both ends.
///
/// # Shapes
/// - potential `[batch, seq, heads]`, hopping `[heads]`, energy `[2, heads]`
/// - output `[batch, seq, 2 * heads]`
pub fn diagonal(potential: Tensor<3>, hopping: Tensor<1>, energy: Tensor<2>) -> Tensor<3> {
    let (left, right) = sweeps(&potential, &hopping, &energy);
    let beta = hopping.unsqueeze::<2>(); // [1, heads]
    let z = Complex::energy(energy); // [1, heads]
    let features = (0..potential.dims()[1])
        .map(|i| {
            let neighbours = left[i].clone().add(right[i + 1].clone());
            let self_energy = neighbours.scale(beta.clone()).add(z.clone());
            let inverse = self_energy.subtract_from(position(&potential, i)).inverse();
            inverse.join()
        })
        .collect();
    Tensor::stack(features, 1)
}

/// `L_0, L_1, .. L_N` and `R_1, .. R_N, R_{N+1}`, with zeros for the absent ends: position `i` (from zero) has its left
/// neighbour at `left[i]` and its right neighbour at `right[i + 1]`.
pub(crate) fn sweeps(
    potential: &Tensor<3>,
    hopping: &Tensor<1>,
    energy: &Tensor<2>,
) -> (Vec<Complex>, Vec<Complex>) {
    let seq = potential.dims()[1];
    let beta = hopping.clone().unsqueeze::<2>(); // [1, heads]
    let z = Complex::energy(energy.clone()); // [1, heads]
    let end = Complex::zeros(&position(potential, 0));
    let next = |neighbour: &Complex, i: usize| {
        let self_energy = neighbour.clone().scale(beta.clone()).add(z.clone());
        self_energy.subtract_from(position(potential, i)).inverse()
    };
    let mut left = vec![end.clone()];
    let mut right = vec![end];
    for i in 0..seq {
        left.push(next(&left[i], i));
        right.push(next(&right[i], seq - 1 - i));
    }
    right.reverse();
    (left, right)
}
