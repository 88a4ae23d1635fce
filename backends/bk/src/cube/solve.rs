//! The solve on CubeCL backends: one unit walks one column of one (batch row, head), and one adds up the products of all
//! columns at a position. The strategy is that of the `L_i`; columns are never cut into chunks.

use burn::tensor::Tensor;

use super::{
    Primitive, Strategy,
    launch::solve::{self as launch, Shape},
    left, lift, lower,
};
use crate::{adjoint, reference};

fn shape(complex: [usize; 4]) -> Shape {
    let [batch, seq, heads, width] = complex;
    Shape {
        batch,
        seq,
        heads,
        columns: width / 2,
    }
}

/// [`reference::eliminate`].
pub fn eliminate(
    strategy: Strategy,
    features: Tensor<3>,
    lower_coupling: Tensor<1>,
    values: Tensor<4>,
    state: Tensor<3>,
) -> Tensor<4> {
    if strategy == Strategy::Reference {
        return reference::eliminate(features, lower_coupling, values, state);
    }
    let [batch, seq, heads, columns] = values.dims();
    let inputs = [
        lower(features),
        lower(lower_coupling),
        lower(values),
        lower(state),
    ];
    lift(launch::eliminate(
        shape([batch, seq, heads, 2 * columns]),
        inputs,
    ))
}

/// [`adjoint::eliminate`].
pub fn eliminate_adjoint(
    strategy: Strategy,
    features: Tensor<3>,
    lower_coupling: Tensor<1>,
    state: Tensor<3>,
    solution: Tensor<4>,
    grad: Tensor<4>,
) -> (Tensor<3>, Tensor<1>, Tensor<4>, Tensor<3>) {
    if strategy == Strategy::Reference {
        return adjoint::eliminate(features, lower_coupling, state, solution, grad);
    }
    let shape = shape(solution.dims());
    let Shape {
        batch,
        seq,
        heads,
        columns,
    } = shape;
    let inputs = [
        lower(features),
        lower(lower_coupling.clone()),
        lower(state),
        lower(solution),
        lower(grad),
    ];
    let [s, products, d_lower] = launch::eliminate_adjoint(shape, inputs);
    let s: Tensor<4> = lift(s);
    let products: Tensor<3> = lift::<2>(products).reshape([batch, seq, 4 * heads]);
    // -c s_1, conjugated as gradients of complex inputs are
    let first: Tensor<3> = s.clone().narrow(1, 0, 1).squeeze_dim(1);
    let c: Tensor<3> = lower_coupling.reshape([1, -1, 1]); // [1, heads, 1]
    let d_state = Tensor::cat(
        vec![
            first.clone().narrow(2, 0, columns) * -c.clone(),
            first.narrow(2, columns, columns) * c,
        ],
        2,
    );
    (
        products.narrow(2, 0, 2 * heads),
        lift::<2>(d_lower).reshape([heads]),
        s.narrow(3, 0, columns),
        d_state,
    )
}

/// [`reference::solve`].
pub fn solve(
    strategy: Strategy,
    potential: Tensor<3>,
    upper: Tensor<1>,
    lower_coupling: Tensor<1>,
    energy: Tensor<2>,
    values: Tensor<4>,
) -> Tensor<4> {
    if strategy == Strategy::Reference {
        return reference::solve(potential, upper, lower_coupling, energy, values);
    }
    let [batch, seq, heads, columns] = values.dims();
    let features = fresh_left(strategy, potential, &upper, &lower_coupling, energy);
    let inputs = [
        lower(features),
        lower(upper),
        lower(lower_coupling),
        lower(values),
    ];
    lift(launch::solve(
        shape([batch, seq, heads, 2 * columns]),
        inputs,
    ))
}

/// [`adjoint::solve`].
pub fn solve_adjoint(
    strategy: Strategy,
    potential: Tensor<3>,
    upper: Tensor<1>,
    lower_coupling: Tensor<1>,
    energy: Tensor<2>,
    solution: Tensor<4>,
    grad: Tensor<4>,
) -> (Tensor<3>, Tensor<1>, Tensor<1>, Tensor<2>, Tensor<4>) {
    if strategy == Strategy::Reference {
        return adjoint::solve(potential, upper, lower_coupling, energy, solution, grad);
    }
    let shape = shape(solution.dims());
    let Shape {
        batch,
        seq,
        heads,
        columns,
    } = shape;
    let features = fresh_left(strategy, potential, &upper, &lower_coupling, energy);
    let inputs = [
        lower(features),
        lower(upper),
        lower(lower_coupling),
        lower(solution),
        lower(grad),
    ];
    let [y, products, parameters] = launch::solve_adjoint(shape, inputs);
    let products: Tensor<3> = lift::<2>(products).reshape([batch, seq, 4 * heads]);
    let parameters: Tensor<2> = lift::<2>(parameters).reshape([4, heads]);
    let row = |k: usize| parameters.clone().narrow(0, k, 1).squeeze_dim::<1>(0); // [heads]
    (
        -products.narrow(2, 0, heads),
        row(2),
        row(3),
        parameters.clone().narrow(0, 0, 2),
        lift::<4>(y).narrow(3, 0, columns),
    )
}

/// `L` from a fresh state at hopping `b c`.
fn fresh_left(
    strategy: Strategy,
    potential: Tensor<3>,
    upper: &Tensor<1>,
    lower: &Tensor<1>,
    energy: Tensor<2>,
) -> Tensor<3> {
    let [batch, _, heads] = potential.dims();
    let nothing = crate::ops::nothing_before(batch, heads, &potential.device());
    let hopping = upper.clone() * lower.clone();
    left(strategy, potential, hopping, energy, nothing)
}

/// The operations with [`Strategy::Auto`], on primitives.
pub(super) mod primitive {
    use super::{Primitive, Strategy, lift, lower};

    pub fn eliminate(inputs: [Primitive; 4]) -> Primitive {
        let [features, coupling, values, state] = inputs;
        lower(super::eliminate(
            Strategy::Auto,
            lift(features),
            lift(coupling),
            lift(values),
            lift(state),
        ))
    }

    pub fn eliminate_adjoint(inputs: [Primitive; 5]) -> [Primitive; 4] {
        let [features, coupling, state, solution, grad] = inputs;
        let (features, coupling, values, state) = super::eliminate_adjoint(
            Strategy::Auto,
            lift(features),
            lift(coupling),
            lift(state),
            lift(solution),
            lift(grad),
        );
        [
            lower(features),
            lower(coupling),
            lower(values),
            lower(state),
        ]
    }

    pub fn solve(inputs: [Primitive; 5]) -> Primitive {
        let [potential, upper, coupling, energy, values] = inputs;
        lower(super::solve(
            Strategy::Auto,
            lift(potential),
            lift(upper),
            lift(coupling),
            lift(energy),
            lift(values),
        ))
    }

    pub fn solve_adjoint(inputs: [Primitive; 6]) -> [Primitive; 5] {
        let [potential, upper, coupling, energy, solution, grad] = inputs;
        let (potential, upper, coupling, energy, values) = super::solve_adjoint(
            Strategy::Auto,
            lift(potential),
            lift(upper),
            lift(coupling),
            lift(energy),
            lift(solution),
            lift(grad),
        );
        [
            lower(potential),
            lower(upper),
            lower(coupling),
            lower(energy),
            lower(values),
        ]
    }
}
