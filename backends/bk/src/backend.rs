//! The operations at the level of backend primitives. Shapes are checked before they get here.

use burn::backend::{Backend, backend_extension, tensor::FloatTensor};

use crate::rule::GradRule;

/// A backend on which the operations run. `Dispatch` implements it by asking the backend of the tensors it is given, and
/// `Autodiff` by recording one node, so this is the trait through which the public functions go.
#[backend_extension(Flex: cfg(feature = "flex"), Cube: cfg(feature = "_cube"), Autodiff)]
pub trait BkBackend: Backend {
    /// See [`bk_left`](crate::bk_left); the state `[batch, 2 * heads]` is always given.
    fn bk_left(
        potential: FloatTensor<Self>,
        hopping: FloatTensor<Self>,
        energy: FloatTensor<Self>,
        state: FloatTensor<Self>,
        rule: GradRule,
    ) -> FloatTensor<Self>;

    /// See [`bk_diagonal`](crate::bk_diagonal).
    fn bk_diagonal(
        potential: FloatTensor<Self>,
        hopping: FloatTensor<Self>,
        energy: FloatTensor<Self>,
        rule: GradRule,
    ) -> FloatTensor<Self>;

    /// See [`reference::eliminate`](crate::reference::eliminate).
    fn bk_eliminate(
        features: FloatTensor<Self>,
        lower: FloatTensor<Self>,
        values: FloatTensor<Self>,
        state: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// See [`bk_solve`](crate::bk_solve).
    fn bk_solve(
        potential: FloatTensor<Self>,
        upper: FloatTensor<Self>,
        lower: FloatTensor<Self>,
        energy: FloatTensor<Self>,
        values: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// The vector-Jacobian products behind [`BkBackend`], see [`adjoint`](crate::adjoint).
///
/// A trait of its own, implemented by the plain backends only: gradients are first order, so `Autodiff` has no use for it
/// and cannot be asked.
pub trait BkAdjoint: Backend {
    /// Gradients of potential, hopping, energy and state.
    fn bk_left_adjoint(
        features: FloatTensor<Self>,
        hopping: FloatTensor<Self>,
        state: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        rule: GradRule,
    ) -> [FloatTensor<Self>; 4];

    /// Gradients of potential, hopping and energy.
    fn bk_diagonal_adjoint(
        potential: FloatTensor<Self>,
        hopping: FloatTensor<Self>,
        energy: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        rule: GradRule,
    ) -> [FloatTensor<Self>; 3];

    /// Gradients of features, lower, values and state; solution is the operation's output.
    fn bk_eliminate_adjoint(
        features: FloatTensor<Self>,
        lower: FloatTensor<Self>,
        state: FloatTensor<Self>,
        solution: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 4];

    /// Gradients of potential, upper, lower, energy and values; solution is the operation's output.
    fn bk_solve_adjoint(
        potential: FloatTensor<Self>,
        upper: FloatTensor<Self>,
        lower: FloatTensor<Self>,
        energy: FloatTensor<Self>,
        solution: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 5];
}
