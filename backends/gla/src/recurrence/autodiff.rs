//! The autodiff rule: one node, which keeps decays, entering state and its own output.

use burn::backend::{
    Autodiff,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

use super::{RecurrenceAdjoint, RecurrenceBackend};

#[derive(Debug)]
struct States;

impl<B: RecurrenceAdjoint> Backward<B, 3> for States {
    /// Decay, states and entering state.
    type State = [FloatTensor<B>; 3];

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let [decay, states, entering] = ops.state;
        let gradients = B::linear_recurrence_adjoint(decay, states, entering, grad);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

impl<B: RecurrenceBackend + RecurrenceAdjoint, C: CheckpointStrategy> RecurrenceBackend
    for Autodiff<B, C>
{
    fn linear_recurrence(
        decay: FloatTensor<Self>,
        input: FloatTensor<Self>,
        entering: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [decay.node(), input.node(), entering.node()];
        let [decay, input, entering] = [decay, input, entering].map(|x| x.into_primitive());
        let prepared = States.prepare::<C>(nodes).compute_bound().stateful();
        match prepared {
            OpsKind::Tracked(prepared) => {
                let states = B::linear_recurrence(decay.clone(), input, entering.clone());
                prepared.finish([decay, states.clone(), entering], states)
            }
            OpsKind::UnTracked(prepared) => {
                prepared.finish(B::linear_recurrence(decay, input, entering))
            }
        }
    }
}
