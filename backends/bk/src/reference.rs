//! The definition of the operations: one loop over positions in plain tensor operations. Everything else must equal it.
//!
//! It is differentiable as it stands, but records about fifteen nodes a position; the operations use it for values only
//! and take their gradients from [`adjoint`](crate::adjoint). Arguments are those of the public operations, unchecked.

use burn::tensor::{DType, Tensor};

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

/// `d_i = L_i (u_i - c d_{i-1})` with `d_0 = state`: forward elimination, from the finished `L`.
///
/// # Shapes
/// - features `L` `[batch, seq, 2 * heads]`, lower `c` `[heads]`, values `u` `[batch, seq, heads, columns]`,
///   state `[batch, heads, 2 * columns]`
/// - output `[batch, seq, heads, 2 * columns]`
pub fn eliminate(
    features: Tensor<3>,
    lower: Tensor<1>,
    values: Tensor<4>,
    state: Tensor<3>,
) -> Tensor<4> {
    let lower = lower.reshape([1, -1, 1]); // [1, heads, 1]
    let mut previous = Complex::split(state); // [batch, heads, columns]
    let mut solution = Vec::new();
    for i in 0..values.dims()[1] {
        let known = previous.scale(lower.clone());
        let rest = known.subtract_from(position(&values, i));
        previous = rest.mul(resolvent(&features, i));
        solution.push(previous.clone().join());
    }
    Tensor::stack(solution, 1)
}

/// `x = (H - z)^-1 u`: forward elimination, then `x_N = d_N, x_i = d_i - L_i b x_{i+1}`.
///
/// # Shapes
/// - potential `[batch, seq, heads]`, upper `b` and lower `c` `[heads]`, energy `[2, heads]`,
///   values `u` `[batch, seq, heads, columns]`
/// - output `[batch, seq, heads, 2 * columns]`
pub fn solve(
    potential: Tensor<3>,
    upper: Tensor<1>,
    lower: Tensor<1>,
    energy: Tensor<2>,
    values: Tensor<4>,
) -> Tensor<4> {
    let [batch, seq, heads, columns] = values.dims();
    let nothing = crate::ops::nothing_before(batch, heads, &values.device());
    let features = left(potential, upper.clone() * lower.clone(), energy, nothing);
    let nothing = Tensor::zeros([batch, heads, 2 * columns], (&values.device(), DType::F32));
    let forward = eliminate(features.clone(), lower, values, nothing);
    let upper = upper.reshape([1, -1, 1]); // [1, heads, 1]
    let mut next = Complex::split(position(&forward, seq - 1)); // [batch, heads, columns]
    let mut solution = vec![next.clone().join()];
    for i in (0..seq - 1).rev() {
        let known = next.scale(upper.clone()).mul(resolvent(&features, i));
        next = Complex::split(position(&forward, i)).sub(known);
        solution.push(next.clone().join());
    }
    solution.reverse();
    Tensor::stack(solution, 1)
}

/// `L_i` of `[batch, seq, 2 * heads]`, the same for all columns: `[batch, heads, 1]`.
pub(crate) fn resolvent(features: &Tensor<3>, i: usize) -> Complex<3> {
    Complex::<2>::split(position(features, i)).per_column()
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
