//! The autodiff rules: one node an operation, which keeps the inputs its backward step needs and nothing else.

use std::{fmt::Debug, marker::PhantomData};

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

use kiln_matmul::gradient_so_far;

use crate::backend::{FusedAdjoint, FusedBackend};

/// Adds the gradients of those parents that take one.
pub(crate) fn register<B: Backend, const N: usize>(
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

/// An operation of one input, with a setting `S` that takes no gradient.
#[derive(Debug)]
struct Unary<S>(PhantomData<fn() -> S>);

/// The gradient of the input, from the input, the setting and the output's gradient.
type UnaryAdjoint<B, S> = fn(FloatTensor<B>, S, FloatTensor<B>) -> FloatTensor<B>;

impl<B: Backend, S: Clone + Debug + Send + 'static> Backward<B, 1> for Unary<S> {
    /// The input, the setting and the operation's adjoint.
    type State = (NodeId, S, UnaryAdjoint<B, S>);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (x, setting, adjoint) = ops.state;
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(x);
        let grad = grads.consume::<B>(&ops.node);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B, 1>(parents, [adjoint(x, setting, grad)], grads);
    }
}

/// Records an operation of one input, which is kept for its adjoint.
pub(crate) fn unary<B: Backend, C: CheckpointStrategy, S: Clone + Debug + Send + 'static>(
    x: FloatTensor<Autodiff<B, C>>,
    setting: S,
    value: fn(FloatTensor<B>, S) -> FloatTensor<B>,
    adjoint: UnaryAdjoint<B, S>,
) -> FloatTensor<Autodiff<B, C>> {
    let rule = Unary(PhantomData);
    match rule.prepare::<C>([x.node()]).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let saved = (prep.checkpoint(&x), setting.clone(), adjoint);
            prep.finish(saved, value(x.into_primitive(), setting))
        }
        OpsKind::UnTracked(prep) => prep.finish(value(x.into_primitive(), setting)),
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
        let [on_x, on_gamma] = ops.parents;
        let so_far = on_x.as_ref().and_then(|node| {
            let leaf = node.parents.is_empty();
            gradient_so_far(node.id, leaf, || grads.consume::<B>(node))
        });
        let asked = on_gamma.is_some();
        let (d_x, d_gamma) = B::norm_adjoint(x, gamma, epsilon, centred, grad, so_far, asked);
        let [on_x, on_gamma] = [on_x, on_gamma].map(|node| node.map(|node| node.id));
        register::<B, 1>([on_x], [d_x], grads);
        if let Some(d_gamma) = d_gamma {
            register::<B, 1>([on_gamma], [d_gamma], grads);
        }
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
struct CausalConv;

impl<B: FusedAdjoint> Backward<B, 2> for CausalConv {
    /// x, weight, rows of history, and whether SiLU follows.
    type State = (NodeId, FloatTensor<B>, usize, bool);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (x, weight, past, silu) = ops.state;
        let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(x);
        let grad = grads.consume::<B>(&ops.node);
        let inputs = B::causal_conv_adjoint(x, weight, past, silu, grad);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B, 2>(parents, inputs, grads);
    }
}

#[derive(Debug)]
struct CrossEntropy;

impl<B: FusedAdjoint> Backward<B, 1> for CrossEntropy {
    /// Logits, targets and nats.
    type State = (NodeId, IntTensor<B>, FloatTensor<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (logits, targets, nats) = ops.state;
        let logits = checkpointer.retrieve_node_output::<FloatTensor<B>>(logits);
        let grad = grads.consume::<B>(&ops.node);
        let input = B::cross_entropy_adjoint(logits, targets, nats, grad);
        let parents = ops.parents.map(|parent| parent.map(|node| node.id));
        register::<B, 1>(parents, [input], grads);
    }
}

impl<B: FusedBackend + FusedAdjoint, C: CheckpointStrategy> FusedBackend for Autodiff<B, C> {
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        unary::<B, C, _>(
            x,
            (),
            |x, ()| B::fused_gelu(x),
            |x, (), grad| B::gelu_adjoint(x, grad),
        )
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
        unary::<B, C, _>(x, bound, B::fused_soft_bound, B::soft_bound_adjoint)
    }

    fn fused_cayley(z: FloatTensor<Self>) -> FloatTensor<Self> {
        unary::<B, C, _>(
            z,
            (),
            |z, ()| B::fused_cayley(z),
            |z, (), grad| B::cayley_adjoint(z, grad),
        )
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

    fn fused_causal_conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        past: usize,
        silu: bool,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let weight = weight.into_primitive();
        match CausalConv.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let saved = (prep.checkpoint(&x), weight.clone(), past, silu);
                let y = B::fused_causal_conv(x.into_primitive(), weight, past, silu);
                prep.finish(saved, y)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::fused_causal_conv(x.into_primitive(), weight, past, silu))
            }
        }
    }

    fn fused_cross_entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let node = logits.node();
        match CrossEntropy.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let kept = prep.checkpoint(&logits);
                let nats = B::fused_cross_entropy(logits.into_primitive(), targets.clone());
                prep.finish((kept, targets, nats.clone()), nats)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::fused_cross_entropy(logits.into_primitive(), targets))
            }
        }
    }
}
