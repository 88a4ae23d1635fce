//! The autodiff rule: one node for each of the two outputs, with one hand-written backward step.
//!
//! The step is linear in the gradients of output and final state, so each node runs it with the other's gradient zero, and
//! autodiff adds the results up. A training step that makes no use of the final state never runs the second node.

use burn::backend::{
    Autodiff,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};

use crate::{
    backend::{GlaAdjoint, GlaBackend, Saved},
    strategy::Strategy,
};

#[derive(Debug)]
struct Output;

#[derive(Debug)]
struct FinalState;

impl<B: GlaAdjoint> Backward<B, 5> for Output {
    type State = Saved<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 5>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let asked = asked(ops.state.fresh);
        let inputs = B::gla_adjoint(ops.state, Some(grad), None);
        for (parent, grad) in ops.parents.into_iter().zip(inputs).take(asked) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

impl<B: GlaAdjoint> Backward<B, 5> for FinalState {
    type State = Saved<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 5>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let asked = asked(ops.state.fresh);
        let inputs = B::gla_adjoint(ops.state, None, Some(grad));
        for (parent, grad) in ops.parents.into_iter().zip(inputs).take(asked) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

/// How many of the parents take a gradient: of a fresh start the last only stands for the state.
fn asked(fresh: bool) -> usize {
    if fresh { 4 } else { 5 }
}

impl<B: GlaBackend + GlaAdjoint, C: CheckpointStrategy> GlaBackend for Autodiff<B, C> {
    fn gated_linear_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        log_decay: FloatTensor<Self>,
        state: FloatTensor<Self>,
        strategy: Strategy,
        fresh: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let nodes = || [q.node(), k.node(), v.node(), log_decay.node(), state.node()];
        let on_output = Output.prepare::<C>(nodes()).compute_bound();
        let on_state = FinalState.prepare::<C>(nodes()).compute_bound();
        let [q, k, v] = [q, k, v].map(|x| x.into_primitive());
        let [log_decay, state] = [log_decay, state].map(|x| x.into_primitive());
        // The nodes have the same parents, so that both are tracked or neither is.
        match (on_output.stateful(), on_state.stateful()) {
            (OpsKind::Tracked(on_output), OpsKind::Tracked(on_state)) => {
                let (output, states, last) = B::gla_forward(
                    q.clone(),
                    k.clone(),
                    v.clone(),
                    log_decay.clone(),
                    state.clone(),
                    strategy,
                    fresh,
                );
                let saved = Saved {
                    q,
                    k,
                    v,
                    log_decay,
                    state,
                    states,
                    strategy,
                    fresh,
                };
                (
                    on_output.finish(saved.clone(), output),
                    on_state.finish(saved, last),
                )
            }
            (OpsKind::UnTracked(on_output), OpsKind::UnTracked(on_state)) => {
                let (output, last) =
                    B::gated_linear_attention(q, k, v, log_decay, state, strategy, fresh);
                (on_output.finish(output), on_state.finish(last))
            }
            _ => unreachable!("two nodes with the same parents are tracked alike"),
        }
    }
}
