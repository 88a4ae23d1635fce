//! One node a linear layer: it keeps the rows and the weights as they were multiplied.

use burn::backend::{
    Autodiff, TensorMetadata,
    autodiff::{
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind},
    },
    tensor::FloatTensor,
};
use burn::tensor::DType;

use crate::backend::{ProductAdjoint, ProductBackend, Sides, rounded};

#[derive(Debug)]
struct Linear;

impl<B: ProductAdjoint> Backward<B, 2> for Linear {
    /// Rows and weights of one element type, each if the other's gradient is asked for, and the type of the weight.
    type State = (Option<FloatTensor<B>>, Option<FloatTensor<B>>, DType);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (x, weight, dtype) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let [on_x, on_weight] = ops.parents;
        if let (Some(node), Some(weight)) = (on_x, weight) {
            let like = grad.dtype();
            let d_x = B::product(grad.clone(), weight, Sides::RightTransposed, like);
            grads.register::<B>(node.id, d_x);
        }
        if let (Some(node), Some(x)) = (on_weight, x) {
            let d_weight = B::product(x, grad, Sides::LeftTransposed, dtype);
            grads.register::<B>(node.id, d_weight);
        }
    }
}

impl<B: ProductBackend + ProductAdjoint, C: CheckpointStrategy> ProductBackend for Autodiff<B, C> {
    fn linear_product(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let (x_asked, weight_asked) = (x.is_tracked(), weight.is_tracked());
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let (dtype, kept) = (x.dtype(), weight.dtype());
        let weight = rounded::<B>(weight, dtype);
        let multiply = |x, weight| B::product(x, weight, Sides::Plain, dtype);
        match Linear.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = multiply(x.clone(), weight.clone());
                let saved = (weight_asked.then_some(x), x_asked.then_some(weight));
                prep.finish((saved.0, saved.1, kept), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(multiply(x, weight)),
        }
    }
}
