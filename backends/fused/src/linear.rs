//! Linear layers at the level of backend primitives, with their autodiff rule.

use burn::backend::{
    Autodiff, Backend,
    autodiff::{
        NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    backend_extension,
    tensor::FloatTensor,
};

/// A backend with products of its own for linear layers.
#[backend_extension(Flex: cfg(feature = "flex"), Autodiff)]
pub trait LinearBackend: Backend {
    /// `x w`, see [`linear`](crate::linear).
    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// The vector-Jacobian products behind [`LinearBackend`].
pub trait LinearAdjoint: Backend {
    /// `d x = g w^T`
    fn linear_adjoint_x(grad: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `d w = x^T g`
    fn linear_adjoint_weight(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;
}

#[derive(Debug)]
struct Linear;

impl<B: LinearAdjoint> Backward<B, 2> for Linear {
    /// x and weight.
    type State = (NodeId, NodeId);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(ops.state.0);
        let weight: FloatTensor<B> = checkpointer.retrieve_node_output(ops.state.1);
        let grad = grads.consume::<B>(&ops.node);
        let [x_node, weight_node] = ops.parents;
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::linear_adjoint_x(grad.clone(), weight));
        }
        if let Some(node) = weight_node {
            grads.register::<B>(node.id, B::linear_adjoint_weight(x, grad));
        }
    }
}

impl<B: LinearBackend + LinearAdjoint, C: CheckpointStrategy> LinearBackend for Autodiff<B, C> {
    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        match Linear.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = (prep.checkpoint(&x), prep.checkpoint(&weight));
                let y = B::fused_linear(x.into_primitive(), weight.into_primitive());
                prep.finish(saved, y)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::fused_linear(x.into_primitive(), weight.into_primitive()))
            }
        }
    }
}
