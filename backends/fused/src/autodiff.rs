//! The autodiff rules: one node an operation, which keeps the inputs its backward step needs and nothing else.

use burn::backend::{
    Autodiff, Backend,
    autodiff::{
        NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::{FloatTensor, IntTensor},
};

use crate::backend::{FusedAdjoint, FusedBackend};

/// Adds the gradients of those parents that take one.
fn register<B: Backend, const N: usize>(
    parents: [Option<NodeId>; N],
    values: [FloatTensor<B>; N],
    grads: &mut Gradients,
) {
    for (parent, value) in parents.into_iter().zip(values) {
        if let Some(parent) = parent {
            grads.register::<B>(parent, value);
        }
    }
}

#[derive(Debug)]
struct Linear;

impl<B: FusedAdjoint> Backward<B, 2> for Linear {
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

#[derive(Debug)]
struct Gelu;

impl<B: FusedAdjoint> Backward<B, 1> for Gelu {
    /// x.
    type State = NodeId;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(ops.state);
        let grad = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B, 1>(parents, [B::gelu_adjoint(x, grad)], grads);
    }
}

#[derive(Debug)]
struct Swiglu;

impl<B: FusedAdjoint> Backward<B, 2> for Swiglu {
    /// Gate and up.
    type State = (NodeId, NodeId);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let gate = checkpointer.retrieve_node_output::<FloatTensor<B>>(ops.state.0);
        let up = checkpointer.retrieve_node_output::<FloatTensor<B>>(ops.state.1);
        let grad = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B, 2>(parents, B::swiglu_adjoint(gate, up, grad), grads);
    }
}

#[derive(Debug)]
struct SoftBound;

impl<B: FusedAdjoint> Backward<B, 1> for SoftBound {
    /// x and the bound.
    type State = (NodeId, f32);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (x, bound) = ops.state;
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(x);
        let grad = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B, 1>(parents, [B::soft_bound_adjoint(x, bound, grad)], grads);
    }
}

#[derive(Debug)]
struct Cayley;

impl<B: FusedAdjoint> Backward<B, 1> for Cayley {
    /// z.
    type State = NodeId;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let z = checkpointer.retrieve_node_output::<FloatTensor<B>>(ops.state);
        let grad = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B, 1>(parents, [B::cayley_adjoint(z, grad)], grads);
    }
}

#[derive(Debug)]
struct Norm;

impl<B: FusedAdjoint> Backward<B, 2> for Norm {
    /// x, gamma, epsilon, and whether the mean is subtracted.
    type State = (NodeId, FloatTensor<B>, f32, bool);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (x, gamma, epsilon, centred) = ops.state;
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(x);
        let grad = grads.consume::<B>(&ops.node);
        let inputs = B::norm_adjoint(x, gamma, epsilon, centred, grad);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B, 2>(parents, inputs, grads);
    }
}

#[derive(Debug)]
struct Rotate;

impl<B: FusedAdjoint> Backward<B, 1> for Rotate {
    /// Cosines, sines and the number of heads.
    type State = (FloatTensor<B>, FloatTensor<B>, usize);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (cos, sin, heads) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let input = B::rotate_adjoint(cos, sin, heads, grad);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B, 1>(parents, [input], grads);
    }
}

#[derive(Debug)]
struct Attention;

impl<B: FusedAdjoint> Backward<B, 1> for Attention {
    /// The packed projections and the number of heads.
    type State = (NodeId, usize);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (packed, heads) = ops.state;
        let packed = checkpointer.retrieve_node_output::<FloatTensor<B>>(packed);
        let grad = grads.consume::<B>(&ops.node);
        let input = B::attention_adjoint(packed, heads, grad);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B, 1>(parents, [input], grads);
    }
}

#[derive(Debug)]
struct CrossEntropy;

impl<B: FusedAdjoint> Backward<B, 1> for CrossEntropy {
    /// Logits and targets.
    type State = (NodeId, IntTensor<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (logits, targets) = ops.state;
        let logits = checkpointer.retrieve_node_output::<FloatTensor<B>>(logits);
        let grad = grads.consume::<B>(&ops.node);
        let input = B::cross_entropy_adjoint(logits, targets, grad);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B, 1>(parents, [input], grads);
    }
}

impl<B: FusedBackend + FusedAdjoint, C: CheckpointStrategy> FusedBackend for Autodiff<B, C> {
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

    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match Gelu.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = prep.checkpoint(&x);
                prep.finish(saved, B::fused_gelu(x.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_gelu(x.into_primitive())),
        }
    }

    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [gate.node(), up.node()];
        match Swiglu.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = (prep.checkpoint(&gate), prep.checkpoint(&up));
                let y = B::fused_swiglu(gate.into_primitive(), up.into_primitive());
                prep.finish(saved, y)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::fused_swiglu(gate.into_primitive(), up.into_primitive()))
            }
        }
    }

    fn fused_soft_bound(x: FloatTensor<Self>, bound: f32) -> FloatTensor<Self> {
        match SoftBound
            .prepare::<C>([x.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let saved = (prep.checkpoint(&x), bound);
                prep.finish(saved, B::fused_soft_bound(x.into_primitive(), bound))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_soft_bound(x.into_primitive(), bound)),
        }
    }

    fn fused_cayley(z: FloatTensor<Self>) -> FloatTensor<Self> {
        match Cayley.prepare::<C>([z.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = prep.checkpoint(&z);
                prep.finish(saved, B::fused_cayley(z.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::fused_cayley(z.into_primitive())),
        }
    }

    fn fused_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        epsilon: f32,
        centred: bool,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), gamma.node()];
        let gamma = gamma.into_primitive();
        match Norm.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = (prep.checkpoint(&x), gamma.clone(), epsilon, centred);
                let y = B::fused_norm(x.into_primitive(), gamma, epsilon, centred);
                prep.finish(saved, y)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::fused_norm(x.into_primitive(), gamma, epsilon, centred))
            }
        }
    }

    fn fused_rotate(
        packed: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        let node = packed.node();
        let (cos, sin) = (cos.into_primitive(), sin.into_primitive());
        let y = B::fused_rotate(packed.into_primitive(), cos.clone(), sin.clone(), heads);
        match Rotate.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((cos, sin, heads), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn fused_attention(packed: FloatTensor<Self>, heads: usize) -> FloatTensor<Self> {
        match Attention
            .prepare::<C>([packed.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let saved = (prep.checkpoint(&packed), heads);
                prep.finish(saved, B::fused_attention(packed.into_primitive(), heads))
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::fused_attention(packed.into_primitive(), heads))
            }
        }
    }

    fn fused_cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        match CrossEntropy
            .prepare::<C>([logits.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prep) => {
                let saved = (prep.checkpoint(&logits), targets.clone());
                prep.finish(
                    saved,
                    B::fused_cross_entropy(logits.into_primitive(), targets),
                )
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::fused_cross_entropy(logits.into_primitive(), targets))
            }
        }
    }
}
