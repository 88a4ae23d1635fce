//! The autodiff rule: one node an operation, with a hand-written backward step.

use burn::backend::{
    Autodiff,
    autodiff::{
        NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

use crate::{
    backend::{BkAdjoint, BkBackend},
    rule::GradRule,
};

#[derive(Debug)]
struct Left;

impl<B: BkAdjoint> Backward<B, 4> for Left {
    /// Output, hopping, entering state, rule.
    type State = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, GradRule);

    fn backward(
        self,
        ops: Ops<Self::State, 4>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (features, hopping, state, rule) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let inputs = B::bk_left_adjoint(features, hopping, state, grad, rule);
        for (parent, grad) in ops.parents.into_iter().zip(inputs) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

#[derive(Debug)]
struct Diagonal;

impl<B: BkAdjoint> Backward<B, 3> for Diagonal {
    /// Potential (through the checkpointer, which may rather recompute it), hopping, energy, rule.
    type State = (NodeId, FloatTensor<B>, FloatTensor<B>, GradRule);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (potential, hopping, energy, rule) = ops.state;
        let potential = checkpointer.retrieve_node_output::<FloatTensor<B>>(potential);
        let grad = grads.consume::<B>(&ops.node);
        let inputs = B::bk_diagonal_adjoint(potential, hopping, energy, grad, rule);
        for (parent, grad) in ops.parents.into_iter().zip(inputs) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

#[derive(Debug)]
struct Eliminate;

impl<B: BkAdjoint> Backward<B, 4> for Eliminate {
    /// Features, lower, entering state, output.
    type State = [FloatTensor<B>; 4];

    fn backward(
        self,
        ops: Ops<Self::State, 4>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [features, lower, state, solution] = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let inputs = B::bk_eliminate_adjoint(features, lower, state, solution, grad);
        for (parent, grad) in ops.parents.into_iter().zip(inputs) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

#[derive(Debug)]
struct Solve;

impl<B: BkAdjoint> Backward<B, 5> for Solve {
    /// Potential (through the checkpointer), upper, lower, energy and output.
    type State = (NodeId, [FloatTensor<B>; 4]);

    fn backward(
        self,
        ops: Ops<Self::State, 5>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (potential, [upper, lower, energy, solution]) = ops.state;
        let potential = checkpointer.retrieve_node_output::<FloatTensor<B>>(potential);
        let grad = grads.consume::<B>(&ops.node);
        let inputs = B::bk_solve_adjoint(potential, upper, lower, energy, solution, grad);
        for (parent, grad) in ops.parents.into_iter().zip(inputs) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

impl<B: BkBackend + BkAdjoint, C: CheckpointStrategy> BkBackend for Autodiff<B, C> {
    fn bk_left(
        potential: FloatTensor<Self>,
        hopping: FloatTensor<Self>,
        energy: FloatTensor<Self>,
        state: FloatTensor<Self>,
        rule: GradRule,
    ) -> FloatTensor<Self> {
        let (potential, potential_node) = potential.into_parts();
        let (hopping, hopping_node) = hopping.into_parts();
        let (energy, energy_node) = energy.into_parts();
        let (state, state_node) = state.into_parts();
        let nodes = [potential_node, hopping_node, energy_node, state_node];
        let features = B::bk_left(potential, hopping.clone(), energy, state.clone(), rule);
        match Left.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish((features.clone(), hopping, state, rule), features)
            }
            OpsKind::UnTracked(prep) => prep.finish(features),
        }
    }

    fn bk_diagonal(
        potential: FloatTensor<Self>,
        hopping: FloatTensor<Self>,
        energy: FloatTensor<Self>,
        rule: GradRule,
    ) -> FloatTensor<Self> {
        let nodes = [potential.node(), hopping.node(), energy.node()];
        let hopping = hopping.into_primitive();
        let energy = energy.into_primitive();
        match Diagonal.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = prep.checkpoint(&potential);
                let potential = potential.into_primitive();
                let features = B::bk_diagonal(potential, hopping.clone(), energy.clone(), rule);
                prep.finish((saved, hopping, energy, rule), features)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::bk_diagonal(
                potential.into_primitive(),
                hopping,
                energy,
                rule,
            )),
        }
    }

    fn bk_eliminate(
        features: FloatTensor<Self>,
        lower: FloatTensor<Self>,
        values: FloatTensor<Self>,
        state: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (features, features_node) = features.into_parts();
        let (lower, lower_node) = lower.into_parts();
        let (values, values_node) = values.into_parts();
        let (state, state_node) = state.into_parts();
        let nodes = [features_node, lower_node, values_node, state_node];
        let solution = B::bk_eliminate(features.clone(), lower.clone(), values, state.clone());
        match Eliminate.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish([features, lower, state, solution.clone()], solution)
            }
            OpsKind::UnTracked(prep) => prep.finish(solution),
        }
    }

    fn bk_solve(
        potential: FloatTensor<Self>,
        upper: FloatTensor<Self>,
        lower: FloatTensor<Self>,
        energy: FloatTensor<Self>,
        values: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [
            potential.node(),
            upper.node(),
            lower.node(),
            energy.node(),
            values.node(),
        ];
        let [upper, lower, energy, values] =
            [upper, lower, energy, values].map(|tensor| tensor.into_primitive());
        match Solve.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = prep.checkpoint(&potential);
                let kept = [upper.clone(), lower.clone(), energy.clone()];
                let potential = potential.into_primitive();
                let solution = B::bk_solve(potential, upper, lower, energy, values);
                let [upper, lower, energy] = kept;
                prep.finish((saved, [upper, lower, energy, solution.clone()]), solution)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::bk_solve(
                potential.into_primitive(),
                upper,
                lower,
                energy,
                values,
            )),
        }
    }
}
